"""This process's stdout and stderr: a run's bytes written out exactly, at once, never blocking.

A pipe that nobody reads must not stop heartbeats or Ctrl-C. So what cannot be written right now
waits: in the event loop where the descriptor can be had non-blocking, else in a thread. How much
can wait is bounded by the window of the protocol: what is not written is not acknowledged, and what
is not acknowledged is not followed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from psync.client.run import Gap, Output, RemoteRun
from psync.model import Stream

PIPE_BUF = 4096
"""A pipe that poll() calls writable takes so much without waiting (pipe(7))."""

_MOST_PIECES = 64  # handed to one writev(); far below IOV_MAX, 1024
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # the reader, the terminal or the descriptor is gone


class DescriptorWriter(Protocol):
    """Writes to one descriptor in order and never blocks. Made by ``descriptor_writer``.

    Attributes:
        failure: what ended the writing; what comes afterwards goes nowhere.
    """

    failure: OSError | None

    @property
    def first_waiting(self) -> int | None:
        """Offset of the first byte that is not written yet; None when nothing waits."""

    def write(self, offset: int, data: bytes) -> bool:
        """Write ``data``; return whether it is written already."""

    def discard(self) -> int:
        """Forget what is not written yet; return how many bytes. A write going on stays."""

    def close(self) -> None:
        """Let go once everything is written; does not wait for it."""


def descriptor_writer(fd: int, on_progress: Callable[[], None]) -> DescriptorWriter:
    """Return the writer that suits a descriptor.

    Args:
        fd: the descriptor; stays open and keeps its flags, which it shares with other processes.
        on_progress: called in the event loop when something was written later than ``write``.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return ThreadWriter(fd, on_progress)  # which reports what is wrong with it
    if stat.S_ISFIFO(mode) or os.isatty(fd):
        own = _reopen(fd)
        if own is not None:
            return LoopWriter(own, on_progress)
    return ThreadWriter(fd, on_progress)


class LoopWriter:
    """Writes in the event loop, to an open file description of its own that does not block.

    Three times cheaper than handing each piece to a thread, which is what a flood of output costs
    most on the client.

    Args:
        fd: non-blocking, and owned from now on.
        on_progress: see ``descriptor_writer``.
    """

    def __init__(self, fd: int, on_progress: Callable[[], None]) -> None:
        self.failure: OSError | None = None
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress
        self._queue: deque[tuple[int, bytes]] = deque()
        self._closing = False

    @property
    def first_waiting(self) -> int | None:
        """Offset of the first byte that is not written yet; None when nothing waits."""
        return self._queue[0][0] if self._queue else None

    def write(self, offset: int, data: bytes) -> bool:
        """Write ``data``; return whether it is written already."""
        if self.failure is not None:
            return True  # to nowhere
        if not self._queue:
            count = self._try([data])
            if count == len(data) or self.failure is not None:
                return True
            offset, data = offset + count, data[count:]
            self._loop.add_writer(self._fd, self._flush)
        self._queue.append((offset, data))
        return False

    def discard(self) -> int:
        """Forget what is not written yet; return how many bytes."""
        count = sum(len(data) for _, data in self._queue)
        if self._queue:
            self._queue.clear()
            self._loop.remove_writer(self._fd)
        return count

    def close(self) -> None:
        """Let go once everything is written; does not wait for it."""
        self._closing = True
        if not self._queue:
            self._let_go()

    def _try(self, pieces: list[bytes]) -> int:
        try:
            return os.writev(self._fd, pieces)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.failure = error
            return 0

    def _flush(self) -> None:
        count = self._try([data for _, data in islice(self._queue, _MOST_PIECES)])
        _drop(self._queue, count)
        if self.failure is not None:
            self._queue.clear()
        if not self._queue:
            self._loop.remove_writer(self._fd)
            if self._closing:
                self._let_go()
        self._on_progress()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ThreadWriter:
    """Writes at once where that does not wait, else in a thread: sockets, other systems' pipes.

    Args:
        fd: see ``descriptor_writer``.
        on_progress: see ``descriptor_writer``.
    """

    def __init__(self, fd: int, on_progress: Callable[[], None]) -> None:
        self.failure: OSError | None = None
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress
        self._direct = _takes_at_once(fd)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._queue: deque[tuple[int, bytes]] = deque()
        self._ready = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def first_waiting(self) -> int | None:
        """Offset of the first byte that is not written yet; None when nothing waits."""
        try:
            return self._queue[0][0]
        except IndexError:  # also when the thread took it a moment ago
            return None

    def write(self, offset: int, data: bytes) -> bool:
        """Write ``data``; return whether it is written already."""
        if self.failure is not None:
            return True  # to nowhere
        if self._direct and not self._queue and len(data) <= PIPE_BUF and self._poll.poll(0):
            try:
                count = os.write(self._fd, data)
            except BlockingIOError:
                count = 0
            except OSError as error:
                self.failure = error
                return True
            if count == len(data):
                return True
            offset, data = offset + count, data[count:]
        with self._ready:
            if self.failure is not None:
                return True
            self._queue.append((offset, data))
            self._ready.notify()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=f"write-{self._fd}", daemon=True
            )
            self._thread.start()
        return False

    def discard(self) -> int:
        """Forget what is not written yet; return how many bytes. A write going on stays."""
        with self._ready:
            count = sum(len(data) for _, data in self._queue)
            self._queue.clear()
        return count

    def close(self) -> None:
        """End the thread once everything is written; does not wait for it."""
        with self._ready:
            self._closing = True
            self._ready.notify()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue:
                    if self._closing:
                        return
                    self._ready.wait()
                pieces = [data for _, data in islice(self._queue, _MOST_PIECES)]
            try:
                count = os.writev(self._fd, pieces)
            except BlockingIOError:  # somebody made the open file non-blocking
                self._poll.poll()
                continue
            except OSError as error:
                with self._ready:
                    self.failure = error
                    self._queue.clear()
                self._tell()
                return
            with self._ready:
                _drop(self._queue, count)  # of which only this thread takes
            self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_progress)
        except RuntimeError:  # the loop is closed: psync is on its way out
            return


class OutputWriter:
    """Writes a run's output to this process's stdout and stderr and acknowledges it.

    Where both lead to the same file (a terminal, ``2>&1``) one writer keeps the run's own order.

    Args:
        run: a run that has begun; its output is taken over.
        on_gap: called with the number of bytes that were dropped on the daemon host.
        on_closed: called when nobody reads a stream here any more; by default that closes it for
            the program.

    Attributes:
        discarded: how many bytes were not written because of ``discard``.
    """

    def __init__(
        self,
        run: RemoteRun,
        *,
        stdout: int = 1,
        stderr: int = 2,
        on_gap: Callable[[int], None] = lambda _count: None,
        on_closed: Callable[[Stream], None] | None = None,
    ) -> None:
        self._run = run
        self._on_closed = on_closed or run.close_output
        self._on_gap = on_gap
        self.discarded = 0
        self._discarding = False
        self._received = 0
        self._drained = asyncio.Event()
        self._drained.set()
        out = descriptor_writer(stdout, self._progress)
        shared = _same_file(stdout, stderr)
        err = out if shared else descriptor_writer(stderr, self._progress)
        self._writers: dict[Stream, DescriptorWriter] = {Stream.STDOUT: out, Stream.STDERR: err}
        run.deliver_to(self._take)

    async def drain(self) -> None:
        """Wait until everything that has come is written, or cannot be any more."""
        await self._drained.wait()

    def discard(self) -> None:
        """Write nothing more. A run's end comes after its output, and nobody may be reading it."""
        if not self._discarding:
            self._discarding = True
            self.discarded = sum(writer.discard() for writer in set(self._writers.values()))
            self._progress()

    def close(self) -> None:
        """Let go once what waits is written; does not wait for it."""
        for writer in self._writers.values():
            writer.close()

    def failure(self) -> OSError | None:
        """Return what kept output from being written, other than that nobody reads it."""
        for writer in self._writers.values():
            if writer.failure is not None and writer.failure.errno not in _GONE:
                return writer.failure
        return None

    def _take(self, piece: Output | Gap) -> None:
        self._received = piece.end
        if isinstance(piece, Gap):
            self._on_gap(piece.end - piece.offset)
        elif self._discarding:
            self.discarded += len(piece.data)
        elif not self._writers[piece.stream].write(piece.offset, piece.data):
            self._drained.clear()
            return
        self._progress()

    def _progress(self) -> None:
        waiting = self._received
        idle = True
        for stream, writer in self._writers.items():
            first = writer.first_waiting
            if first is not None:
                idle = False
                waiting = min(waiting, first)
            if writer.failure is not None:
                self._on_closed(stream)
        self._run.consumed(waiting)
        if idle:
            self._drained.set()


def _drop(queue: deque[tuple[int, bytes]], count: int) -> None:
    """Take ``count`` written bytes off a queue."""
    while count:
        offset, data = queue[0]
        if count < len(data):
            queue[0] = (offset + count, data[count:])
            return
        count -= len(data)
        queue.popleft()


def _reopen(fd: int) -> int | None:
    """Return a non-blocking descriptor of the same pipe or terminal, None where there is no way.

    It is an open file of its own: setting O_NONBLOCK on the inherited one would surprise every
    process that shares it. /proc has this on Linux; /dev/fd elsewhere only duplicates.
    """
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # no /proc, or the pipe is another user's
        return None


def _takes_at_once(fd: int) -> bool:
    """Whether a small write never waits when poll() says so: true of pipes, files and /dev/null.

    A terminal promises no such thing, and neither does a socket.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
