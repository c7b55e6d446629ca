"""A daemon that says what it likes while it is paired with: by invitation, and over ssh."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.attacks.rogue import NASTY, Rogue, nasty_facts
from tests.attacks.test_rogue import check, check_harmless
from tests.support.field import Field

from psync.model import HostFacts
from psync.transport.enrolment import (
    EnrolAnswer,
    EnrolRefused,
    decode_invited,
    encode,
)
from psync.transport.invitation import Invitation, write_invitation


class RoguePairing:
    """What a daemon with an outstanding invitation answers; see ``transport.strangers.Pairing``.

    Attributes:
        answers: with, when it is set; else properly, but for ``instead``.
        instead: fields of the answer.
        asked: what clients sent.
    """

    open = True

    def __init__(self, rogue: Rogue) -> None:
        self.ca = rogue.authority.certificate
        self.answers: bytes | None = None
        self.instead: dict[str, Any] = {}
        self.asked: list[bytes] = []
        self._rogue = rogue

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
        self.asked.append(payload)
        if self.answers is not None:
            return self.answers, True
        authority = self._rogue.authority
        signed = authority.sign_client(decode_invited(payload).request.csr, "desk")
        answer = EnrolAnswer(
            client_cert=signed.pem,
            ca_cert=authority.certificate,
            server_name=authority.server.name,
            port=self._rogue.port,
            listen=(f"127.0.0.1:{self._rogue.port}",),
            facts=nasty_facts(),
        )
        return encode(msgspec.structs.replace(answer, **self.instead)), True


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    with Field(sshd=False) as field, Rogue(field, pairing=RoguePairing) as rogue:
        yield rogue


@pytest.fixture
def pairing(rogue: Rogue) -> RoguePairing:
    assert isinstance(rogue.pairing, RoguePairing)
    return rogue.pairing


def invitation(rogue: Rogue, *, ca: bytes | None = None) -> str:
    der = ssl.PEM_cert_to_DER_cert(rogue.authority.certificate.decode())
    digest = hashlib.sha256(der).digest() if ca is None else ca
    return write_invitation(Invitation((("127.0.0.1", rogue.port),), digest, bytes(16)))


def targets(field: Field) -> set[str]:
    return set(os.listdir(field.data / "targets"))


def test_what_it_calls_itself(rogue: Rogue, pairing: RoguePairing) -> None:
    field = rogue.field
    before = targets(field)
    done = field.psync("pair", "--invite", invitation(rogue))
    said = check(done)
    assert done.returncode == 0
    assert "paired with" in said
    (name,) = targets(field) - before
    assert name.replace("-", "").replace(".", "").replace("_", "").isalnum(), name
    for words in (["targets"], ["run", "--on", name, "--no-sync", "true"], ["ps", "--on", name]):
        check(field.psync(*words), None)


@pytest.mark.parametrize(
    "hostname",
    [
        "../../../etc",
        "",
        ".",
        "..",
        "local",
        "-oProxyCommand=x",
        "a" * 5000,
        "rogue",
        "\0",
        "LOCAL",
    ],
)
def test_host_names_that_become_targets(rogue: Rogue, pairing: RoguePairing, hostname: str) -> None:
    field = rogue.field
    before, config = targets(field), field.config.read_text()
    facts = HostFacts(hostname, "Linux", "x86_64", b"/p", None, "/bin/x", "0")
    pairing.instead = {"facts": facts}
    done = field.psync("pair", "--invite", invitation(rogue))
    assert done.returncode == 0, done.stderr
    new = targets(field) - before
    assert all(len(name) < 60 and name[0].isalnum() for name in new), new
    assert "local" not in new
    assert field.config.read_text().startswith(config.split("address")[0])  # others stay


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"server_name": "another.psync"}, "another CA than its own"),
        ({"server_name": "-x"}, "damaged"),
        ({"server_name": NASTY}, "damaged"),
        ({"ca_cert": b"no certificate"}, "another CA than its own"),
        ({"client_cert": b"no certificate"}, ""),
        ({"client_cert": NASTY.encode() * 50}, ""),
        ({"port": 70000}, "damaged"),
        ({"listen": (NASTY,) * 65}, "damaged"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_answers_that_are_none(
    rogue: Rogue, pairing: RoguePairing, instead: dict[str, Any], words: str
) -> None:
    """Whatever it says is wrong is said here, at once or when it is used."""
    field = rogue.field
    pairing.instead = instead
    done = field.psync("pair", "--invite", invitation(rogue), "--name", "new")
    said = check(done)
    if words:
        assert words in said
        assert done.returncode == 125
        assert "new" not in targets(field)
    else:
        used = field.psync("run", "--on", "new", "--no-sync", "true")
        check(used)
        assert used.returncode == 125


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 1000,
        b"[" * 60_000,
        b'{"type":"answer"}',
        json.dumps({"type": "refused", "code": NASTY[:60], "message": NASTY * 40}).encode(),
        encode(EnrolRefused(code="refused", message=(NASTY * 60)[:4000], hint=(NASTY * 60)[:4000])),
        encode(EnrolRefused(code="interrupted", message="x", hint="y")),
        b"x" * 300_000,
    ],
    ids=range(8),
)
def test_answers_and_refusals(rogue: Rogue, pairing: RoguePairing, answer: bytes) -> None:
    field = rogue.field
    before = targets(field)
    pairing.answers = answer
    done = field.psync("pair", "--invite", invitation(rogue))
    check(done)
    assert done.returncode != 0
    assert targets(field) == before


def test_another_daemon_than_the_inviting_one_is_told_no_secret(
    rogue: Rogue, pairing: RoguePairing
) -> None:
    done = rogue.field.psync("pair", "--invite", invitation(rogue, ca=bytes(32)))
    said = check(done)
    assert "the secret was not sent" in said
    assert pairing.asked == []


# -- over ssh -------------------------------------------------------------------------------------

FAKE_SERVER = """\
import base64, sys
nonce = next(word for word in sys.argv if word.startswith("--nonce=")).partition("=")[2]
if "--restrict" in sys.argv: sys.exit(0)
sys.stderr.write({noise!r})
sys.stdout.buffer.write({noise!r}.encode())
payload = base64.b64encode({payload!r}).decode()
print("\\npsync-answer-begin", nonce)
print(payload)
print("psync-answer-end", nonce)
"""


@pytest.mark.parametrize(
    "payload",
    [
        encode(EnrolRefused(code="trust", message=NASTY * 20, hint=NASTY * 20)),
        b'{"type":"answer"}',
        b"\x1b]0;x\x07" * 500,
        b"",
    ],
    ids=["refused", "damaged", "garbage", "nothing"],
)
def test_what_psync_server_says_over_ssh(tmp_path: Path, payload: bytes) -> None:
    """Another user's login, a honeypot: ssh leads there, and something there answers."""
    fake = tmp_path / "psync-server"
    program = FAKE_SERVER.format(noise=NASTY * 300, payload=payload)
    fake.write_text(f"#!/usr/bin/env python3\n{program}")
    fake.chmod(0o755)
    with Field() as field:
        assert field.sshd is not None
        before = sorted(field.home.rglob("*"))
        done = field.psync("pair", field.sshd.alias, "--name", "there", "--server", str(fake))
        check(done)
        assert done.returncode not in (0, None)
        assert not field.config.exists()
        assert not [path for path in field.home.rglob("*") if path.name == "there"], before


def test_a_login_shell_that_says_nasty_things(tmp_path: Path) -> None:
    with Field(noise=NASTY.replace("\0", "") * 20) as field:
        assert field.sshd is not None
        done = field.psync("pair", field.sshd.alias, "--name", "there")
        check_harmless(done.stderr)
        done = field.psync("run", "--on", "there", "true")
        check_harmless(done.stderr)
