"""Finding a place in a run's log: its last lines, or where a time begins. Pure reading.

Works while the supervisor writes and recycles, and after its death. A time costs a binary search
among the first index entries of the segments and another one in a single index. Lines cost reading
backwards what they consist of, in blocks. Memory does not depend on the size of the log.

What is recycled during the search is no error: the place is moved up to the oldest byte.
"""

from __future__ import annotations

import os

from psync.supervisor import index
from psync.supervisor.cursor import Cursor, LogDamaged
from psync.supervisor.log import index_name, output_name

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 256 * 1024
"""Bytes of output that are read at a time."""


def locate(
    run_dir: str,
    lines: int | None = None,
    since: float | None = None,
    stream: int | None = None,
) -> tuple[int, int, int]:
    """Return a place in the log, the oldest byte that can be read, and the end.

    Blocking: many lines of a large log take as long as reading them. With both ``lines`` and
    ``since`` it is the later of the two places, with neither the oldest byte.

    Args:
        run_dir: the run directory.
        lines: the beginning of the last so many lines, as ``tail -n`` counts them: what follows the
            last newline is one, too. The end for 0, the oldest byte where there are fewer.
        since: the first output at or after this time, in seconds since the epoch; the end where
            there is none. Output has the time that its index entry has, so that it may have been
            written up to some 100 ms later. Where the clock was set back, times do not rise, and it
            is one of the places where they come to ``since`` from below.
        stream: count only lines of this stream; the place is the first byte of such a line.

    Raises:
        FileNotFoundError: the run has no log.
        LogDamaged: files of it are missing, cut or damaged.
        OSError: the disk failed.
    """
    log = _Log(run_dir)
    try:
        place = log.oldest
        if lines is not None:
            place = log.last_lines(lines, stream)
        if since is not None:
            # A float holds today's seconds to some 0.2 microseconds: too early rather than late.
            place = max(place, log.first_since(int(since * 1e6) * 1000))
        oldest = log.cursor.oldest  # it may have risen, even above the end of then
        return max(place, oldest), oldest, max(log.end, oldest)
    finally:
        log.close()


class _Recycled(Exception):
    """What was to be read is gone by now."""


class _Log:
    """The log as it was when the search began; no more than that is looked at."""

    def __init__(self, run_dir: str) -> None:
        self._dir = run_dir
        self.cursor = Cursor.open(run_dir)
        self._segment = self.cursor.segment
        self.oldest = self.cursor.oldest  # first: it never overtakes the end
        self.end = self.cursor.end
        self._output = self._start = -1

    def close(self) -> None:
        if self._output >= 0:
            os.close(self._output)
        self.cursor.close()

    # -- lines -------------------------------------------------------------------------

    def last_lines(self, count: int, stream: int | None) -> int:
        place = self.end  # of the first byte that counts, so far
        if not count:
            return place
        wanted = -1  # newlines still to be passed; not known before the last byte is
        try:
            for start, stop, kind in self._backwards(stream):
                if stream is not None and kind != stream:
                    continue
                while start < stop:
                    at = max(start, stop - BLOCK)
                    data = self._read(at, stop - at)
                    if wanted < 0:
                        wanted = count + (data[-1:] == b"\n")
                    newlines = data.count(b"\n")
                    if newlines >= wanted:
                        found = len(data)
                        for _ in range(wanted):
                            found = data.rindex(b"\n", 0, found)
                        # What follows it may be of another stream; this stream's next byte is not.
                        return at + found + 1 if found + 1 < len(data) else place
                    wanted -= newlines
                    place = stop = at
        except _Recycled:
            pass  # all that is still there was looked through
        return place

    def _backwards(self, stream: int | None) -> Iterator[tuple[int, int, int]]:
        """Yield the log's stretches from the last to the first: start, end, stream.

        Without ``stream`` nobody needs the index: a segment is one stretch.
        """
        end = self.end
        while end > self.oldest:
            start = (end - 1) - (end - 1) % self._segment
            if stream is None:
                yield start, end, 0
            else:
                entries = self._index(start)
                try:
                    yield from self._stretches(entries, start, end)
                finally:
                    entries.close()
            end = start

    def _stretches(
        self, entries: index.Index, start: int, end: int
    ) -> Iterator[tuple[int, int, int]]:
        high = entries.bisect(end - 1) + 1
        per_block = index.AHEAD // index.SIZE
        while high:
            low = max(0, high - per_block)
            data = entries.read(low)
            for at in range((high - low - 1) * index.SIZE, -1, -index.SIZE):
                if at + index.SIZE > len(data):
                    raise LogDamaged(f"{entries.path} is cut short")
                offset, _, kind = entries.unpack(data, at)
                if offset >= end:
                    raise LogDamaged(f"{entries.path} is damaged")
                yield offset, end, kind
                end = offset
            high = low
        if end != start:
            raise LogDamaged(f"{entries.path} says nothing about offset {start}")

    def _read(self, offset: int, size: int) -> bytes:
        start = offset - offset % self._segment
        path = f"{self._dir}/{output_name(start)}"
        if start != self._start:
            if self._output >= 0:
                os.close(self._output)
            self._output = self._start = -1
            try:
                self._output = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                self._check(start)
                raise LogDamaged(f"{path} is missing") from error
            self._start = start
        data = os.pread(self._output, size, offset - start)
        self._check(start)
        if len(data) != size:
            raise LogDamaged(f"{path} is cut short")
        return data

    # -- times -------------------------------------------------------------------------

    def first_since(self, stamp: int) -> int:
        if self.oldest >= self.end:
            return self.end
        # The last segment known to begin before ``stamp``, and the first known not to.
        base = self.oldest // self._segment
        low, high = base - 1, (self.end - 1) // self._segment + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._begins_before(middle * self._segment, stamp):
                low = middle
            else:
                high = middle
        if low < base:
            return self.oldest
        after = min(high * self._segment, self.end)
        try:
            return self._first_in(low * self._segment, after, stamp)
        except _Recycled:
            return after

    def _begins_before(self, start: int, stamp: int) -> bool:
        try:
            entries = self._index(start)
        except _Recycled:
            return True  # nobody can read it, whenever it was written
        try:
            return entries.entry(0)[1] < stamp
        finally:
            entries.close()

    def _first_in(self, start: int, end: int, stamp: int) -> int:
        """Return the first place at ``stamp`` in a segment that begins before it, else its end."""
        entries = self._index(start)
        try:
            low, high = 0, entries.bisect(end - 1) + 1
            place = end
            while high - low > 1:
                middle = (low + high) // 2
                offset, when, _ = entries.entry(middle)
                if when < stamp:
                    low = middle
                else:
                    high, place = middle, offset
            return place
        finally:
            entries.close()

    # -- both --------------------------------------------------------------------------

    def _index(self, start: int) -> index.Index:
        path = f"{self._dir}/{index_name(start)}"
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            self._check(start)
            raise LogDamaged(f"{path} is missing") from error
        return index.Index(path, fd, start)

    def _check(self, start: int) -> None:
        """See that a segment is still this log's; it was opened or read before."""
        if start < self.cursor.oldest:
            raise _Recycled
