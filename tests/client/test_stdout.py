"""A run's output on this process's descriptors: exact, at once, and never in the way."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_run import begun, settled

from psync.client.stdout import PIPE_BUF, LoopWriter, OutputWriter, ThreadWriter
from psync.model import Stream
from psync.protocol import messages as m


class Pipe:
    """A pipe and what came through it."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read_all(self) -> bytes:
        """Read to the end in this thread."""
        data = bytearray()
        while chunk := os.read(self.reader, 65536):
            data += chunk
        return bytes(data)

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def out() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def err() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def test_small_pieces_are_written_and_acknowledged_in_the_same_turn(
    out: Pipe, err: Pipe
) -> None:
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer)
    stage.output(0, b"name? ")
    assert os.read(out.reader, 100) == b"name? "
    stage.output(6, b"oops", Stream.STDERR)
    assert os.read(err.reader, 100) == b"oops"
    assert (await stage.link.said(m.Ack)).offset == 10
    writer.close()


@pytest.mark.parametrize("kind", [LoopWriter, ThreadWriter])
async def test_any_bytes_in_any_pieces_come_out_exactly(
    out: Pipe, err: Pipe, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is ThreadWriter:  # as where a pipe cannot be opened again
        monkeypatch.setattr("psync.client.stdout._reopen", lambda _fd: None)
    rng = random.Random(7)
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer)
    assert {type(one) for one in writer._writers.values()} == {kind}
    expected = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
    received: dict[Stream, bytes] = {}

    def read(stream: Stream, pipe: Pipe) -> None:
        received[stream] = pipe.read_all()

    readers = [
        threading.Thread(target=read, args=(Stream.STDOUT, out)),
        threading.Thread(target=read, args=(Stream.STDERR, err)),
    ]
    for reader in readers:
        reader.start()
    offset = 0
    for _ in range(300):
        data = rng.randbytes(rng.choice((1, 100, PIPE_BUF, PIPE_BUF + 1, 20_000, m.MAX_DATA)))
        stream = rng.choice((Stream.STDOUT, Stream.STDERR))
        expected[stream] += data
        while offset + len(data) - stage.run._output._acked > m.WINDOW_OUTPUT:
            await stage.link.said(m.Ack)
        stage.output(offset, data, stream)
        offset += len(data)
    async with asyncio.timeout(30):
        await writer.drain()
    writer.close()
    for pipe in (out, err):
        os.close(pipe.writer)
    for reader in readers:
        await asyncio.to_thread(reader.join, 30)
    assert received == {stream: bytes(data) for stream, data in expected.items()}
    assert stage.run._output.consumed == offset


async def test_a_pipe_that_nobody_reads_does_not_stop_the_loop(out: Pipe, err: Pipe) -> None:
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer)
    piece = bytes(m.MAX_DATA)
    for i in range(10):
        stage.output(i * len(piece), piece)
    end = 10 * len(piece)
    # stderr is not behind it, and nothing that stdout still holds is acknowledged
    stage.output(end, b"still here", Stream.STDERR)
    assert os.read(err.reader, 100) == b"still here"
    assert stage.run._output.consumed < end
    reading = asyncio.create_task(asyncio.to_thread(os.read, out.reader, 1))
    async with asyncio.timeout(10):
        await reading
        drained = asyncio.create_task(asyncio.to_thread(_read_exactly, out.reader, end - 1))
        await writer.drain()
        await drained
    assert stage.run._output.consumed == end + 10
    writer.close()


def _read_exactly(fd: int, count: int) -> None:
    while count:
        count -= len(os.read(fd, min(count, 65536)))


@pytest.mark.parametrize("size", [10, 100_000], ids=["at once", "in the thread"])
async def test_a_closed_pipe_closes_that_output_there(out: Pipe, err: Pipe, size: int) -> None:
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer)
    os.close(out.reader)
    data = bytes(size)
    pieces = [data[i : i + m.MAX_DATA] for i in range(0, size, m.MAX_DATA)]
    offset = 0
    for piece in pieces:
        stage.output(offset, piece)
        offset += len(piece)
    assert (await stage.link.said(m.CloseOutput)).stream is Stream.STDOUT
    stage.output(offset, b"more")  # goes nowhere, and is acknowledged all the same
    async with asyncio.timeout(10):
        await writer.drain()
    assert stage.run._output.consumed == offset + 4
    assert writer.failure() is None
    stage.output(offset + 4, b"err", Stream.STDERR)
    assert os.read(err.reader, 10) == b"err"
    writer.close()


async def test_a_full_disk_is_a_failure_to_tell(err: Pipe) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        stage = await begun()
        stage.attach()
        writer = OutputWriter(stage.run, stdout=full, stderr=err.writer)
        stage.output(0, b"x")
        assert (await stage.link.said(m.CloseOutput)).stream is Stream.STDOUT
        failure = writer.failure()
        assert failure is not None
        assert failure.strerror == "No space left on device"
        writer.close()
    finally:
        os.close(full)


async def test_one_file_for_both_streams_keeps_their_order(tmp_path: Path) -> None:
    rng = random.Random(3)
    stage = await begun()
    stage.attach()
    expected = bytearray()
    with (tmp_path / "both").open("wb") as file:
        writer = OutputWriter(stage.run, stdout=file.fileno(), stderr=os.dup(file.fileno()))
        for _ in range(100):
            data = rng.randbytes(rng.choice((3, 50_000)))
            stage.output(len(expected), data, rng.choice((Stream.STDOUT, Stream.STDERR)))
            expected += data
            if len(expected) - stage.run._output._acked > m.WINDOW_OUTPUT // 2:
                await stage.link.said(m.Ack)
        async with asyncio.timeout(30):
            await writer.drain()
        writer.close()
    assert (tmp_path / "both").read_bytes() == expected


async def test_a_descriptor_somebody_made_non_blocking_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        stage = await begun()
        stage.attach()
        writer = OutputWriter(stage.run, stdout=ours.fileno(), stderr=ours.fileno())
        data = random.Random(5).randbytes(2_000_000)
        for i in range(0, len(data), m.MAX_DATA):
            stage.output(i, data[i : i + m.MAX_DATA])

        def read() -> bytes:
            got = bytearray()
            while len(got) < len(data):
                got += theirs.recv(65536)
            return bytes(got)

        async with asyncio.timeout(30):
            assert await asyncio.to_thread(read) == data
            await writer.drain()
        writer.close()


async def test_a_gap_is_told(out: Pipe, err: Pipe) -> None:
    gaps: list[int] = []
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer, on_gap=gaps.append)
    stage.link.say(m.Gap(channel=1, start=0, end=1000))
    await settled()
    assert gaps == [1000]
    assert stage.run._output.consumed == 1000
    writer.close()


async def test_what_is_discarded_is_not_waited_for(out: Pipe, err: Pipe) -> None:
    stage = await begun()
    stage.attach()
    writer = OutputWriter(stage.run, stdout=out.writer, stderr=err.writer)
    piece = bytes(m.MAX_DATA)
    for i in range(10):
        stage.output(i * len(piece), piece)
    end = 10 * len(piece)
    writer.discard()
    writer.discard()
    async with asyncio.timeout(10):
        await writer.drain()
    assert stage.run._output.consumed == end
    stage.output(end, b"more", Stream.STDERR)
    assert stage.run._output.consumed == end + 4
    # what the pipe holds is written, and the write that was going on may still end
    assert end - 2 * m.MAX_DATA <= writer.discarded - 4 <= end
    assert os.read(out.reader, 10) == bytes(10)
    writer.close()
