"""A stand-in for the daemon: blocking sockets, real launcher, real supervisor, real programs."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.waiting import wait_until

from psync.supervisor import launcher, record, wire
from psync.supervisor.log import Gap, LogReader

WAIT = 30.0  # seconds; far more than anything here takes, less than the tests' own timeout


class Launcher:
    """A real launcher process and the daemon's end of its socket."""

    def __init__(
        self, argv: Callable[[int], list[str]] = launcher.command, *, close_fds: bool = True
    ) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(WAIT)
        with theirs:
            theirs.set_inheritable(True)
            self.process = subprocess.Popen(
                argv(theirs.fileno()),
                pass_fds=[theirs.fileno()] if close_fds else (),
                close_fds=close_fds,
                stdin=subprocess.DEVNULL,
            )
        self._decoder = wire.FrameDecoder(wire.FROM_LAUNCHER)

    def launch(self, run_dir: Path) -> wire.Frame:
        self.socket.sendall(wire.Launch(os.fsencode(run_dir)).encode())
        while True:
            data = self.socket.recv(65536)
            assert data, "the launcher is gone"
            frames = self._decoder.feed(data)
            if frames:
                (frame,) = frames
                return frame

    def close(self) -> None:
        self.socket.close()
        self.process.wait(WAIT)


class Connection:
    """One connection of a daemon to a supervisor."""

    def __init__(self, run_dir: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT)
        path, fd = record.connect_path(str(run_dir))
        try:
            self.socket.connect(path)
        finally:
            if fd is not None:
                os.close(fd)
        self._decoder = wire.FrameDecoder(wire.FROM_SUPERVISOR)
        self.frames: list[wire.Frame] = []
        self.closed = False
        hello = self.expect(wire.Hello)
        assert isinstance(hello, wire.Hello)
        self.hello = hello

    def send(self, *frames: wire.Frame) -> None:
        """Send frames; nothing happens if the supervisor has gone, as ``receive`` will tell."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(b"".join(frame.encode() for frame in frames))

    def receive(self) -> None:
        """Take what comes next into ``frames``."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if data:
            self.frames += self._decoder.feed(data)
        else:
            self.closed = True

    def poll(self) -> bool:
        """Whether something can be received at once."""
        return not self.closed and bool(select.select([self.socket], [], [], 0)[0])

    def expect(self, kind: type[wire.Frame]) -> wire.Frame:
        """Wait for the first frame of that kind, dropping what comes before it."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if isinstance(frame, kind):
                    return frame
            assert not self.closed, f"closed while waiting for {kind.__name__}"
            self.receive()

    def expect_stdin_taken(self, offset: int) -> None:
        while True:
            frame = self.expect(wire.StdinTaken)
            assert isinstance(frame, wire.StdinTaken)
            assert frame.offset <= offset
            if frame.offset == offset:
                return

    def expect_closed(self) -> None:
        while not self.closed:
            self.receive()

    def close(self) -> None:
        self.socket.close()


class Run:
    """One run as a daemon sees it."""

    def __init__(self, run_dir: Path, pid: int) -> None:
        self.dir = run_dir
        self.pid = pid  # of the supervisor
        self.start_time = record.process_start_time(pid)
        self._reader: LogReader | None = None

    def connect(self) -> Connection:
        return Connection(self.dir)

    @property
    def reader(self) -> LogReader:
        if self._reader is None:
            self._reader = LogReader(str(self.dir))
        return self._reader

    @property
    def alive(self) -> bool:
        return record.is_process(self.pid, self.start_time)

    def wait_over(self) -> record.Exit:
        """Wait until the supervisor has gone and return its record."""
        wait_until(lambda: not self.alive)
        return record.read_exit(str(self.dir))

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Everything the log has now."""
        offset = self.reader.oldest
        while True:
            stream, data = self.reader.read(offset)
            if not data:
                return
            yield stream, data
            offset += len(data)

    def output(self, *streams: int) -> bytes:
        return b"".join(d for s, d in self.pieces() if not streams or s in streams)

    def wait_output(self, connection: Connection, data: bytes) -> None:
        """Wait, driven by ``Grew``, until the log contains ``data``."""
        while data not in self.output():
            connection.expect(wire.Grew)

    def follow(self, connection: Connection, *, floor: bool = True) -> Iterator[tuple[int, bytes]]:
        """Read as a daemon with one client does, until the run's end."""
        offset = 0
        while True:
            try:
                stream, data = self.reader.read(offset)
            except Gap as gap:
                yield 0, str(gap.end - gap.start).encode()
                offset = gap.end
                continue
            if data:
                offset += len(data)
                yield stream, data
                if floor:
                    connection.send(wire.Floor(offset))
                continue
            if connection.closed and offset == self.reader.end:
                return
            connection.receive()
            connection.frames.clear()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        if self.alive:  # the test failed, or was done with it
            with contextlib.suppress(OSError, AssertionError):
                connection = self.connect()
                connection.send(wire.Kill())
                connection.expect_closed()
            wait_until(lambda: not self.alive)


def python(code: str, *args: str | bytes) -> list[bytes]:
    """argv of a quick interpreter that runs ``code``."""
    return [os.fsencode(part) for part in (sys.executable, "-I", "-S", "-c", code, *args)]


class Runs:
    """Starts runs and clears up after them."""

    def __init__(self, root: Path, starter: Launcher) -> None:
        self.root = root
        self.launcher = starter
        self._runs: list[Run] = []

    def make(self, argv: list[bytes], **options: object) -> Path:
        run_dir = self.root / f"run-{len(list(self.root.iterdir()))}"
        run_dir.mkdir(mode=0o700)
        values: dict[str, object] = {
            "argv": argv,
            "env": [(b"PATH", os.fsencode(os.environ["PATH"])), (b"LANG", b"C.UTF-8")],
            "cwd": os.fsencode(self.root),
            **options,
        }
        record.write_spec(str(run_dir), record.Spec(**values))  # type: ignore[arg-type]
        return run_dir

    def start(self, argv: list[bytes], **options: object) -> Run:
        run_dir = self.make(argv, **options)
        answer = self.launcher.launch(run_dir)
        assert isinstance(answer, wire.Launched), getattr(answer, "message", answer)
        run = Run(run_dir, answer.pid)
        self._runs.append(run)
        return run

    def close(self) -> None:
        for run in self._runs:
            run.close()
