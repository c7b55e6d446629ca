"""The program's stdin: bytes with offsets in, a non-blocking pipe out, never a byte twice."""

from __future__ import annotations

import os
import select

from psync.supervisor.loop import Loop
from psync.supervisor.wire import STDIN_WINDOW, Stdin, StdinEof, WireError


class StdinFeed:
    """Feeds the write end of the program's stdin pipe, which it owns.

    Attributes:
        taken: stdin below this offset is in the pipe, or swallowed because nobody reads it.
        closed: the program closed its stdin, or ended.
        ended: the end of the stream is known.
    """

    def __init__(self, loop: Loop, fd: int) -> None:
        self._loop = loop
        self._fd = fd
        self._waiting = bytearray()
        self.taken = 0
        self.closed = False
        self.ended = False
        self._watch()

    def accept(self, frame: Stdin) -> None:
        """Take bytes; what is known already is ignored.

        Raises:
            WireError: a hole, more than the window, or bytes behind the end.
        """
        received = self.taken + len(self._waiting)
        if frame.offset > received:
            raise WireError(f"stdin at {frame.offset}, expected at {received}")
        data = frame.data[received - frame.offset :]
        if not data:
            return
        if self.ended:
            raise WireError("stdin behind its end")
        if len(self._waiting) + len(data) > STDIN_WINDOW:
            raise WireError("more stdin than the window allows")
        self._waiting += data
        self._flush()

    def accept_eof(self, frame: StdinEof) -> None:
        """Take note of the end.

        Raises:
            WireError: the end is not where the bytes end.
        """
        if frame.offset != self.taken + len(self._waiting):
            raise WireError(f"stdin ends at {frame.offset}, which is not where its bytes end")
        self.ended = True
        self._flush()

    def close(self) -> None:
        """Close the pipe; what waits and what still comes is swallowed."""
        self.closed = True
        self._close()
        self._flush()

    def _flush(self) -> None:
        if self.closed:
            self.taken += len(self._waiting)
            self._waiting.clear()
            return
        while self._waiting:
            try:
                count = os.write(self._fd, self._waiting)
            except BlockingIOError:
                break
            except OSError:  # EPIPE
                self.close()
                return
            del self._waiting[:count]
            self.taken += count
        if self.ended and not self._waiting:
            self._close()
        else:
            self._watch()

    def _watch(self) -> None:
        if self._fd >= 0:
            # Without POLLOUT only an error is told: the program has closed its end.
            events = select.POLLOUT if self._waiting else 0
            self._loop.watch(self._fd, events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if events & select.POLLERR:
            self.close()
        else:
            self._flush()

    def _close(self) -> None:
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1
