"""Pairing with an invitation, against a real listener and against people in between."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.client.inviting import FACTS, Host, http, in_between, request
from tests.support.waiting import wait_until
from tests.transport.peers import listening, new_key, self_signed, store

from psync.client import invited as module
from psync.client.invited import introduce
from psync.client.inviter import DoorClosed
from psync.daemon.access import AccessList
from psync.errors import ConnectionLost, ProtocolError, PsyncError, Refused, WrongDaemon
from psync.transport import certificates
from psync.transport.enrolment import (
    MAX_PAYLOAD,
    EnrolAnswer,
    EnrolRefused,
    EnrolRequest,
    decode_invited,
    encode,
)
from psync.transport.gate import GateLimits
from psync.transport.identity import ClientIdentity
from psync.transport.invitation import Invitation
from psync.transport.tls import fingerprint


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "there")


@pytest.fixture
def asked(tmp_path: Path) -> EnrolRequest:
    return request(tmp_path / "identity")


async def fails(invitation: Invitation, asked: EnrolRequest) -> PsyncError:
    with pytest.raises(PsyncError) as caught:
        await introduce(invitation, asked)
    return caught.value


def clients(host: Host) -> list[str]:
    return [one.name for one in AccessList(host.paths.clients).clients()]


async def test_a_stranger_becomes_a_client(host: Host, asked: EnrolRequest) -> None:
    async with host.listening() as port:
        invitation = host.invite(port)
        brought = await introduce(invitation, asked)
        assert brought.address == ("127.0.0.1", port)
        answer = brought.answer
        assert ssl.PEM_cert_to_DER_cert(answer.ca_cert.decode()) == host.der
        assert answer.server_name == host.authority.server.name
        assert answer.facts == FACTS
        (client,) = AccessList(host.paths.clients).clients()
        der = ssl.PEM_cert_to_DER_cert(answer.client_cert.decode())
        assert client.fingerprint == fingerprint(der)
        # used up: the door is closed again
        assert isinstance(await fails(invitation, asked), DoorClosed)


async def test_a_replay_while_another_invitation_is_outstanding(
    host: Host, asked: EnrolRequest
) -> None:
    async with host.listening() as port:
        invitation = host.invite(port)
        await introduce(invitation, asked)
        host.invite(port)
        error = await fails(invitation, asked)
        assert isinstance(error, Refused)
        assert "was used already" in error.message
        assert len(host.invitations.outstanding()) == 1


async def test_a_guess(host: Host, asked: EnrolRequest) -> None:
    async with host.listening() as port:
        good = host.invite(port)
        error = await fails(Invitation(good.addresses, good.ca, bytes(16)), asked)
        assert "no such invitation" in error.message
        assert clients(host) == []
        await introduce(good, asked)


async def test_two_clients_at_the_same_time(host: Host, tmp_path: Path) -> None:
    one, two = (request(tmp_path / name, name) for name in ("one", "two"))
    async with host.listening() as port:
        for _ in range(5):
            invitation = host.invite(port)
            results = await asyncio.gather(
                introduce(invitation, one), introduce(invitation, two), return_exceptions=True
            )
            (lost,) = (result for result in results if isinstance(result, BaseException))
            assert isinstance(lost, Refused)
            assert "used" in lost.message
    assert clients(host)


async def test_too_many_attempts(host: Host, asked: EnrolRequest) -> None:
    async with host.listening(limits=GateLimits(attempts=0.001)) as port:
        good = host.invite(port)
        await fails(Invitation(good.addresses, good.ca, bytes(16)), asked)
        error = await fails(good, asked)
        assert "too many strangers" in error.message
        assert len(host.invitations.outstanding()) == 1


# -- people in between -----------------------------------------------------------------------


async def test_the_right_ca_is_shown_by_somebody_without_its_key(
    host: Host, asked: EnrolRequest, tmp_path: Path
) -> None:
    """The CA's certificate is no secret: anybody can show it."""
    own = self_signed(tmp_path / "own", time.time())
    serve, heard = in_between(own.cert, own.key, http(host.authority.certificate))
    with listening(serve) as peer:
        invitation = host.invite(peer.port)
        error = await fails(invitation, asked)
        assert isinstance(error, WrongDaemon)
        assert "the secret was not sent" in error.message
    assert len(heard) == 1  # the question for the CA; the second connection never got to TLS's end
    assert invitation.secret.hex().encode() not in b"".join(heard)
    assert len(host.invitations.outstanding()) == 1


async def test_a_paired_client_plays_the_daemon(
    host: Host, asked: EnrolRequest, tmp_path: Path
) -> None:
    """Its certificate is from the right CA, but is a client's."""
    identity = ClientIdentity.load_or_create(str(tmp_path / "evil"))
    signed = host.authority.sign_client(identity.csr("x"), host.authority.server.name)
    (tmp_path / "evil.pem").write_bytes(signed.pem)
    serve, heard = in_between(
        str(tmp_path / "evil.pem"), identity.key, http(host.authority.certificate)
    )
    with listening(serve) as peer:
        assert isinstance(await fails(host.invite(peer.port), asked), WrongDaemon)
    assert len(heard) == 1


async def test_a_certificate_of_the_right_name_from_another_ca(
    host: Host, asked: EnrolRequest, tmp_path: Path
) -> None:
    ca_key, key, now = new_key(), new_key(), time.time()
    ca = certificates.sign_ca(ca_key, "other", now)
    name = host.authority.server.name
    made = certificates.sign_server(ca_key, ca, key.public_key(), name, now)
    files = store(tmp_path / "other", made, key)
    serve, heard = in_between(files.cert, files.key, http(host.authority.certificate))
    with listening(serve) as peer:
        assert isinstance(await fails(host.invite(peer.port), asked), WrongDaemon)
    assert len(heard) == 1


async def test_an_expired_certificate(host: Host, asked: EnrolRequest, tmp_path: Path) -> None:
    from cryptography import x509

    from psync.transport.keyfile import load_key

    ca_key = load_key(f"{host.paths.ca}/ca-key.pem")
    ca = x509.load_pem_x509_certificate(host.authority.certificate)
    key = new_key()
    past = certificates.EARLIEST - 800 * 86400
    made = certificates.sign_server(ca_key, ca, key.public_key(), host.authority.server.name, past)
    files = store(tmp_path / "old", made, key)
    serve, heard = in_between(files.cert, files.key, http(host.authority.certificate))
    with listening(serve) as peer:
        error = await fails(host.invite(peer.port), asked)
    if made.not_valid_after_utc.timestamp() < time.time():
        assert isinstance(error, WrongDaemon)
        assert len(heard) == 1


# -- daemons that do not keep to it -----------------------------------------------------------


class Rogue:
    """A daemon that answers what it likes."""

    open = True

    def __init__(self, host: Host, answer: bytes) -> None:
        self.ca = host.authority.certificate
        self._answer = answer
        self.heard: list[bytes] = []

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
        self.heard.append(payload)
        return self._answer, True


def answer_of(host: Host, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "client_cert": b"-----BEGIN",
        "ca_cert": host.authority.certificate,
        "server_name": host.authority.server.name,
        "port": 1,
        "listen": (),
        "facts": FACTS,
    }
    return encode(EnrolAnswer(**{**fields, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer", [b"", b"{}", b"\xff", b"[" * 60_000, b'{"type":"answer"}', b"x" * MAX_PAYLOAD]
)
async def test_answers_that_are_none(host: Host, asked: EnrolRequest, answer: bytes) -> None:
    rogue = Rogue(host, answer)
    async with host.listening(rogue) as port:
        invitation = host.invite(port)
        assert isinstance(await fails(invitation, asked), (ProtocolError, ConnectionLost))
    (payload,) = rogue.heard
    assert decode_invited(payload).secret == invitation.secret.hex()
    assert decode_invited(payload).request == asked


async def test_an_answer_with_another_ca(host: Host, asked: EnrolRequest, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    for change in (
        {"ca_cert": other.authority.certificate},
        {"ca_cert": b"none"},
        {"ca_cert": b"\xff"},
        {"server_name": other.authority.server.name},
    ):
        async with host.listening(Rogue(host, answer_of(host, **change))) as port:
            error = await fails(host.invite(port), asked)
        assert isinstance(error, ProtocolError), change


async def test_only_what_was_verified_is_kept(
    host: Host, asked: EnrolRequest, tmp_path: Path
) -> None:
    other = Host(tmp_path / "other").authority.certificate
    for more in (b"\n# and a text\n", other):
        padded = host.authority.certificate + more
        async with host.listening(Rogue(host, answer_of(host, ca_cert=padded))) as port:
            try:
                kept = (await introduce(host.invite(port), asked)).answer.ca_cert
            except ProtocolError:
                continue
        assert kept == ssl.DER_cert_to_PEM_cert(host.der).encode()


async def test_words_with_control_sequences(host: Host, asked: EnrolRequest) -> None:
    words = EnrolRefused(code="refused", message="\x1b]0;gone\x07", hint="\x1b[2J")
    async with host.listening(Rogue(host, encode(words))) as port:
        error = await fails(host.invite(port), asked)
    assert "\x1b" not in str(error)


async def test_a_daemon_that_hangs_up_on_the_secret(host: Host, asked: EnrolRequest) -> None:
    class Leaving(Rogue):
        async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
            raise ProtocolError("no")

    async with host.listening(Leaving(host, b"")) as port:
        error = await fails(host.invite(port), asked)
    assert isinstance(error, ConnectionLost)
    assert "may be used up" in error.message


async def test_a_daemon_that_says_nothing(
    host: Host, asked: EnrolRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Rogue):
        async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(module, "ASK_TIMEOUT", 0.3)
    async with host.listening(Silent(host, b"")) as port:
        error = await fails(host.invite(port), asked)
    assert isinstance(error, ConnectionLost)
    assert "may be used up" in error.message


def sockets() -> set[str]:
    """The sockets of this process."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {name for name in found if name.startswith("socket:")}


async def test_cancelling_leaves_nothing_open(host: Host, asked: EnrolRequest) -> None:
    reached = asyncio.Event()

    class Silent(Rogue):
        async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

    before = sockets()
    async with host.listening(Silent(host, b"")) as port:
        task = asyncio.create_task(introduce(host.invite(port), asked))
        async with asyncio.timeout(20):
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    await asyncio.to_thread(wait_until, lambda: not sockets() - before)
