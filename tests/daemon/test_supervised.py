"""The connection to a supervisor, with a socket in the place of one and with a real one."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from tests.supervisor.support import Runs, python

from psync.daemon.supervised import MOST_WAITING, SupervisorLink
from psync.supervisor import wire
from psync.supervisor.channel import listen


class Heard:
    """What a link has told its owner."""

    def __init__(self, link: SupervisorLink) -> None:
        self.frames: asyncio.Queue[wire.Frame] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.closings = 0
        link.on_frame = self.frames.put_nowait
        link.on_closed = self._on_closed

    def _on_closed(self) -> None:
        self.closings += 1
        self.closed.set()


async def test_what_was_sent_before_the_connection_arrives(runs: Runs) -> None:
    run = runs.start(python("import sys; sys.exit(len(sys.stdin.read()))"))
    link = SupervisorLink()
    heard = Heard(link)
    link.send(wire.Stdin(0, b"hello").encode())
    link.send(wire.StdinEof(5).encode())
    await link.connect(str(run.dir))
    assert isinstance(await heard.frames.get(), wire.Hello)
    await heard.closed.wait()
    assert heard.closings == 1
    assert run.wait_over().code == 5
    link.send(wire.Kill().encode())  # nobody is there; that is no error


async def test_a_deep_directory(tmp_path: Path, runs: Runs) -> None:
    runs.root = tmp_path / ("d" * 120)
    runs.root.mkdir()
    run = runs.start(python("import time; time.sleep(1000)"))
    link = SupervisorLink()
    heard = Heard(link)
    await link.connect(str(run.dir))
    assert isinstance(await heard.frames.get(), wire.Hello)
    link.close()


async def test_after_close_the_owner_hears_nothing(runs: Runs) -> None:
    run = runs.start(python("input()"))
    link = SupervisorLink()
    heard = Heard(link)
    await link.connect(str(run.dir))
    await heard.frames.get()
    link.close()
    link.close()
    other = SupervisorLink()
    others = Heard(other)
    await other.connect(str(run.dir))
    await others.frames.get()
    other.send(wire.Kill().encode())
    await others.closed.wait()
    assert heard.closings == 0


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await SupervisorLink().connect(str(tmp_path))
    listen(str(tmp_path)).close()
    with pytest.raises(ConnectionRefusedError):
        await SupervisorLink().connect(str(tmp_path))


async def test_garbage_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(str(tmp_path)) as listener:
        link = SupervisorLink()
        heard = Heard(link)
        await link.connect(str(tmp_path))
        loop = asyncio.get_running_loop()
        there, _ = await loop.sock_accept(listener)
        with there:
            there.setblocking(False)
            await loop.sock_sendall(there, b"\xff" * 64)
            await heard.closed.wait()
            assert await loop.sock_recv(there, 1) == b""
        assert heard.frames.empty()
    assert "garbage" in caplog.text
    assert isinstance(there, socket.socket)


@pytest.mark.parametrize("connected", [False, True])
async def test_what_waits_for_a_supervisor_that_hangs_is_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, connected: bool
) -> None:
    frame = wire.Stdin(0, bytes(65536)).encode()
    sent = 2 * MOST_WAITING // len(frame)
    with listen(str(tmp_path)) as listener:
        link = SupervisorLink()
        if connected:
            await link.connect(str(tmp_path))
        for _ in range(sent):
            link.send(frame)
        if not connected:
            await link.connect(str(tmp_path))
        there, _ = await asyncio.get_running_loop().sock_accept(listener)
        assert link._transport is not None
        link._transport.write_eof()
        with there:
            there.setblocking(False)
            arrived = 0
            while data := await asyncio.get_running_loop().sock_recv(there, 1 << 20):
                arrived += len(data)
        link.close()
    assert 0 < arrived < sent * len(frame)
    assert arrived % len(frame) == 0
    assert caplog.text.count("does not read") == 1
