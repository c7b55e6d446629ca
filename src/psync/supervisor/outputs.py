"""From the program's pipes into the log, and what stands in between: limits, full disks, floods."""

from __future__ import annotations

import errno
import fcntl
import os
import select

from psync.supervisor.log import STDERR, STDOUT
from psync.supervisor.logwriter import LogWriter
from psync.supervisor.loop import Loop

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

_BUFFER = 256 * 1024
_PIPE = 64 * 1024  # what a pipe holds unless told otherwise
_TURNS = 4  # reads of one pipe before anything else gets its turn
_FLOOD = 16  # full pipes in a row
_DISK_PAUSE = 0.5  # seconds


class Outputs:
    """Reads stdout and stderr of the program as long as the log takes it. Owns both descriptors.

    Args:
        drained: called when both pipes are at their end (or closed, or given up) and the log has
            all that came from them; never from within ``__init__``.

    Attributes:
        grew: bytes were added to the log; for the owner to reset.
    """

    def __init__(
        self, loop: Loop, log: LogWriter, stdout: int, stderr: int, drained: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._log = log
        self._fds = {STDOUT: stdout, STDERR: stderr}
        self._drained = drained
        self._buffer = memoryview(bytearray(_BUFFER))
        self._rest = self._buffer[:0]  # read, but not in the log because the disk failed
        self._rest_stream = 0
        self._full = dict.fromkeys(self._fds, 0)  # full reads in a row
        self._nobody_writes = False
        self._give_up = False
        self.grew = False
        self._watch()

    @property
    def done(self) -> bool:
        """Whether everything there was is in the log."""
        return not self._fds and not self._rest

    def resume(self) -> None:
        """Go on if reading waited for room in the log."""
        self._watch()
        if self._nobody_writes:
            self.finish()

    def close_stream(self, stream: int) -> None:
        """Close the read end; the program gets SIGPIPE when it writes to that stream again."""
        if stream in self._fds:
            if stream == self._rest_stream:
                self._rest = self._buffer[:0]
            self._end(stream)
            self._watch()

    def finish(self) -> None:
        """Take it that nobody is left who could write: an empty pipe is at its end.

        Without this a descriptor that was handed to a stranger would keep the run open for ever.
        """
        self._nobody_writes = True
        for stream in tuple(self._fds):
            self._read(stream)

    def give_up(self) -> None:
        """Drop what the log does not take, as soon as it does not take it."""
        self._give_up = True
        self._watch()

    def _watch(self) -> None:
        able = not self._rest and self._log.room > 0
        for stream, fd in tuple(self._fds.items()):
            if able:
                callback = self._on_stdout if stream == STDOUT else self._on_stderr
                self._loop.watch(fd, select.POLLIN, callback)
            else:
                self._loop.unwatch(fd)  # not events 0: a hang-up would be told again and again
        if not able and self._give_up:
            self._drop()

    def _on_stdout(self, events: int) -> None:
        self._read(STDOUT)

    def _on_stderr(self, events: int) -> None:
        self._read(STDERR)

    def _read(self, stream: int) -> None:
        log, fd = self._log, self._fds.get(stream, -1)
        turns = _TURNS
        while fd >= 0 and not self._rest and (self._nobody_writes or turns):
            turns -= 1
            room = log.room
            if not room:
                if self._nobody_writes and not _readable(fd):
                    self._end(stream)
                else:
                    self._watch()
                return
            try:
                count = os.readv(fd, [self._buffer[:room]])
            except BlockingIOError:
                if self._nobody_writes:
                    self._end(stream)
                return
            if not count:
                self._end(stream)
                return
            taken = log.append(stream, self._buffer[:count])
            self.grew |= taken > 0
            if taken < count:
                self._rest, self._rest_stream = self._buffer[taken:count], stream
                self._loop.call_in("disk", _DISK_PAUSE, self._retry)
                self._watch()
                return
            if count < _PIPE:
                self._full[stream] = 0
                if not self._nobody_writes:
                    return  # most likely it is empty now
            else:
                self._note_flood(stream, fd)

    def _note_flood(self, stream: int, fd: int) -> None:
        """Give a program that fills its pipe all the time a larger one.

        Only then: the space for pipes is limited for all of the user's runs together
        (/proc/sys/fs/pipe-user-pages-soft).
        """
        self._full[stream] += 1
        if self._full[stream] == _FLOOD and hasattr(fcntl, "F_SETPIPE_SZ"):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _BUFFER)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EBUSY, errno.ENOMEM):
                    raise

    def _retry(self) -> None:
        if not self._rest:  # dropped meanwhile
            return
        taken = self._log.append(self._rest_stream, self._rest)
        self.grew |= taken > 0
        self._rest = self._rest[taken:]
        if self._rest:
            self._loop.call_in("disk", _DISK_PAUSE, self._retry)
        elif not self._fds:
            self._drained()
        self.resume()

    def _drop(self) -> None:
        rest, self._rest = self._rest, self._buffer[:0]
        if rest and not self._fds:
            self._drained()
        for stream in tuple(self._fds):
            self._end(stream)

    def _end(self, stream: int) -> None:
        fd = self._fds.pop(stream)
        self._loop.unwatch(fd)
        os.close(fd)
        if self.done:
            self._drained()


def _readable(fd: int) -> bool:
    """Tell whether a pipe holds bytes, without reading them."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
