"""A run's output log: its format, and how to read it, also after its supervisor is dead.

Format 1. All output of a run, stdout and stderr in order of arrival, is one space of offsets, cut
into segments (16 MiB each; only the last one is shorter):

    output-<20 digits>   raw bytes; the digits are the offset of the first. ``less -R output-*``
    index-<20 digits>    entries of 24 bytes (see ``index``): offset, wall clock in ns, stream. An
                         entry starts a stretch of one stream. There is one at the start of a
                         segment, when the stream changes, and when 100 ms passed since the last
                         one (1 s in a segment that has 1 MiB of them)
    cursor               which part of it is valid (see ``cursor``)

Bytes below ``oldest`` are gone: dropped, or their segment is used again. The writer raises
``oldest`` before it touches what lies below, and ``end`` after bytes and index are written. So a
reader that looks at ``oldest`` again *after* it has read knows whether it got what it asked for,
and every index entry below ``end`` is complete. No locks, no messages; the reader needs no living
writer.
"""

from __future__ import annotations

import os

from psync.supervisor import index
from psync.supervisor.cursor import Cursor, LogDamaged, LogNewer
from psync.supervisor.index import STDERR, STDOUT, Index

__all__ = ["STDERR", "STDOUT", "Gap", "LogDamaged", "LogNewer", "LogReader", "tidy"]

SEGMENT = 16 * 1024 * 1024


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

    Args:
        run_dir: the run directory.
        times: end every piece where the index has another time, so that ``stamp`` is right for all
            of it; pieces are smaller then.

    Attributes:
        stamp: when the piece that was read last was written: wall clock of the daemon host, in
            nanoseconds since the epoch. It is the time at which a stretch began, at most some 100
            ms before, and without ``times`` exact for the first byte of a stretch only. It may fall
            from one piece to the next, where the clock was set back.

    Raises:
        FileNotFoundError: the run has no log (its supervisor never came up).
        LogDamaged: the cursor is no cursor; ``LogNewer`` if it is one of a later format.
    """

    def __init__(self, run_dir: str, *, times: bool = False) -> None:
        self._dir = run_dir
        self._times = times
        self._cursor = Cursor.open(run_dir)
        self._segment = self._cursor.segment
        self._start = -1  # of the segment that is open
        self._output = -1
        self._index: Index | None = None
        # The stretch that the last read was in, and the index entries that follow it.
        self.stamp = 0
        self._stream = 0
        self._from = 0
        self._until = 0
        self._last = -1  # offset of the entry before the next one
        self._next = 0  # number of the entry behind _entries
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
        path = f"{self._dir}/{index_name(start)}"
        try:
            self._output = os.open(f"{self._dir}/{output_name(start)}", os.O_RDONLY)
            self._index = Index(path, os.open(path, os.O_RDONLY), start)
        except FileNotFoundError as error:
            self._close_segment()
            oldest = self._cursor.oldest
            if start < oldest:
                raise Gap(start, oldest) from error
            raise LogDamaged(f"{error.filename} is missing") from error
        self._start = start

    def _close_segment(self) -> None:
        if self._output >= 0:
            os.close(self._output)
        if self._index is not None:
            self._index.close()
        self._output = self._start = -1
        self._index = None
        self._forget_stretch()

    def _forget_stretch(self) -> None:
        self._stream = self._from = self._until = self._next = self._at = 0
        self._last = -1
        self._entries = b""

    def _find_stretch(self, offset: int, end: int) -> None:
        """Make the stretch around ``offset`` the current one; ``end`` was read before the index."""
        assert self._index is not None
        try:
            self._walk(self._index, offset, end)
        except LogDamaged:
            self._close_segment()
            raise

    def _walk(self, entries: Index, offset: int, end: int) -> None:
        if not self._stream or offset < self._from:
            self._forget_stretch()
            self._next = entries.bisect(offset)
        while True:
            if self._at == len(self._entries) and not self._read_entries(entries):
                self._until = end
                break
            start, stamp, stream = entries.unpack(self._entries, self._at)
            if start >= end:
                self._until = end
                break
            if start > offset and (stream != self._stream or self._times):
                self._until = start
                break
            if start <= self._last:
                raise LogDamaged(f"{entries.path} is damaged")
            if stream != self._stream or start <= offset:
                self._stream, self._from, self.stamp = stream, start, stamp
            self._last = start
            self._at += index.SIZE
        if not self._stream or not self._from <= offset < self._until:
            raise LogDamaged(f"{entries.path} says nothing about offset {offset}")

    def _read_entries(self, entries: Index) -> bool:
        data = entries.read(self._next)
        self._next += len(data) // index.SIZE
        self._entries, self._at = data, 0
        return bool(data)


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
