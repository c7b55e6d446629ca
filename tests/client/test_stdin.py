"""This process's stdin on its way to a run."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.support.fake_run import Stage, begun

from psync.client.escape import Escapes, Key
from psync.client.stdin import StdinPump
from psync.errors import ConnectionLost
from psync.protocol import messages as m


async def take(stage: Stage, count: int) -> bytes:
    """Receive ``count`` bytes of stdin as the daemon, acknowledging them as they come."""
    data = bytearray()
    while len(data) < count:
        piece = await stage.link.said(m.Data)
        assert piece.offset == len(data)
        data += piece.data
        stage.link.say(m.Ack(1, len(data)))
    return bytes(data)


async def test_a_pipe_is_forwarded_as_it_is_written_with_its_end() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    pump = StdinPump(stage.run, reader)
    pump.start()
    os.write(writer, b"y")
    assert (await stage.link.said(m.Data)).data == b"y"
    os.write(writer, b"es\n")
    assert (await stage.link.said(m.Data)).data == b"es\n"
    os.close(writer)
    assert (await stage.link.said(m.StdinEnd)).offset == 4
    os.close(reader)


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
async def test_a_file_is_forwarded_whole(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "in").write_bytes(data)
    stage = await begun()
    stage.attach()
    with (tmp_path / "in").open("rb") as file:
        StdinPump(stage.run, file.fileno()).start()
        assert await take(stage, size) == data
        assert (await stage.link.said(m.StdinEnd)).offset == size


async def test_nothing_is_read_that_cannot_be_sent() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stage = await begun()
    stage.attach()
    pump = StdinPump(stage.run, reader)
    pump.start()
    written = 0
    while stage.run.stdin_room >= 32 * 1024:
        try:
            written += os.write(writer, bytes(4096))
        except BlockingIOError:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    sent = m.WINDOW_STDIN - stage.run.stdin_room
    with pytest.raises(BlockingIOError):
        while True:
            written += os.write(writer, bytes(4096))
    assert written > sent  # the rest is in the pipe, where the producer feels it
    os.set_blocking(writer, True)
    os.close(writer)
    assert len(await take(stage, written)) == written
    await stage.link.said(m.StdinEnd)
    os.close(reader)


async def test_dev_null_ends_at_once() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    stage = await begun()
    StdinPump(stage.run, null).start()
    assert (await stage.link.said(m.StdinEnd)).offset == 0
    os.close(null)


async def test_a_directory_ends_at_once(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    stage = await begun()
    StdinPump(stage.run, directory).start()
    await stage.link.said(m.StdinEnd)
    os.close(directory)


async def test_reading_stops_when_the_program_closed_its_stdin() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    StdinPump(stage.run, reader).start()
    os.write(writer, b"a")
    await stage.link.said(m.Data)
    stage.link.say(m.StdinClosed(channel=1))
    os.write(writer, b"b")
    for _ in range(10):
        await asyncio.sleep(0)
    assert os.read(reader, 10) == b"b"  # it stayed in the pipe for the next reader
    os.close(reader)
    os.close(writer)


async def test_reading_stops_with_the_run() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    pump = StdinPump(stage.run, reader)
    pump.start()
    stage.exit(0)
    pump.stop()
    os.write(writer, b"b")
    for _ in range(10):
        await asyncio.sleep(0)
    assert os.read(reader, 10) == b"b"
    os.close(reader)
    os.close(writer)


# -- with escape keys ---------------------------------------------------------------------------


async def test_keys_are_found_among_what_is_typed_and_the_rest_is_sent() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    keys: asyncio.Queue[Key] = asyncio.Queue()
    pump = StdinPump(stage.run, reader, escapes=Escapes(), on_key=keys.put_nowait)
    pump.start()
    os.write(writer, b"one\n~?\n~")
    assert (await stage.link.said(m.Data)).data == b"one\n"
    assert await asyncio.wait_for(keys.get(), 10) is Key.HELP
    os.write(writer, b"~two\n")
    assert (await stage.link.said(m.Data)).data == b"~two\n"
    os.write(writer, b"~")
    os.close(writer)
    assert (await stage.link.said(m.Data)).data == b"~"  # what it would have begun never came
    assert (await stage.link.said(m.StdinEnd)).offset == 10
    os.close(reader)


async def test_keys_are_found_while_the_program_reads_nothing_and_without_a_connection() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    stage.run.send_stdin(bytes(m.WINDOW_STDIN))
    assert stage.run.stdin_room == 0
    keys: asyncio.Queue[Key] = asyncio.Queue()
    pump = StdinPump(stage.run, reader, escapes=Escapes(), on_key=keys.put_nowait)
    pump.start()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    os.write(writer, b"typed\n~.\n")
    assert await asyncio.wait_for(keys.get(), 10) is Key.DISCONNECT
    stage.daemon.refusals.clear()
    await (await stage.daemon.linked(2)).said(m.Attach)
    stage.attach(stdin=m.WINDOW_STDIN)
    assert (await stage.link.said(m.Data)).data == b"typed\n"  # it waited
    pump.stop()
    os.close(writer)
    os.close(reader)


async def test_what_is_typed_while_another_holds_stdin_is_dropped() -> None:
    reader, writer = os.pipe()
    stage = await begun()
    stage.attach()
    stage.link.say(m.StdinHolder(channel=1, offset=0, holder="ada"))
    keys: asyncio.Queue[Key] = asyncio.Queue()
    pump = StdinPump(stage.run, reader, escapes=Escapes(), on_key=keys.put_nowait)
    pump.start()
    os.write(writer, b"nowhere\n~?\n")
    await asyncio.wait_for(keys.get(), 10)
    stage.link.say(m.StdinHolder(channel=1, offset=30))
    os.write(writer, b"here\n")
    piece = await stage.link.said(m.Data)
    assert (piece.offset, piece.data) == (30, b"here\n")
    pump.stop()
    os.close(writer)
    os.close(reader)
