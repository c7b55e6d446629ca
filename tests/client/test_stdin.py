"""This process's stdin on its way to a run."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.support.fake_run import Stage, begun

from psync.client.stdin import StdinPump
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
