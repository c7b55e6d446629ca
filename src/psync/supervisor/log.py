"""A run's output log: its format, and how to read it, also after its supervisor is dead.

Format 1. All output of a run, stdout and stderr in order of arrival, is one space of offsets, cut
into segments (16 MiB each; only the last one is shorter):

    output-<20 digits>   raw bytes; the digits are the offset of the first. ``less -R output-*``
    index-<20 digits>    24-byte entries ``=QQB7x``: offset, wall clock in ns, stream (1 stdout,
                         2 stderr). An entry starts a stretch of one stream. There is one at the
                         start of a segment, when the stream changes, and when 100 ms passed since
                         the last one
    cursor               which part of it is valid (see ``cursor``)

Bytes below ``oldest`` are gone: dropped, or their segment is used again. The writer raises
``oldest`` before it touches what lies below, and ``end`` after bytes and index are written. So a
reader that looks at ``oldest`` again *after* it has read knows whether it got what it asked for,
and every index entry below ``end`` is complete. No locks, no messages; the reader needs no living
writer.
"""

from __future__ import annotations

import os
from struct import Struct

from psync.supervisor.cursor import Cursor, LogDamaged

__all__ = ["Gap", "LogDamaged", "LogReader", "tidy"]

STDOUT = 1
STDERR = 2

SEGMENT = 16 * 1024 * 1024
ENTRY = Struct("=QQB7x")

_AHEAD = 256 * ENTRY.size  # index entries are read this many at a time


def output_name(start: int) -> str:
    """Return the name of the segment whose first byte stands at ``start``."""
    return f"output-{start:020d}"


def index_name(start: int) -> str:
    """Return the name of the index of the segment that starts at ``start``."""
    return f"index-{start:020d}"


class Gap(Exception):
    """Output from ``start`` up to ``end`` is gone; reading can go on at ``end``."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(f"output {start} to {end} is gone")
        self.start = start
        self.end = end


class LogReader:
    """Reads one run's log. Cheap where the next read continues the last one; not thread-safe.

    One reader per attached client: two that read at different places with one object would make it
    open files again and again. It holds up to two descriptors and a mapping until ``close``.

    Raises:
        FileNotFoundError: the run has no log (its supervisor never came up).
        LogDamaged: the cursor is no cursor.
    """

    def __init__(self, run_dir: str) -> None:
        self._dir = run_dir
        self._cursor = Cursor.open(run_dir)
        self._segment = self._cursor.segment
        self._start = -1  # of the segment that is open
        self._output = -1
        self._index = -1
        # The stretch that the last read was in, and the index entries that follow it.
        self._stream = 0
        self._from = 0
        self._until = 0
        self._next = 0  # position in the index file behind _entries
        self._entries = b""
        self._at = 0

    def close(self) -> None:
        """Close the files. The object is of no more use."""
        self._close_segment()
        self._cursor.close()

    @property
    def end(self) -> int:
        """How long the log is now, in bytes."""
        return self._cursor.end

    @property
    def oldest(self) -> int:
        """The first offset that can still be read."""
        return self._cursor.oldest

    @property
    def floor(self) -> int:
        """The highest ``Floor`` the supervisor was told."""
        return self._cursor.floor

    @property
    def stdin_taken(self) -> int:
        """Stdin below this offset is in the program's pipe."""
        return self._cursor.stdin_taken

    def read(self, offset: int, max_bytes: int = 65536) -> tuple[int, bytes]:
        """Return the stream number and bytes that stand at ``offset``.

        The bytes are of one stream, at least one, at most ``max_bytes``; stream 0 without bytes at
        the end of the log. Fewer bytes than asked for do not mean that there are no more.

        Raises:
            Gap: what stands there is gone.
            ValueError: ``offset`` is beyond the end.
            LogDamaged: files of the log are missing or cut.
            OSError: the disk failed.
        """
        stream, size = self._piece(offset, max_bytes)
        if not size:
            return 0, b""
        data = os.pread(self._output, size, offset - self._start)
        self._check(offset, size, len(data))
        return stream, data

    def read_into(self, offset: int, buffer: memoryview) -> tuple[int, int]:
        """The same as ``read``, into ``buffer``; returns stream number and number of bytes."""
        stream, size = self._piece(offset, len(buffer))
        if not size:
            return 0, 0
        self._check(offset, size, os.preadv(self._output, [buffer[:size]], offset - self._start))
        return stream, size

    def _check(self, offset: int, asked: int, got: int) -> None:
        oldest = self._cursor.oldest
        if offset < oldest:  # recycled while it was read
            raise Gap(offset, oldest)
        if got != asked:
            raise LogDamaged(f"{self._dir}/{output_name(self._start)} is cut short")

    def _piece(self, offset: int, most: int) -> tuple[int, int]:
        """Find out what stands at ``offset``: its stream and how many bytes of it can be read."""
        cursor = self._cursor
        end = cursor.end
        if offset >= end:
            if offset == end:
                return 0, 0
            raise ValueError(f"offset {offset} is beyond the end {end}")
        if offset < cursor.oldest:
            raise Gap(offset, cursor.oldest)
        start = offset - offset % self._segment
        if start != self._start:
            self._open_segment(start)
        if not self._from <= offset < self._until:
            self._find_stretch(offset, end)
        return self._stream, min(most, self._until - offset, start + self._segment - offset)

    def _open_segment(self, start: int) -> None:
        self._close_segment()
        try:
            self._output = os.open(f"{self._dir}/{output_name(start)}", os.O_RDONLY)
            self._index = os.open(f"{self._dir}/{index_name(start)}", os.O_RDONLY)
        except FileNotFoundError as error:
            self._close_segment()
            oldest = self._cursor.oldest
            if start < oldest:
                raise Gap(start, oldest) from error
            raise LogDamaged(f"{error.filename} is missing") from error
        self._start = start

    def _close_segment(self) -> None:
        for fd in (self._output, self._index):
            if fd >= 0:
                os.close(fd)
        self._output = self._index = self._start = -1
        self._stream = self._from = self._until = self._next = self._at = 0
        self._entries = b""

    def _find_stretch(self, offset: int, end: int) -> None:
        """Make the stretch around ``offset`` the current one; ``end`` was read before the index."""
        if not self._stream or offset < self._from:
            self._stream = 0
            self._next = self._bisect(offset) * ENTRY.size
            self._entries, self._at = b"", 0
        while True:
            if self._at == len(self._entries) and not self._read_entries():
                self._until = end
                break
            start, _, stream = ENTRY.unpack_from(self._entries, self._at)
            if start >= end:
                self._until = end
                break
            if start > offset and stream != self._stream:
                self._until = start
                break
            if stream != self._stream or start <= offset:
                self._stream, self._from = stream, start
            self._at += ENTRY.size
        if self._stream not in (STDOUT, STDERR) or not self._from <= offset < self._until:
            path = f"{self._dir}/{index_name(self._start)}"
            self._close_segment()
            raise LogDamaged(f"{path} says nothing about offset {offset}")

    def _read_entries(self) -> bool:
        data = os.pread(self._index, _AHEAD, self._next)
        data = data[: len(data) - len(data) % ENTRY.size]
        self._next += len(data)
        self._entries, self._at = data, 0
        return bool(data)

    def _bisect(self, offset: int) -> int:
        """Return the number of the last index entry at or before ``offset``."""
        low, high = 0, os.fstat(self._index).st_size // ENTRY.size
        while high - low > 1:
            middle = (low + high) // 2
            entry = os.pread(self._index, ENTRY.size, middle * ENTRY.size)
            if ENTRY.unpack(entry)[0] <= offset:
                low = middle
            else:
                high = middle
        return low


def tidy(run_dir: str) -> None:
    """Cut what a dead supervisor left behind the log's end, so that ``less`` shows only output.

    For lost runs; a supervisor that ends in order does it itself. Never call it while one lives.

    Raises:
        FileNotFoundError: the run has no log.
        LogDamaged: the cursor is no cursor.
        OSError: a file could not be cut.
    """
    cursor = Cursor.open(run_dir)
    end, oldest = cursor.end, cursor.oldest
    cursor.close()
    for name in os.listdir(run_dir):
        kind, _, digits = name.partition("-")
        if kind not in ("output", "index") or not digits.isdecimal():
            continue
        start = int(digits)
        path = f"{run_dir}/{name}"
        if start < oldest or start >= end:
            os.unlink(path)
        elif kind == "output" and os.stat(path).st_size > end - start:
            os.truncate(path, end - start)
