"""A real rsync on the client's side of a transfer over the websocket, without psync's client.

    async with Shell(client) as shell:
        done = await shell.rsync("-rlpt", "source/", f"there:{mirror}/tree/")

rsync starts the script below in place of ssh, which hands its descriptors over a unix socket; what
goes through them is pumped to the daemon and back in the test's event loop.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.support.daemon import TIMEOUT, Client, Home

from psync.model import Stream
from psync.protocol import messages as m

HELPER = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    words = b"\\0".join(map(os.fsencode, sys.argv[3:]))
    socket.send_fds(sock, [words], [0, 1, 2])
    for fd in (0, 1):
        os.close(fd)
    sys.exit(int(sock.recv(16) or b"99"))
"""


class Channel:
    """The client's end of a transfer.

    Attributes:
        ended: the daemon's rsync's exit status.
        refused: what the daemon said instead.
        out, err: bytes that came of each stream; kept only if nobody takes them.
        acked: offset of stdin that the daemon has acknowledged.
        acks: acknowledge what comes.
    """

    def __init__(self, client: Client, *, acks: bool = True) -> None:
        self.client = client
        self.channel = len(client._channels) + 1
        client._channels[self.channel] = self  # type: ignore[assignment]
        self.ended: int | None = None
        self.refused: m.Refused | None = None
        self.out = bytearray()
        self.err = bytearray()
        self.received = 0
        self.sent = 0
        self.acked = 0
        self.acks = acks
        self._err_end = 0

    def open(self, command: tuple[bytes, ...], arguments: bytes) -> None:
        """Ask for an rsync."""
        link = self.client.link
        link.send(m.OpenTransfer(channel=self.channel, command=command, arguments=arguments))

    def receive(self, message: m.Message) -> None:
        """Take what the daemon said, and check that it is in order."""
        assert not self.over, message
        if isinstance(message, m.Data):
            if message.stream is Stream.STDERR:
                assert message.offset == self._err_end
                self._err_end += len(message.data)
                self.on_err(message.data)
                return
            assert (message.stream, message.offset) == (Stream.STDOUT, self.received)
            self.received += len(message.data)
            self.on_out(message.data)
        elif isinstance(message, m.Ack):
            assert self.acked < message.offset <= self.sent
            self.acked = message.offset
            self.on_ack()
        elif isinstance(message, m.TransferEnded):
            self.ended = message.status
            self.on_over()
        else:
            assert isinstance(message, m.Refused), message
            self.refused = message
            self.on_over()

    @property
    def over(self) -> bool:
        return self.ended is not None or self.refused is not None

    def on_out(self, data: bytes) -> None:
        self.out += data
        self.ack()

    def on_err(self, data: bytes) -> None:
        self.err += data

    def on_ack(self) -> None:
        """More may be sent."""

    def on_over(self) -> None:
        """Nothing more comes."""

    def ack(self) -> None:
        """Acknowledge all that came."""
        if self.acks and self.client.link.open:
            self.client.link.send(m.Ack(self.channel, self.received))

    def send(self, data: bytes) -> None:
        """Send stdin, whatever the window says."""
        most = self.client.link.peer.limits.data
        for at in range(0, len(data), most):
            piece = data[at : at + most]
            self.client.link.send(m.Data(self.channel, Stream.STDIN, self.sent, piece))
            self.sent += len(piece)

    def end(self) -> None:
        self.client.link.send(m.StdinEnd(self.channel, self.sent))

    def cancel(self) -> None:
        self.client.link.send(m.CancelTransfer(channel=self.channel))

    async def status(self) -> int:
        """Wait for the end; return the exit status."""
        await self.client.wait(lambda: self.over or self.client.closed)
        assert self.ended is not None, self.refused or self.client.error
        return self.ended

    async def refusal_of(self, command: tuple[bytes, ...], arguments: bytes) -> m.Refused:
        """Ask for an rsync that must be refused."""
        self.open(command, arguments)
        return await self.refusal()

    async def refusal(self) -> m.Refused:
        """Wait for the refusal."""
        await self.client.wait(lambda: self.over or self.client.closed)
        assert self.refused is not None, (self.ended, bytes(self.err), self.client.error)
        return self.refused


class Piped(Channel):
    """The same, connected to the rsync here."""

    def __init__(self, client: Client, sock: socket.socket, fds: list[int]) -> None:
        super().__init__(client)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._source, self._sink, self._words = fds
        self._arguments = bytearray()
        self._command: tuple[bytes, ...] = ()
        self._queue: deque[bytes] = deque()
        self._reading = False
        self.holds = False

    def go(self) -> None:
        """Begin to send."""
        self.holds = False
        self.on_ack()

    def begin(self, command: bytes) -> None:
        self._command = tuple(command.split(b"\0"))
        os.set_blocking(self._source, False)
        os.set_blocking(self._sink, False)
        self._loop.add_reader(self._source, self._read_arguments)

    def _read_arguments(self) -> None:
        while not self._arguments.endswith(b"\0\0"):
            try:
                byte = os.read(self._source, 1)
            except BlockingIOError:
                return
            if not byte:
                self.on_over()
                return
            self._arguments += byte
        self._loop.remove_reader(self._source)
        self.open(self._command, bytes(self._arguments))
        self.on_ack()

    def on_ack(self) -> None:
        if not self._reading and not self.holds and self._source != -1:
            self._reading = True
            self._loop.add_reader(self._source, self._read)

    def _read(self) -> None:
        room = m.WINDOW_TRANSFER - (self.sent - self.acked)
        if room < m.MAX_DATA:
            self._reading = False
            self._loop.remove_reader(self._source)
            return
        try:
            data = os.read(self._source, m.MAX_DATA)
        except BlockingIOError:
            return
        if data:
            self.send(data)
        else:
            self._close_source()
            self.end()

    def _close_source(self) -> None:
        if self._source != -1:
            self._loop.remove_reader(self._source)
            os.close(self._source)
            self._source = -1

    def on_out(self, data: bytes) -> None:
        self._queue.append(data)
        if len(self._queue) == 1:
            self._write()

    def on_err(self, data: bytes) -> None:
        super().on_err(data)
        with suppress(OSError):
            os.write(self._words, data)

    def _write(self) -> None:
        while self._queue and self._sink != -1:
            try:
                count = os.write(self._sink, self._queue[0])
            except BlockingIOError:
                self._loop.add_writer(self._sink, self._write)
                return
            except BrokenPipeError:
                self._queue.clear()
                break
            self._queue[0] = self._queue[0][count:]
            if not self._queue[0]:
                self._queue.popleft()
        self._loop.remove_writer(self._sink)
        self.ack()
        if self.over:
            self.on_over()

    def on_over(self) -> None:
        if self._queue or self._sink == -1:
            return
        self._close_source()
        self._loop.remove_writer(self._sink)
        for fd in (self._sink, self._words):
            os.close(fd)
        self._sink = -1
        status = 98 if self.ended is None else self.ended % 256
        with suppress(OSError):  # rsync may have ended first, and its shell with it
            self._sock.send(b"%d" % status)
        self._sock.close()

    def abandon(self) -> None:
        """Let go of everything; rsync notices."""
        self._queue.clear()
        self.on_over()


def servers(home: Home) -> list[int]:
    """Return the processes of transfers that a daemon has, or had: zombies too."""
    daemon = home.daemon.pid if home.daemon is not None else -1
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[1])
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            place = os.readlink(f"/proc/{name}/cwd")
        except OSError:
            if not os.path.exists(f"/proc/{name}"):
                continue
            place, words = "", []  # a zombie
        ours = parent == daemon and (not words[0:1] or b"--server" in words)
        if ours or (b"--server" in words and place.startswith(f"{home.directory}/")):
            found.append(int(name))
    return found


class Done(NamedTuple):
    """How an rsync ended."""

    status: int
    out: bytes
    err: bytes


class Shell:
    """Where rsyncs of a test come to be connected.

    Args:
        client: the connection that they share.
        acks: acknowledge what comes.
        holds: send nothing before ``Piped.go``.

    Attributes:
        channels: the transfers so far.
    """

    def __init__(self, client: Client, *, acks: bool = True, holds: bool = False) -> None:
        self.client = client
        self.channels: list[Piped] = []
        self._holds = holds
        self._acks = acks
        self.directory = Path(tempfile.mkdtemp(prefix="psync-rsh-", dir="/tmp"))
        self._listener = socket.socket(socket.AF_UNIX)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Shell:
        (self.directory / "rsh.py").write_text(HELPER)
        self._listener.bind(f"{self.directory}/s")
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._task = asyncio.get_running_loop().create_task(self._accept())
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: object, _tb: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        for channel in self.channels:
            channel.abandon()
        self._listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(True)
            command, fds, _, _ = socket.recv_fds(sock, 65536, 3)
            channel = Piped(self.client, sock, fds)
            channel.acks = self._acks
            channel.holds = self._holds
            self.channels.append(channel)
            channel.begin(command)

    def start_words(self, *words: str | bytes | Path) -> list[str | bytes | Path]:
        """Return rsync's command line."""
        shell = f"{sys.executable} -I -S {self.directory}/rsh.py {self.directory}/s"
        return ["rsync", "-s", "-e", shell, *words]

    async def rsync(self, *words: str | bytes | Path, cwd: Path | None = None) -> Done:
        """Run rsync to its end."""
        process = await asyncio.create_subprocess_exec(
            *self.start_words(*words),
            cwd=cwd,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(2 * TIMEOUT):
                out, err = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return Done(process.returncode, out, err)
