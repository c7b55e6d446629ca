"""One transfer between rsync's ends and a channel: windows, ends, and everything that can break."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from contextlib import suppress

import msgspec
import pytest
from tests.client.carrying import ARGUMENTS, Stage
from tests.support.fake_run import settled

from psync.client import carriage as module
from psync.client.carriage import ACK_EARLY, PIECE, Carriage
from psync.errors import ConnectionLost, ProtocolError, Refused, SyncError
from psync.model import RunState, Stream
from psync.protocol import messages as m
from psync.protocol.transfers import MAX_ARGUMENTS, WINDOW_TRANSFER


async def test_what_rsync_asks_for_is_asked_of_the_daemon() -> None:
    async with Stage() as stage:
        asked = await stage.opened(b"\x20\0\0\0hello")
        assert asked.command == (b"rsync", b"--server", b"-s")
        assert asked.arguments == ARGUMENTS
        assert await stage.arrived(9) == b"\x20\0\0\0hello"


async def test_arguments_in_crumbs() -> None:
    async with Stage() as stage:
        for byte in ARGUMENTS[:-1]:
            await stage.write(bytes([byte]))
        await settled()
        assert not stage.link.sent
        await stage.write(b"\0")
        assert (await stage.link.said(m.OpenTransfer)).arguments == ARGUMENTS


@pytest.mark.parametrize(("limits", "largest"), [(m.Limits(), m.MAX_DATA), (m.LIMITS, PIECE)])
async def test_a_piece_is_as_large_as_the_daemon_takes(limits: m.Limits, largest: int) -> None:
    data = os.urandom(8 * m.MAX_PIECE)
    async with Stage() as stage:
        stage.link.peer = msgspec.structs.replace(stage.link.peer, limits=limits)
        await stage.opened()
        stage.to_psync.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * m.MAX_PIECE)
        writing = asyncio.create_task(stage.write(data))
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < len(data):
            pieces.append((await stage.link.said(m.Data)).data)
        await writing
        assert b"".join(pieces) == data
        assert max(len(piece) for piece in pieces) == largest


async def test_no_more_than_a_window_is_on_its_way() -> None:
    data = os.urandom(2 * WINDOW_TRANSFER)
    async with Stage() as stage:
        await stage.opened()
        writing = asyncio.create_task(stage.write(data))
        first = await stage.arrived(WINDOW_TRANSFER - module.SMALL_PIECE)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):  # nothing more may come, however long
                while True:
                    first += (await stage.link.said(m.Data)).data
        assert WINDOW_TRANSFER - module.SMALL_PIECE < len(first) <= WINDOW_TRANSFER
        stage.seen = len(first)
        stage.link.say(m.Ack(stage.channel, len(first)))
        second = await stage.arrived(len(data) - len(first) - module.SMALL_PIECE)
        stage.link.say(m.Ack(stage.channel, len(first) + len(second)))
        rest = b""
        if len(first) + len(second) < len(data):
            rest = await stage.arrived(len(data) - len(first) - len(second))
        await writing
        assert first + second + rest == data


async def test_nothing_is_sent_while_the_connection_takes_nothing() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.link.writable = False
        await stage.write(b"x" * 1000)
        await settled()
        assert not stage.link.sent
        stage.link.writable = True
        stage.link.on_writable()
        assert await stage.arrived(1000) == b"x" * 1000


async def test_the_end_of_what_rsync_writes_is_told() -> None:
    async with Stage() as stage:
        await stage.opened()
        await stage.write(b"last")
        stage.to_psync.shutdown(socket.SHUT_WR)
        assert await stage.link.said(m.StdinEnd) == m.StdinEnd(stage.channel, 4)


async def test_what_the_daemon_says_reaches_rsync_and_is_acknowledged() -> None:
    data = os.urandom(ACK_EARLY + 1)
    async with Stage() as stage:
        await stage.opened()
        for at in range(0, len(data), m.MAX_DATA):
            stage.output(at, data[at : at + m.MAX_DATA])
        assert await stage.read(len(data)) == data
        ack = await stage.link.said(m.Ack)
        assert ACK_EARLY <= ack.offset <= len(data)


async def test_the_status_comes_after_the_last_byte() -> None:
    data = os.urandom(WINDOW_TRANSFER)  # more than a socket holds
    async with Stage() as stage:
        await stage.opened()
        for at in range(0, len(data), m.MAX_DATA):
            stage.output(at, data[at : at + m.MAX_DATA])
        stage.link.say(m.TransferEnded(channel=stage.channel, status=23))
        assert await stage.read(len(data) + 1) == data
        assert await stage.status() == 23
        assert (await stage.ended()).error is None


async def test_what_the_other_rsync_complains_of_is_kept() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.output(0, b"no space", Stream.STDERR)
        stage.link.say(m.TransferEnded(channel=stage.channel, status=11))
        assert await stage.status() == 11
        assert (await stage.ended()).said == b"no space"


async def test_one_that_a_signal_ended() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.link.say(m.TransferEnded(channel=stage.channel, status=-9))
        assert await stage.status() == 255
        error = (await stage.ended()).error
        assert isinstance(error, SyncError)
        assert error.message == "rsync on laptop was ended by SIGKILL"


async def test_a_refusal_is_the_error() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.link.say(
            m.Refused(channel=stage.channel, code="refused", message="not yours", hint="ask")
        )
        assert await stage.status() == 255
        error = (await stage.ended()).error
        assert isinstance(error, Refused)
        assert (error.message, error.hint) == ("not yours", "ask")
        assert not any(isinstance(one, m.CancelTransfer) for one in stage.link.sent)


async def test_a_lost_connection() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.link.cut(ConnectionLost("reset"))
        assert await stage.status() == 255
        error = (await stage.ended()).error
        assert isinstance(error, ConnectionLost)
        assert error.message == "the connection to laptop was lost while files were sent: reset"
        assert stage.losses == 1


async def test_one_that_is_lost_before_the_transfer_began() -> None:
    async with Stage() as stage:
        stage.link.cut()
        await stage.write(ARGUMENTS)
        assert await stage.status() == 255
        assert isinstance((await stage.ended()).error, ConnectionLost)
        assert stage.losses == 1


async def test_a_cancelled_one_ends_over_there_too() -> None:
    async with Stage() as stage:
        await stage.opened()
        stage.kill()
        await stage.link.said(m.CancelTransfer)
        ended = asyncio.create_task(stage.ended())
        await settled()
        stage.output(0, b"late")  # was on its way
        stage.link.say(m.Ack(stage.channel, 0))
        await settled()
        assert not ended.done()  # the one over there may still be writing
        stage.link.say(m.TransferEnded(channel=stage.channel, status=-15))
        assert (await ended).error is None


async def test_a_daemon_that_never_ends_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "END_TIMEOUT", 0.05)
    async with Stage() as stage:
        await stage.opened()
        assert (await stage.ended()).error is None
        await stage.link.said(m.CancelTransfer)


async def test_an_rsync_that_could_not_be_started() -> None:
    async with Stage() as stage:
        meeting = socket.socketpair()
        unused = Carriage(stage.lifeline, asyncio.get_running_loop(), lambda: None, meeting)
        unused.started()
        assert (await asyncio.to_thread(unused.end)).error is None
        assert not stage.link.sent


async def test_one_that_nobody_uses_leaves_nothing_open() -> None:
    async with Stage() as stage:
        meeting = socket.socketpair()
        numbers = [sock.fileno() for sock in meeting]
        unused = Carriage(stage.lifeline, asyncio.get_running_loop(), lambda: None, meeting)
        assert unused.fd in numbers
        del unused
        gc.collect()
        assert [sock.fileno() for sock in meeting] == [-1, -1]


async def test_arguments_without_end() -> None:
    async with Stage() as stage:
        await stage.write(b"x" * (MAX_ARGUMENTS + 2000))
        assert await stage.status() == 255
        error = (await stage.ended()).error
        assert isinstance(error, SyncError)
        assert f"longer than the {MAX_ARGUMENTS} bytes" in error.message
        assert not stage.link.sent


async def test_an_rsync_that_ends_before_it_has_asked() -> None:
    async with Stage() as stage:
        await stage.write(b"rsync\0")
        stage.to_psync.shutdown(socket.SHUT_WR)
        assert await stage.status() == 255
        assert not stage.link.sent


@pytest.mark.parametrize(
    "message",
    [
        m.Data(1, Stream.STDOUT, 1, b"x"),
        m.Ack(1, 1),
        m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=0),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(message: m.Message) -> None:
    async with Stage() as stage:
        await stage.opened()
        assert stage.channel == 1
        stage.link.say(message)
        assert isinstance(stage.link.closed_with, ProtocolError)
        assert await stage.status() == 255
        assert isinstance((await stage.ended()).error, ProtocolError)


async def test_more_than_the_window_ends_the_connection() -> None:
    async with Stage() as stage:
        await stage.opened()
        piece = bytes(m.MAX_DATA)
        count = 0
        while stage.link.open and count <= 2 * WINDOW_TRANSFER:  # nobody reads it
            stage.output(count, piece)
            count += len(piece)
        assert isinstance(stage.link.closed_with, ProtocolError)
        assert WINDOW_TRANSFER < count <= WINDOW_TRANSFER + ACK_EARLY + m.MAX_DATA
