"""What the daemon does with what strangers send: only a good invitation pairs, and it does once."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from psync.daemon.access import AccessList
from psync.daemon.enroll import InvitedPairing
from psync.daemon.invitations import MOST, WRONG, Invitations
from psync.errors import ProtocolError, PsyncError, Refused, TrustError
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.transport.authority import Authority
from psync.transport.enrolment import (
    MAX_PAYLOAD,
    EnrolAnswer,
    EnrolRequest,
    InvitedRequest,
    decode_answer,
    encode,
)
from psync.transport.identity import ClientIdentity
from psync.transport.tls import fingerprint

FACTS = HostFacts("handheld", "Linux", "x86_64", b"/projects", None, "/bin/psync-server", "0.1")
WHERE = "192.0.2.9"


class World:
    """A daemon's directories, its pairing, and a client."""

    def __init__(self, directory: str) -> None:
        self.paths = ServerPaths.from_environ({"PSYNC_SERVER_HOME": f"{directory}/home"})
        os.makedirs(self.paths.data, 0o700)
        Authority.load_or_create(self.paths.ca)
        self.invitations = Invitations(self.paths.invitations)
        self.pairing = InvitedPairing(
            self.paths,
            self.invitations,
            listen_info=lambda: (7433, ("127.0.0.1:7433",)),
            facts=lambda: FACTS,
        )
        self.identity = ClientIdentity.load_or_create(f"{directory}/identity")
        self.request = EnrolRequest(
            name="desk", client_id=self.identity.client_id, csr=self.identity.csr("desk")
        )

    def payload(self, secret: bytes) -> bytes:
        return encode(InvitedRequest(secret=secret.hex(), request=self.request))

    def ask(self, payload: bytes) -> tuple[bytes, bool]:
        return asyncio.run(self.pairing.answer(payload, WHERE))

    def refused(self, payload: bytes, *, counts: bool = True) -> PsyncError:
        answer, let_in = self.ask(payload)
        assert let_in is not counts
        with pytest.raises(PsyncError) as caught:
            decode_answer(answer)
        return caught.value

    @property
    def clients(self) -> list[str]:
        return [one.name for one in AccessList(self.paths.clients).clients()]

    def audit(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in Path(self.paths.audit).read_bytes().splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def test_an_invitation_pairs_once(world: World) -> None:
    record, secret = world.invitations.create(life=60)
    assert world.pairing.open
    answer, let_in = world.ask(world.payload(secret))
    assert let_in
    paired = decode_answer(answer)
    assert isinstance(paired, EnrolAnswer)
    assert paired.ca_cert == world.pairing.ca
    assert (paired.port, paired.listen, paired.facts) == (7433, ("127.0.0.1:7433",), FACTS)
    (client,) = AccessList(world.paths.clients).clients()
    der = ssl.PEM_cert_to_DER_cert(paired.client_cert.decode())
    assert (client.name, client.fingerprint) == ("desk", fingerprint(der))
    assert (client.via, client.address, client.role, client.projects) == (
        *("invitation", WHERE, "run", ()),
    )
    assert not world.pairing.open
    line = world.audit()[-1]
    assert (line["event"], line["client"], line["address"]) == ("paired", "desk", WHERE)
    assert line["reason"] == f"invitation {record.id}"

    error = world.refused(world.payload(secret))
    assert isinstance(error, Refused)
    assert "was used already" in error.message
    assert "psync-server invite" in error.hint


def test_what_the_invitation_says_counts(world: World) -> None:
    _, secret = world.invitations.create(
        life=60, name="tv", role="view", projects=("game-*", "demo-*")
    )
    assert world.ask(world.payload(secret))[1]
    (client,) = AccessList(world.paths.clients).clients()
    assert (client.name, client.role, client.projects) == ("tv", "view", ("game-*", "demo-*"))


def test_an_invitation_is_no_way_out_of_limits(world: World) -> None:
    for role in ("view", "run"):
        _, secret = world.invitations.create(life=60, role=role)
        assert world.ask(world.payload(secret))[1]
    (client,) = AccessList(world.paths.clients).clients()
    assert client.role == "view"


def test_expired_withdrawn_and_invented_ones(world: World) -> None:
    _, expired = world.invitations.create(life=60, now=time.time() - 61)
    record, withdrawn = world.invitations.create(life=60)
    world.invitations.withdraw(record.id)
    world.invitations.create(life=60)
    for secret, words in (
        (expired, "has expired"),
        (withdrawn, "was taken back"),
        (b"0123456789abcdef", "no such invitation"),
    ):
        error = world.refused(world.payload(secret))
        assert isinstance(error, Refused)
        assert words in error.message
    assert world.clients == []


def test_guessing_closes_the_door(world: World) -> None:
    world.invitations.create(life=60, name="desk")
    for number in range(WRONG):
        assert world.pairing.open
        world.refused(world.payload(bytes([number]) * 16))
    assert not world.pairing.open
    line = world.audit()[-1]
    assert (line["event"], line["client"], line["address"]) == ("withdrawn", "desk", WHERE)


async def test_of_two_at_the_same_time_one_is_paired_and_the_other_told(world: World) -> None:
    _, secret = world.invitations.create(life=60)
    payload = world.payload(secret)
    answers = await asyncio.gather(*(world.pairing.answer(payload, WHERE) for _ in range(4)))
    assert sorted(let_in for _, let_in in answers) == [False, False, False, True]
    for answer, let_in in answers:
        if not let_in:
            with pytest.raises(Refused, match="was used already"):
                decode_answer(answer)
    assert world.clients == ["desk"]


# -- after the secret was used up -----------------------------------------------------------


def test_a_request_that_cannot_be_signed_uses_the_invitation_up(world: World) -> None:
    _, secret = world.invitations.create(life=60)
    bad = EnrolRequest(name="desk", client_id=world.identity.client_id, csr=b"-----BEGIN")
    error = world.refused(encode(InvitedRequest(secret=secret.hex(), request=bad)), counts=False)
    assert "is used up" in error.message
    assert "psync-server invite" in error.hint
    assert not world.pairing.open
    assert "was used already" in world.refused(world.payload(secret)).message


def test_nobody_takes_anothers_id(world: World, tmp_path: Path) -> None:
    _, secret = world.invitations.create(life=60)
    other = ClientIdentity.load_or_create(str(tmp_path / "other"))
    stolen = EnrolRequest(name="desk", client_id=world.identity.client_id, csr=other.csr("desk"))
    error = world.refused(encode(InvitedRequest(secret=secret.hex(), request=stolen)), counts=False)
    assert "does not belong to the key" in error.message
    assert world.clients == []


def test_a_ca_that_is_gone(world: World) -> None:
    _, secret = world.invitations.create(life=60)
    os.remove(f"{world.paths.ca}/ca-key.pem")
    error = world.refused(world.payload(secret), counts=False)
    assert isinstance(error, TrustError)
    assert "is used up" in error.message


def test_trouble_with_the_files_is_not_told_to_strangers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = world.invitations.create(life=60)
    os.remove(f"{world.paths.invitations}.lock")
    os.symlink("/dev/null", f"{world.paths.invitations}.lock")
    error = world.refused(world.payload(secret), counts=False)
    assert error.message.startswith("the daemon cannot pair anybody now")
    assert world.paths.data not in str(error)
    assert world.paths.data in caplog.text
    assert world.pairing.open


# -- garbage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"version":1}',
        b'{"version":1,"secret":"","request":{}}',
        b'{"version":1,"version":1}',
        b'{"version":1e400}',
        b'{"version":true}',
        b"[" * MAX_PAYLOAD,
        b'{"version":1,"secret":' + b"[" * 60_000,
        b'{"version":1,"request":' + b'{"request":' * 5_000,
        b'{"version":1,"more":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b" " * (MAX_PAYLOAD + 1),
        b"9" * MAX_PAYLOAD,
    ],
)
def test_garbage(world: World, payload: bytes) -> None:
    world.invitations.create(life=60)
    assert isinstance(world.refused(payload), ProtocolError)
    assert world.pairing.open
    assert world.clients == []


def test_a_valid_request_with_something_wrong_in_it(world: World) -> None:
    _, secret = world.invitations.create(life=60)
    good = json.loads(world.payload(secret))
    for change in (
        {"secret": secret.hex() + "00"},
        {"secret": secret.hex()[:-2]},
        {"secret": secret.hex() + "\n"},
        {"secret": secret.hex().upper() + " "},
        {"secret": list(secret)},
        {"secret": None},
        {"request": None},
        {"request": {**good["request"], "more": 1}},
        {"request": {**good["request"], "csr": "!"}},
        {"request": {**good["request"], "version": 2}},
        {"request": {**good["request"], "client_id": "../../x"}},
        {"request": {**good["request"], "name": ""}},
        {"request": {**good["request"], "name": "x" * 201}},
        {"more": 1},
        {"version": 2},
    ):
        error = world.refused(json.dumps({**good, **change}).encode())
        assert isinstance(error, ProtocolError), change
    # none of it used the invitation up or counted as a guess
    assert world.ask(world.payload(secret))[1]


def test_another_version_is_named(world: World) -> None:
    world.invitations.create(life=60)
    error = world.refused(b'{"version":7,"what":"later"}')
    assert "version 7" in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.fixed_dictionaries(
    {"version": st.just(1) | JSON},
    optional={
        "secret": st.from_regex(r"\A[0-9a-f]{32}\Z") | JSON,
        "request": st.fixed_dictionaries(
            {},
            optional={
                "version": st.just(1) | JSON,
                "name": st.text() | JSON,
                "client_id": st.from_regex(r"\A[a-z]{1,9}-[0-9a-f]{16}\Z") | JSON,
                "csr": st.sampled_from(["", "AAAA", "LS0tLS1CRUdJTg=="]) | JSON,
            },
        )
        | JSON,
        "type": JSON,
    },
)
CHANGES = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(0, 40), st.binary(max_size=8)),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        yield World(directory)


def mutated(payload: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """``payload`` with pieces replaced."""
    for start, length, piece in changes:
        start %= len(payload) + 1
        payload = payload[:start] + piece + payload[start + length :]
    return payload


def fuzz(world: World, payload: bytes) -> None:
    """Whatever it is, it is refused in order, and nobody is paired."""
    if len(world.invitations.outstanding()) < MOST // 2:
        world.invitations.create(life=3600)
    answer, let_in = world.ask(payload)
    assert not let_in
    assert len(answer) <= MAX_PAYLOAD
    with pytest.raises((ProtocolError, Refused)):
        decode_answer(answer)
    assert not os.path.exists(world.paths.clients)


def cases(world: World) -> st.SearchStrategy[bytes]:
    """Noise, JSON of all kinds, JSON that is nearly right, and a right request that is damaged."""
    wrong = world.payload(b"no invitation...")
    return st.one_of(
        st.binary(max_size=2000),
        JSON.map(lambda value: json.dumps(value).encode()),
        FIELDS.map(lambda value: json.dumps(value).encode()),
        CHANGES.map(lambda changes: mutated(wrong, changes)),
    )


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fuzz(shared: World, data: st.DataObject) -> None:
    fuzz(shared, data.draw(cases(shared)))


@pytest.mark.long
@pytest.mark.timeout(1800)
@given(data=st.data())
@settings(max_examples=8_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzz_long(shared: World, data: st.DataObject) -> None:
    fuzz(shared, data.draw(cases(shared)))
