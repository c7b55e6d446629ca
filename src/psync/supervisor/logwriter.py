"""Writing a run's output log (the format stands in ``log``). One writer per run, ever.

Segments that every client has read are used again, in place: the file is renamed to the new
segment's name and written over. Giving a file new pages is what costs most in this path. Measured
here, `head -c 4G /dev/zero` into a pipe, read into one buffer and written: 740 to 1,030 MB/s into
new segments, 2,360 to 2,540 MB/s into used ones. ``splice`` from pipe to file was slower in both
(410 to 760 and 2,060 to 2,230 MB/s) and needs a second path where it is not supported.
"""

from __future__ import annotations

import errno
import os
import time

from psync.supervisor import index
from psync.supervisor.cursor import Cursor
from psync.supervisor.log import SEGMENT, index_name, output_name

_STRETCH_NS = 100_000_000
"""Most time within one stretch; what lets a reader tell when bytes came."""

_LONG_STRETCH_NS = 1_000_000_000
"""The same in a segment whose index has become long: it fills so slowly that days are in it."""

_LONG = 1024 * 1024
"""Bytes of an index that is long: more than an hour of entries."""


_SMALLEST = 64 * 1024  # bytes of a segment on the smallest of disks


class LogWriter:
    """Appends to the log in ``run_dir`` and keeps it within its limits.

    Args:
        run_dir: the run directory; there is no log in it yet.
        limit: most unread bytes (``end`` minus ``floor``).
        keep: bytes below the floor that stay readable, their index included.
        drop: at the limit drop the oldest segment instead of taking nothing more.

    Attributes:
        cursor: what readers see.
        lead: offset up to which the log may grow for now, None for as far as the limit goes.
        failure: why the last ``append`` took less than it was given, None if it took all.

    Raises:
        OSError: no space for the cursor.
    """

    def __init__(self, run_dir: str, *, limit: int, keep: int, drop: bool) -> None:
        # Dropping goes by whole segments: a small limit needs smaller ones.
        # So does a small disk: what was read makes room by whole segments too.
        room = os.statvfs(run_dir)
        few = max(_SMALLEST, room.f_bavail * room.f_frsize // 16)
        segment = max(4096, min(SEGMENT, limit // 4, few) // 4096 * 4096)
        self.cursor = Cursor.create(run_dir, segment)
        self.lead: int | None = None
        self.failure: OSError | None = None
        self._dir = run_dir
        self._limit = limit
        self._keep = keep
        self._drop = drop
        self._segment = segment
        self._end = 0
        self._floor = 0
        self._oldest = 0
        self._spare = ""  # a retired segment's path, to be renamed to the next segment
        self._output = -1
        self._index = -1
        self._start = 0  # of the open segment
        self._entries = 0  # bytes in its index
        self._indexes: dict[int, int] = {}  # the same of every segment before it, by its start
        self._stream = 0
        self._stamp = 0

    @property
    def end(self) -> int:
        """How many bytes the log has taken."""
        return self._end

    @property
    def room(self) -> int:
        """How many bytes may be appended now; more comes with ``raise_floor`` and ``lead``."""
        if self._drop:
            return self._limit
        until = self._floor + self._limit
        if self.lead is not None and self.lead < until:
            until = self.lead
        return max(0, until - self._end)

    def raise_floor(self, offset: int) -> None:
        """Take note that nobody needs the output below ``offset``; it never falls."""
        if offset > self._floor:
            self._floor = self.cursor.floor = min(offset, self._end)

    def append(self, stream: int, data: memoryview) -> int:
        """Append bytes of one stream, at most ``room``; return how many of them are in the log.

        Less than all of them means that the disk failed (``failure`` says how); the rest may be
        tried again at any time. What the log has is valid in any case.
        """
        done, size = 0, len(data)
        self.failure = None
        try:
            while done < size:
                at = self._end - self._start
                if self._output < 0 or at == self._segment:
                    self._next_segment()
                    at = 0
                count = os.pwrite(self._output, data[done : done + self._segment - at], at)
                now = time.time_ns()
                # Also where the wall clock was set back.
                stretch = _STRETCH_NS if self._entries < _LONG else _LONG_STRETCH_NS
                if stream != self._stream or not 0 <= now - self._stamp < stretch:
                    self._add_entry(now, stream)
                self._end += count
                self.cursor.end = self._end
                done += count
        except OSError as error:
            if error.errno == errno.ENOSPC and self._make_room():
                return done + self.append(stream, data[done:])
            self.failure = error
        return done

    def _make_room(self) -> bool:
        """On a full disk what every client has read goes, kept or not; return whether any did."""
        made = False
        while self._oldest + self._segment <= min(self._floor, self._start):
            self._drop_oldest(reuse=False)
            made = True
        return made

    def finish(self) -> None:
        """Cut the last segment to what is valid and close the files. Errors are of no consequence.

        A used segment that is not full again ends in bytes of long ago.
        """
        try:
            if self._output >= 0:
                os.ftruncate(self._output, self._end - self._start)
            if self._spare:
                os.unlink(self._spare)
                self._spare = ""
        except OSError:
            pass
        self._close()
        self.cursor.seal()

    def _add_entry(self, now: int, stream: int) -> None:
        entry = index.pack(self._end, now, stream)
        done = 0
        while done < len(entry):
            done += os.pwrite(self._index, entry[done:], self._entries + done)
        self._entries += len(entry)
        self._stream, self._stamp = stream, now

    def _next_segment(self) -> None:
        """Open the segment that starts at ``end``. May fail half-way and be called again."""
        self._close()
        start = self._end
        if self._start >= self._oldest:  # not where this is tried again
            self._indexes[self._start] = self._entries
        self._retire(start)
        path = f"{self._dir}/{output_name(start)}"
        if self._spare:
            os.rename(self._spare, path)
            self._spare = ""
        output = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._index = os.open(
                f"{self._dir}/{index_name(start)}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600
            )
        except OSError:
            os.close(output)
            raise
        self._output, self._start, self._entries, self._stream = output, start, 0, 0

    def _retire(self, start: int) -> None:
        """Give up old segments before the one at ``start``; keep one file of them to use again."""
        while self._oldest < start:
            after = self._oldest + self._segment
            beside = self._indexes[self._oldest]
            kept = self._floor - after + sum(self._indexes.values()) - beside
            read = self._floor >= after and kept >= self._keep
            unread = start + self._segment - max(self._oldest, self._floor)
            if not read and not (self._drop and unread > self._limit):
                break
            self._drop_oldest(reuse=not self._spare)

    def _drop_oldest(self, *, reuse: bool) -> None:
        output = f"{self._dir}/{output_name(self._oldest)}"
        index_file = f"{self._dir}/{index_name(self._oldest)}"
        del self._indexes[self._oldest]
        self._oldest = self.cursor.oldest = self._oldest + self._segment  # before files are touched
        os.unlink(index_file)
        if reuse:
            self._spare = output
        else:
            os.unlink(output)

    def _close(self) -> None:
        for fd in (self._output, self._index):
            if fd >= 0:
                os.close(fd)
        self._output = self._index = -1
