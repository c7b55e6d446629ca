"""Messages that are none: against the decoder, both state machines and a real daemon."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator

import msgspec
import pytest
from tests.attacks.mutate import FACTS, FRAMES, oversized, spoiled
from tests.attacks.raw import RawClient, connected, dial, frame, peak_memory
from tests.support.daemon import TIMEOUT, Home
from tests.support.waiting import wait_until

from psync.errors import ConnectionLost, ProtocolError, PsyncError
from psync.model import RunSpec
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, decode, encode
from psync.protocol.connection import Connection, Side, State, client_hello

QUICK = 3_000
ALL = 100_000

ROOM = 64 << 20
"""Bytes by which the daemon may grow; a defect that keeps frames would take hundreds of them."""


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        home.start()
        yield home


# -- decoder and state machine --------------------------------------------------------------------


def decode_all(frames: Iterator[bytes]) -> tuple[int, int]:
    """Decode frames; return how many were good and bad. Only ``ProtocolError`` may be raised."""
    good = bad = 0
    for piece in frames:
        try:
            message = decode(piece)
        except ProtocolError as error:
            bad += 1
            assert len(error.message) < 1000
            continue
        good += 1
        if message is not None:  # what was understood can be said again, and means the same
            assert decode(encode(message)) == message
    return good, bad


def test_spoiled_messages_raise_only_the_protocol_error() -> None:
    good, bad = decode_all(spoiled(QUICK, seed=11))
    assert bad > QUICK / 3
    assert good > QUICK / 20


def test_oversized_and_deep_messages_raise_only_the_protocol_error() -> None:
    good, _bad = decode_all(oversized())
    assert good <= 2  # data that is just not too large, and a field that is there too often


def machine(side: Side) -> Connection:
    """A connection that is open."""
    ours = (
        client_hello("us")
        if side is Side.CLIENT
        else m.Hello(versions=(1,), software="us", facts=FACTS)
    )
    theirs = (
        client_hello("them")
        if side is Side.DAEMON
        else m.Hello(versions=(1,), software="them", facts=FACTS)
    )
    connection = Connection(side, ours, 0.0)
    assert connection.receive(encode(theirs), 0.0) is not None
    connection.take_outgoing()
    return connection


def feed_all(side: Side, frames: Iterator[bytes]) -> int:
    """Feed frames to one side, anew after each end; return how many ended it."""
    connection = machine(side)
    ended = 0
    for piece in frames:
        connection.receive(piece, 0.0)
        outgoing = connection.take_outgoing()
        assert len(outgoing) <= 1
        if connection.state is State.CLOSED:
            ended += 1
            assert isinstance(connection.failure, PsyncError)
            said = [decode(piece) for piece in outgoing]
            assert all(isinstance(message, m.Error) for message in said)
            assert said or piece[0] == m.Error.TYPE  # a breach is told to the peer
            assert connection.receive(piece, 0.0) is None  # and that was that
            assert connection.take_outgoing() == []
            connection = machine(side)
    return ended


@pytest.mark.parametrize("side", Side)
def test_spoiled_messages_end_a_connection_and_never_raise(side: Side) -> None:
    assert feed_all(side, spoiled(QUICK, seed=12)) > QUICK / 3


@pytest.mark.parametrize("side", Side)
def test_spoiled_first_words(side: Side) -> None:
    for piece in spoiled(QUICK, seed=13):
        connection = Connection(side, client_hello("us"), 0.0)
        connection.take_outgoing()
        connection.receive(piece, 0.0)
        if connection.state is State.OPEN:
            assert connection.peer is not None


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hundred_thousand_spoiled_messages() -> None:
    good, bad = decode_all(spoiled(ALL, seed=21))
    assert good + bad == ALL
    for side in Side:
        feed_all(side, spoiled(ALL, seed=22))


# -- a real daemon --------------------------------------------------------------------------------


def expected(piece: bytes) -> PsyncError | None:
    """Return what a frame must end a daemon's connection with, as far as the frame says it."""
    connection = machine(Side.DAEMON)
    connection.receive(piece, 0.0)
    return connection.failure


async def attack(home: Home, frames: Iterator[bytes]) -> tuple[int, int]:
    """Send frames to the daemon one by one; return how many it took and how many it refused.

    Raises AssertionError where one that is none is taken, or refused without its error.
    """
    client: RawClient | None = None
    taken = refused = 0
    for number, piece in enumerate(frames):
        if client is None:
            client = await dial(home)
        wanted = expected(piece)
        client.send(piece)
        if wanted is not None and piece[:1] == bytes((m.Error.TYPE,)):
            # the peer's own farewell, which is not answered
            while await client.hear() is not None:
                pass
            error: PsyncError | None = wanted
        else:
            error = await client.survives(number)
        if error is None:
            assert wanted is None, (piece[:300], wanted)
            taken += 1
            continue
        refused += 1
        assert isinstance(error, PsyncError) and error.code != "connection-lost", piece[:300]
        if wanted is not None:
            assert error.code == wanted.code, (piece[:300], error, wanted)
        client.abort()
        client = None
    if client is not None:
        client.abort()
    return taken, refused


async def still_serves(home: Home) -> None:
    async with home.client("other") as other:
        run = other.start("echo", "hello")
        assert (await run.ended()).status.code == 0
        assert run.output == b"hello\n"


async def barrage(home: Home, count: int, seed: int, side_by_side: int = 4) -> None:
    """Attack with so many frames on several connections while an honest client goes on."""
    assert home.daemon is not None
    async with home.client("other") as honest:
        watched = honest.start("sh", "-c", "echo on; cat")
        await watched.shows(b"on\n")
        await attack(home, spoiled(200, seed=seed))  # what is loaded on first use is loaded now
        before = peak_memory(home.daemon.pid)
        found = await asyncio.gather(
            *(
                attack(home, spoiled(count // side_by_side, seed=seed + 1 + worker))
                for worker in range(side_by_side)
            )
        )
        assert sum(taken + refused for taken, refused in found) == count
        assert sum(refused for _, refused in found) > count / 3
        assert sum(taken for taken, _ in found) > count / 50
        watched.send(b"still here\n")
        await watched.shows(b"still here\n")
        assert peak_memory(home.daemon.pid) - before < ROOM
    assert home.daemon.poll() is None
    await still_serves(home)
    assert "Traceback" not in home.log


async def test_a_daemon_withstands_spoiled_messages(home: Home) -> None:
    await barrage(home, 800, seed=31)


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_a_daemon_withstands_a_hundred_thousand_spoiled_messages(home: Home) -> None:
    await barrage(home, ALL, seed=41)


async def test_a_daemon_withstands_oversized_and_deep_messages(home: Home) -> None:
    assert home.daemon is not None
    before = peak_memory(home.daemon.pid)
    for payload in oversized():
        async with connected(home) as client:
            client.send(payload)
            error = await client.survives(1)
            if len(payload) > m.MAX_CONTROL + 12:
                assert error is not None  # the websocket's own limit may end it without a word
            elif expected(payload) is not None:
                assert error is not None and error.code == "protocol", payload[:50]
    assert peak_memory(home.daemon.pid) - before < ROOM
    await still_serves(home)


async def test_messages_before_hello(home: Home) -> None:
    for payload in FRAMES:
        async with connected(home, hello=False) as client:
            client.send(payload)
            if payload[0] == m.Error.TYPE:
                continue
            message = await client.hear()
            if payload[0] == m.Hello.TYPE:
                assert isinstance(message, m.Hello)
            else:
                assert isinstance(message, m.Error) and message.code == "protocol"
    await still_serves(home)


@pytest.mark.parametrize(
    "words",
    [
        random.Random(5).randbytes(4096),
        b"\x82\xff" + b"\xff" * 8 + bytes(4),  # a length of 2^64 - 1
        b"\x82\xff" + b"\x7f" + b"\xff" * 7 + bytes(4),
        b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4),
        b"\x02\x85" + bytes(4) + b"\x84" + bytes(4),  # the first of several fragments
        b"\x80\x85" + bytes(4) + bytes(5),  # a continuation of nothing
        b"\x81\x85" + bytes(4) + b"hello",  # text
        b"\xc2\x85" + bytes(4) + b"hello",  # a bit that compression would use
        b"\x83\x80" + bytes(4),  # an opcode that is reserved
        b"\x8b\x80" + bytes(4),
        b"\x82\x05hello",  # not masked
        b"\x82\x80" + bytes(4),  # nothing at all
        b"\x88\x81" + bytes(4) + b"x",  # half a close code
        b"\x88\x82" + bytes(4) + b"\xff\xff",
        b"\x89\xfe\x02\x00" + bytes(4) + bytes(512),  # a ping that is too long
        b"GET / HTTP/1.1\r\n\r\n" * 100,
    ],
    ids=lambda words: words[:4].hex(),
)
async def test_what_is_no_websocket(home: Home, words: bytes) -> None:
    """Below psync's own protocol there is the websocket's, and its parser is written in C."""
    assert home.daemon is not None
    before = peak_memory(home.daemon.pid)
    async with home.client("other") as honest:
        run = honest.start("cat")
        await run.running()
        async with connected(home) as client:
            client.writer.write(words)
        run.send(b"still here\n")
        await run.shows(b"still here\n")
    assert peak_memory(home.daemon.pid) - before < ROOM
    assert home.daemon.poll() is None


def questions(count: int) -> dict[str, bytes]:
    """What brings answers that somebody has to read."""
    asked = {
        "pings": encode(m.Ping(1)),
        "lists": encode(m.ListRuns(request=1)),
        "requests": encode(m.OpenProject(request=1, project="a" * 80, source=b"x", host="h")),
        "attachments": encode(m.Attach(channel=1, run="nonesuch", offset=0)),
    }
    return {name: frame(payload) * count for name, payload in asked.items()}


@pytest.mark.parametrize(
    ("what", "count"), [("lists", 5_000), pytest.param("pings", 4_000_000, marks=pytest.mark.long)]
)
async def test_who_asks_and_does_not_read(home: Home, what: str, count: int) -> None:
    """Answers that nobody reads are not kept without end."""
    assert home.daemon is not None
    async with home.client("other") as honest:
        for _ in range(20):  # a list of them is as large as a list gets
            await honest.start("echo", "x" * 2000).ended()
    before = peak_memory(home.daemon.pid)
    piece = questions(100)[what]
    async with connected(home) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            for _ in range(count // 100):
                client.writer.write(piece)
                async with asyncio.timeout(TIMEOUT):
                    await client.writer.drain()
        except OSError:
            pass  # the daemon has had enough
        words = "wait to be read by the other side"
        await asyncio.to_thread(wait_until, lambda: words in home.log)
    assert peak_memory(home.daemon.pid) - before < ROOM
    await still_serves(home)


async def test_words_of_a_peer_make_no_lines_in_the_log(home: Home) -> None:
    forged = "2026-11-22 10:00:00,000 INFO psync.daemon: forged\x1b[2J"
    for payload in (
        encode(m.Error(code="refused", message=f"no\n{forged}", hint=f"\n{forged}")),
        HEADER.pack(m.ListRuns.TYPE, 0, 0, 0) + json.dumps({f"\n{forged}": 1}).encode(),
        encode(m.Attach(channel=1, run="a", offset=0))[:12] + b'{"\n' + forged.encode() + b'":1}',
    ):
        async with connected(home) as client:
            client.send(payload)
            while not isinstance(await client.hear(), m.Error | None):
                pass
    hello = client_hello(f"x\n{forged}")
    async with connected(home, hello=False) as client:
        client.send(encode(msgspec.structs.replace(hello, versions=(99,))))
        assert isinstance(await client.hear(), m.Error)
    async with connected(home) as client:
        spec = RunSpec(argv=(f"x\n{forged}".encode(),), name=f"\n{forged}", revision=f"\n{forged}")
        client.send(encode(m.Start(channel=1, request_id="a" * 16, spec=spec)))
        while not isinstance(await client.hear(), m.Exited | None):
            pass
    await still_serves(home)
    assert "\x1b" not in home.log
    assert not [line for line in home.log.splitlines() if line.startswith(forged[:40])]


@pytest.mark.parametrize("side", Side)
def test_what_ended_a_connection_does_not_hit_who_says_something_later(side: Side) -> None:
    connection = machine(side)
    connection.receive(b"garbage", 0.0)
    assert isinstance(connection.failure, ProtocolError)
    with pytest.raises(ConnectionLost):
        connection.send(m.Detach(channel=1))


async def test_a_breach_while_a_run_starts_and_ends(home: Home) -> None:
    """What becomes of the run does not depend on what became of who wanted to see it."""
    for number in range(40):
        client = await dial(home)
        spec = RunSpec(argv=(b"/bin/true",))
        client.send(encode(m.Start(channel=1, request_id=f"{number:016}", spec=spec)))
        client.send(b"garbage")
        while await client.hear() is not None:
            pass
        client.abort()
    async with home.client("other") as other:
        listed = await other.ask(m.ListRuns(request=1))
        assert isinstance(listed, m.RunList)
        assert len(listed.runs) == 40
        for run in listed.runs:
            assert (await other.attach(run.id).ended()).status.code == 0
    assert "Traceback" not in home.log
