"""Hypothesis against everything that reads what somebody else wrote, for as long as one likes.

    PSYNC_FUZZ_SECONDS=600 python -m pytest -m long -s tests/attacks/test_fuzz.py

Each test goes on for so many seconds, ten by default, and prints how many examples that were. What
each one checks: nothing but the error that is meant for it is raised, and what was understood can
be said again and means the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from tests.attacks.mutate import FRAMES

from psync.config import client_schema, load_client, load_server, values
from psync.config.layers import text_layer
from psync.daemon.access import AccessList
from psync.daemon.enroll import InvitedPairing
from psync.daemon.invitations import Invitations
from psync.errors import ConfigError, ProtocolError, PsyncError, UsageError
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, decode, encode
from psync.terminal import TerminalFilter
from psync.text import printable
from psync.transport import enrolment
from psync.transport.authority import Authority
from psync.transport.identity import ClientIdentity
from psync.transport.invitation import Invitation, read_invitation, write_invitation
from psync.transport.whereabouts import decode_whereabouts

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

SECONDS = float(os.environ.get("PSYNC_FUZZ_SECONDS", "10"))
BATCH = 1000

FACTS = HostFacts("handheld", "Linux", "x86_64", b"/projects", None, "/bin/psync-server", "0.1")


def fuzz(name: str, strategy: st.SearchStrategy[Any], check: Callable[[Any], bool]) -> None:
    """Check examples until the time is over; ``check`` returns whether an example was good."""
    until = time.monotonic() + SECONDS
    counts = {True: 0, False: 0}
    batch = 0
    while time.monotonic() < until:

        @seed(batch)
        @settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(strategy)
        def run(example: Any) -> None:
            counts[check(example)] += 1

        run()
        batch += 1
    print(f"\nfuzz {name}: {sum(counts.values())} examples, {counts[True]} of them good")
    assert sum(counts.values())


def nearly(goods: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return strategy for bytes that were good, with some of them changed, moved or repeated."""

    @st.composite
    def spoil(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(goods))
        for _ in range(draw(st.integers(0, 4))):
            at = draw(st.integers(0, len(data)))
            gone = draw(st.integers(0, min(16, len(data) - at)))
            put = draw(st.binary(max_size=16) | st.sampled_from(_PIECES))
            data[at : at + gone] = put * draw(st.sampled_from((1, 1, 1, 50)))
        return bytes(data)

    return spoil()


_PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"-1",
    b"1e308",
    b"9" * 30,
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\0",
    b"\n",
    b"..",
    b"/",
    b"=",
    b"'''",
    b"\x1b[",
    b"\x9b",
    b"\xe2\x80\xae",
]

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.sampled_from(["", "..", "-e", "AA==", "/x", "SIGKILL", "0123456789abcdef", "running"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


# -- the protocol ---------------------------------------------------------------------------------


def reads_frame(frame: bytes) -> bool:
    try:
        message = decode(frame)
    except ProtocolError as error:
        assert len(error.message) < 1000
        return False
    if message is not None:
        assert decode(encode(message)) == message
    return True


@st.composite
def typed_frames(draw: st.DrawFn) -> bytes:
    """Messages with the right fields and any values."""
    kind = draw(st.sampled_from(sorted(m.CONTROL_TYPES)))
    fields = m.CONTROL_TYPES[kind].__struct_fields__
    body = {name: draw(JSON) for name in draw(st.sets(st.sampled_from(fields)))}
    return HEADER.pack(kind, 0, 0, 0) + json.dumps(body).encode()


def test_decoder() -> None:
    strategy = st.binary(max_size=200) | nearly(st.sampled_from(FRAMES)) | typed_frames()
    fuzz("decoder", strategy, reads_frame)


# -- pairing --------------------------------------------------------------------------------------


def test_pairing_endpoint(tmp_path: Path) -> None:
    """What a stranger sends while an invitation is outstanding: nobody gets in."""
    paths = ServerPaths.from_environ({"PSYNC_SERVER_HOME": str(tmp_path / "home")})
    os.makedirs(paths.data, 0o700)
    Authority.load_or_create(paths.ca)
    invitations = Invitations(paths.invitations)
    pairing = InvitedPairing(
        paths, invitations, listen_info=lambda: (7433, ("127.0.0.1:7433",)), facts=lambda: FACTS
    )
    identity = ClientIdentity.load_or_create(str(tmp_path / "identity"))
    request = enrolment.EnrolRequest(
        name="desk", client_id=identity.client_id, csr=identity.csr("desk")
    )
    good = enrolment.encode(enrolment.InvitedRequest(secret="0" * 32, request=request))
    loop = asyncio.new_event_loop()

    def ask(payload: bytes) -> bool:
        if not invitations.open:  # too many were wrong, as it should be
            invitations.create(life=600.0)
        answer, let_in = loop.run_until_complete(pairing.answer(payload, "192.0.2.9"))
        assert not let_in
        with pytest.raises(PsyncError):
            enrolment.decode_answer(answer)
        return b"secret" in payload and payload.startswith(b"{")

    strategy = (
        st.binary(max_size=300)
        | nearly(st.just(good))
        | JSON.map(lambda value: json.dumps(value).encode())
        | st.builds(
            lambda secret, value: json.dumps(
                {"version": 1, "secret": secret, "request": value}
            ).encode(),
            st.text(max_size=40) | st.from_regex(r"\A[0-9a-f]{32}\Z"),
            JSON,
        )
    )
    try:
        fuzz("pairing endpoint", strategy, ask)
    finally:
        loop.close()
    assert AccessList(paths.clients).clients() == ()


@st.composite
def invitations_near(draw: st.DrawFn) -> str:
    host = draw(st.sampled_from(["127.0.0.1", "a.example", "::1"]))
    text = write_invitation(
        Invitation(((host, draw(st.integers(1, 65535))),), bytes(32), bytes(16))
    )
    at = draw(st.integers(0, len(text)))
    put = draw(st.text(max_size=4) | st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=4))
    gone = draw(st.integers(0, 8))
    return text[:at] + put + text[at + gone :]


def reads_invitation(text: str) -> bool:
    try:
        invitation = read_invitation(text)
    except UsageError as error:
        assert printable(error.message) == error.message
        return False
    assert read_invitation(write_invitation(invitation)) == invitation
    return True


def test_invitations() -> None:
    strategy = (
        st.text(max_size=300)
        | st.text("abcdefghijklmnopqrstuvwxyz234567=-", max_size=300).map("psync1-".__add__)
        | invitations_near()
    )
    fuzz("invitations", strategy, reads_invitation)


NONCE = "0123456789abcdef"


def reads_answer(output: bytes) -> bool:
    try:
        payload = enrolment.unframe(output, NONCE)
    except ProtocolError as error:
        assert printable(str(error)) == str(error)
        return False
    for read in (enrolment.decode_answer, enrolment.decode_request, enrolment.decode_invited):
        try:
            read(payload)
        except PsyncError as error:
            assert printable(error.message) == error.message
    try:
        decode_whereabouts(payload)
    except PsyncError as error:
        assert printable(error.message) == error.message
    return True


def test_enrolment_frames() -> None:
    answer = enrolment.encode(
        enrolment.EnrolAnswer(
            client_cert=b"c",
            ca_cert=b"a",
            server_name="x.psync",
            port=1,
            listen=("127.0.0.1:1",),
            facts=FACTS,
        )
    )
    refused = enrolment.encode(enrolment.EnrolRefused(code="trust", message="no\x1b", hint="\n"))
    payloads = (
        nearly(st.sampled_from([answer, refused]))
        | st.binary(max_size=200)
        | JSON.map(lambda value: json.dumps({"type": "answer", "facts": value}).encode())
    )
    framed = payloads.map(lambda payload: enrolment.frame(NONCE, payload))
    strategy = framed | nearly(framed) | st.binary(max_size=300)
    fuzz("enrolment frames", strategy, reads_answer)


# -- files ----------------------------------------------------------------------------------------

CLIENT = b"""\
target = "a"
[targets.a]
host = "me@host"
ssh = "ssh -p 22 -i 'my key'"
connect = "direct"
address = "[::1]:7433"
[sync]
include = ["data", "x/y"]
[run]
env = { A = "b", "C D" = "" }
on_disconnect = "stop:5m"
overflow = "drop"
assets = ["a"]
"""

SERVER = b"""\
listen = ["127.0.0.1:0", "[::1]:7433"]
origins = ["https://a.example"]
projects = "~/p"
log_keep = "64MiB"
[limits]
handshake = "5s"
message = "256KiB"
words = 10
[retention]
age = "2d"
size = 4096
"""


def reads_client_file(data: bytes) -> bool:
    try:
        layer = text_layer(data, "psync.toml", client_schema(values.command, "/home/me"))
    except ConfigError as error:
        assert error.message.startswith("psync.toml")
        return False
    for key in layer.values:
        assert re.fullmatch(r"psync\.toml:\d+", layer.origin(key))
    return True


TOML = st.text("abt=[]{}\"'.,#-_0123456789 \n\\", max_size=80).map(str.encode)


def test_client_configuration() -> None:
    strategy = nearly(st.just(CLIENT)) | st.binary(max_size=200) | TOML
    fuzz("client configuration", strategy, reads_client_file)


def test_whole_configuration(tmp_path: Path) -> None:
    """With files on disk, all layers and all values."""
    project = tmp_path / "project"
    home = tmp_path / "home"
    (home / ".config/psync").mkdir(parents=True)
    project.mkdir()
    environ = {"HOME": str(home)}

    def load(example: tuple[bytes, bytes, bytes]) -> bool:
        user, shared, server = example
        (home / ".config/psync/config.toml").write_bytes(user)
        (project / "psync.toml").write_bytes(shared)
        (home / ".config/psync/server.toml").write_bytes(server)
        good = True
        try:
            config = load_client(project_root=os.fsencode(project), environ=environ)
            config.find()
            config.disconnect_grace(detached=False)
        except UsageError:
            good = False
        try:
            load_server(environ=environ)
        except UsageError:
            good = False
        return good

    strategy = st.tuples(
        nearly(st.just(CLIENT)), nearly(st.sampled_from([CLIENT, b""])), nearly(st.just(SERVER))
    )
    fuzz("whole configuration", strategy, load)


# -- the terminal ---------------------------------------------------------------------------------

HARMLESS = re.compile(rb"(?:[\t\n -~\x80-\xff]|\r{1,2}\n|\x1b\[[0-9;:]*m)*")


def filters(example: tuple[bytes, list[int]]) -> bool:
    data, cuts = example
    whole = TerminalFilter()
    shown = whole.feed(data) + whole.finish()
    assert HARMLESS.fullmatch(shown), shown
    text = shown.decode()  # nothing but UTF-8
    assert not re.search("[\x80-\x9f\u202a-\u202e\u2066-\u2069]", text)
    piecewise = TerminalFilter()
    got, at = b"", 0
    for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
        got += piecewise.feed(data[at:cut])
        at = cut
    got += piecewise.feed(data[at:]) + piecewise.finish()
    assert got == shown
    again = TerminalFilter()
    assert again.feed(shown) + again.finish() == shown
    return shown == data


SCREEN = st.lists(
    st.sampled_from(
        [
            b"\x1b",
            b"[",
            b"]",
            b"0;",
            b"31",
            b":",
            b"m",
            b"K",
            b"\x07",
            b"\r",
            b"\n",
            b"\xc2",
            b"\x9b",
            b"\xe2\x80",
            b"\xae",
            b"\xf0\x9f\x98",
            b"\x80",
            b"\xed\xa0\x80",
            b"text",
            b"\x1bP",
            b"\x7f",
        ]
    )
    | st.binary(max_size=4)
    | st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    max_size=40,
).map(b"".join)


def test_terminal_filter() -> None:
    strategy = st.tuples(
        SCREEN | st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8)
    )
    fuzz("terminal filter", strategy, filters)
