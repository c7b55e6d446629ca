"""rsync's two ends of a transfer, which its remote shell hands over; see ``sync.remote_shell``.

    begin ──▶ words and descriptors ──▶ rsync's arguments ──▶ on_request ──▶ read, write ──▶ close

All of it is driven by the event loop; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice

from psync.errors import PsyncError, SyncError
from psync.protocol.messages import MAX_ARGUMENTS

GONE = 255
"""The exit status that rsync gets where nobody knows that of the one on the other side."""

MOST_PIECES = 64
"""Pieces that are written with one system call."""

_MOST_WORDS = 4096  # bytes of what rsync wants to have run


class Ends:
    """What rsync writes and reads, and the process that waits for its exit status.

    Args:
        loop: the event loop.
        on_request: called once, with the command that rsync wants to be run, its arguments up to
            and including the empty one, and what it has written after them.
        on_readable: called while reading is wanted and there is something to be read.
        on_taken: called when rsync has taken something, or wants no more.
        on_gone: called when the remote shell has ended, or never began.
        on_failed: called when what rsync asks for cannot be had.

    Attributes:
        taken: bytes that rsync took of what was written, or threw away.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_request: Callable[[tuple[bytes, ...], bytes, bytes], None],
        on_readable: Callable[[], None],
        on_taken: Callable[[], None],
        on_gone: Callable[[], None],
        on_failed: Callable[[PsyncError], None],
    ) -> None:
        self.taken = 0
        self._loop = loop
        self._on_request = on_request
        self._on_readable = on_readable
        self._on_taken = on_taken
        self._on_gone = on_gone
        self._on_failed = on_failed
        self._meeting: socket.socket | None = None
        self._said = bytearray()
        self._handed: list[int] = []
        self._words: tuple[bytes, ...] = ()
        self._arguments: bytearray | None = bytearray()  # None once they are complete
        self._shell: socket.socket | None = None
        self._from = self._to = -1
        self._reading = self._writing = False
        self._queue: deque[memoryview] = deque()

    @property
    def waiting(self) -> bool:
        """Whether something is not taken yet."""
        return bool(self._queue)

    @property
    def paused(self) -> bool:
        """Whether there may be something to read, and ``on_readable`` is not to be called."""
        return self._from != -1 and not self._reading

    def begin(self, meeting: socket.socket) -> None:
        """Wait for the remote shell on a socket, which is this object's from now on."""
        self._meeting = meeting
        self._loop.add_reader(meeting, self._meet)

    def read_into(self, view: memoryview) -> int | None:
        """Read what rsync has written; 0 at its end, None where there is nothing yet."""
        try:
            return os.readv(self._from, [view])
        except BlockingIOError:
            return None
        except OSError:  # it was killed, and had not read all
            return 0

    def read(self, wanted: bool) -> None:
        """Have ``on_readable`` called, or not."""
        wanted = wanted and self._from != -1
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._from, self._readable)
            else:
                self._loop.remove_reader(self._from)

    def write(self, data: bytes) -> None:
        """Give rsync something, now or when it takes it."""
        self._queue.append(memoryview(data))
        if not self._writing:
            self._write()

    def close_input(self) -> None:
        """rsync's end of what it writes was read, or nobody wants more of it."""
        if self._from != -1:
            self.read(False)
            os.close(self._from)
            self._from = -1

    def close(self, status: int | None = None) -> None:
        """Let go of rsync; the remote shell ends with ``status``, or as if psync had ended."""
        if self._meeting is not None:
            self._close_meeting(self._meeting)
        self.close_input()
        self._queue.clear()
        if self._to != -1:
            self._want_write(False)
            os.close(self._to)
            self._to = -1
        shell, self._shell = self._shell, None
        if shell is not None:
            self._loop.remove_reader(shell)
            try:
                if status is not None:
                    shell.send(bytes((status if 0 <= status < GONE else GONE,)))
            except OSError:
                pass  # it is gone, so nobody asks
            shell.close()

    # -- inside ------------------------------------------------------------------------

    def _meet(self) -> None:
        """The remote shell hands rsync's descriptors over."""
        assert self._meeting is not None
        flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
        try:
            said, handed, _, _ = socket.recv_fds(self._meeting, _MOST_WORDS, 3, flags)
        except BlockingIOError:
            return
        except OSError:
            said, handed = b"", []
        self._said += said
        self._handed += handed
        if self._said.endswith(b"\0\0") and len(self._handed) == 3:
            self._from, self._to, shell = self._handed
            self._handed = []
            self._close_meeting(self._meeting)
            self._words = tuple(bytes(self._said[:-2]).split(b"\0"))[1:]  # the first is a host
            os.set_blocking(self._from, False)
            os.set_blocking(self._to, False)
            self._shell = socket.socket(fileno=shell)
            self._shell.setblocking(False)
            self._loop.add_reader(self._shell, self._on_gone)  # it never says anything
            self.read(True)
        elif not said or len(self._said) > _MOST_WORDS:
            self._close_meeting(self._meeting)
            self._on_gone()

    def _close_meeting(self, meeting: socket.socket) -> None:
        self._meeting = None
        self._loop.remove_reader(meeting)
        meeting.close()
        for fd in self._handed:
            os.close(fd)
        self._handed = []

    def _readable(self) -> None:
        if self._arguments is None:
            self._on_readable()
        else:
            self._read_arguments(self._arguments)

    def _read_arguments(self, known: bytearray) -> None:
        """Read what rsync sends first, up to an empty argument."""
        piece = bytearray(1024)
        count = self.read_into(memoryview(piece))
        if count is None:
            return
        begin = max(len(known) - 1, 0)
        known += piece[:count]
        end = known.find(b"\0\0", begin) + 2
        if 2 <= end <= MAX_ARGUMENTS:
            self._arguments = None
            self._on_request(self._words, bytes(known[:end]), bytes(known[end:]))
        elif len(known) > MAX_ARGUMENTS:
            self.read(False)
            self._on_failed(
                SyncError(
                    f"rsync's arguments are longer than the {MAX_ARGUMENTS} bytes that a daemon "
                    "takes",
                    hint="use shorter names, or fewer at a time",
                )
            )
        elif count == 0:
            self._on_gone()

    def _write(self) -> None:
        while self._queue:
            try:
                count = os.writev(self._to, list(islice(self._queue, MOST_PIECES)))
            except BlockingIOError:
                break
            except OSError:  # it does not want more; why, it says itself
                count = sum(map(len, self._queue))
            self.taken += count
            while count:
                piece = self._queue[0]
                if count < len(piece):
                    self._queue[0] = piece[count:]
                    break
                count -= len(piece)
                self._queue.popleft()
        self._want_write(bool(self._queue))
        self._on_taken()

    def _want_write(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._to, self._write)
            else:
                self._loop.remove_writer(self._to)
