"""One transfer on a fake connection, with the test in the places of rsync and of the daemon."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from types import TracebackType
from typing import Self

from tests.support.fake_link import FakeDaemon, FakeLink

from psync.client.carriage import Carriage
from psync.client.lifeline import Lifeline
from psync.model import Stream
from psync.protocol import messages as m
from psync.sync import remote_shell
from psync.sync.carrier import Carried
from psync.transport.link import FRONT

TIMEOUT = 30.0
ARGUMENTS = b"rsync\0-x\0.\0/mirror/\0\0"


class DataLink(FakeLink):
    """A fake link that takes pieces of streams as the real one does."""

    def send_piece(self, channel: int, stream: int, offset: int, buffer: memoryview) -> None:
        self.send(m.Data(channel, Stream(stream), offset, bytes(buffer[FRONT:])))


class DataDaemon(FakeDaemon):
    async def dial(self) -> DataLink:
        link = DataLink(self.features)
        self.links.append(link)
        return link


class Stage:
    """A transfer whose remote shell is a real process.

    Attributes:
        to_psync: rsync's end of what it writes.
        from_psync: rsync's end of what it reads.
        losses: how often the carriage said that the connection was lost.
        seen: how many bytes of stdin the daemon has seen.
    """

    def __init__(self) -> None:
        self.daemon = DataDaemon()
        self.lifeline = Lifeline(self.daemon.dial, name="laptop")  # type: ignore[arg-type]
        self.losses = 0
        self.seen = 0
        self.channel = 0
        self._shell: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.lifeline.open()
        self.carriage = Carriage(
            self.lifeline, asyncio.get_running_loop(), self._lost, socket.socketpair()
        )
        self.to_psync, stdin = socket.socketpair()
        self.from_psync, stdout = socket.socketpair()
        for sock in (self.to_psync, self.from_psync):
            sock.setblocking(False)
        fd = self.carriage.fd
        script = str(remote_shell.__file__)
        with stdin, stdout:
            self._shell = subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(fd), "host", "rsync", "--server", "-s"],
                pass_fds=[fd],
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
            )
        self.carriage.started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.link.open:
            self.link.say(m.TransferEnded(channel=self.channel or 1, status=0))
        await self.ended()
        assert self._shell is not None
        self._shell.kill()
        self._shell.wait(TIMEOUT)
        self.to_psync.close()
        self.from_psync.close()
        self.lifeline.abandon()
        assert not self.lifeline.writers

    @property
    def link(self) -> FakeLink:
        return self.daemon.link

    def _lost(self) -> None:
        self.losses += 1

    async def opened(self, rest: bytes = b"") -> m.OpenTransfer:
        """Have rsync send its arguments; return what the daemon is asked for."""
        await self.write(ARGUMENTS + rest)
        asked = await self.link.said(m.OpenTransfer)
        self.channel = asked.channel
        return asked

    async def write(self, data: bytes) -> None:
        """Write as rsync."""
        async with asyncio.timeout(TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self.to_psync, data)

    async def arrived(self, count: int) -> bytes:
        """Wait until the daemon has seen so many more bytes; return them, checked for holes."""
        got = bytearray()
        while len(got) < count:
            message = await self.link.said(m.Data)
            assert (message.channel, message.stream) == (self.channel, Stream.STDIN)
            assert message.offset == self.seen
            self.seen += len(message.data)
            got += message.data
        return bytes(got)

    async def read(self, count: int) -> bytes:
        """Read exactly so much as rsync, or up to the end."""
        got = b""
        async with asyncio.timeout(TIMEOUT):
            while len(got) < count:
                piece = await asyncio.get_running_loop().sock_recv(self.from_psync, 65536)
                if not piece:
                    break
                got += piece
        return got

    def output(self, offset: int, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Say what the daemon's rsync wrote."""
        self.link.say(m.Data(self.channel, stream, offset, data))

    async def status(self) -> int:
        """Wait for the remote shell's exit status."""
        assert self._shell is not None
        return await asyncio.to_thread(self._shell.wait, TIMEOUT)

    def kill(self) -> None:
        """Kill the remote shell, as psync does with all of rsync when it is cancelled."""
        assert self._shell is not None
        self._shell.kill()

    async def ended(self) -> Carried:
        """Say that rsync here has ended, as the thread of the transfer does."""
        async with asyncio.timeout(TIMEOUT):
            return await asyncio.to_thread(self.carriage.end)
