"""The index beside a segment of the log: which stream a stretch is of, and when it was written.

An entry is 24 bytes, ``=QQB3xI``: offset, wall clock in nanoseconds since the epoch, stream (1
stdout, 2 stderr), and a CRC-32 of the 20 bytes before it. Version 0.1.0 wrote 0 for that, and reads
what stands there as nothing. Offsets rise from entry to entry; times may fall, where the clock was
set back.
"""

from __future__ import annotations

import os
from binascii import crc32
from struct import Struct

from psync.supervisor.cursor import LogDamaged

STDOUT = 1
STDERR = 2

SIZE = 24

_CONTENT = Struct("=QQB3x")
_ENTRY = Struct("=QQB3xI")
_CHECK = Struct("=I")

AHEAD = 256 * SIZE
"""Bytes of an index that are read at a time."""


def pack(offset: int, stamp: int, stream: int) -> bytes:
    """Return the entry of a stretch that starts at ``offset``."""
    content = _CONTENT.pack(offset, stamp, stream)
    return content + _CHECK.pack(crc32(content) or 1)


class Index:
    """Reads the index of one segment. Owns the descriptor until ``close``.

    Args:
        path: of the index; for messages.
        fd: open for reading.
        start: offset of the segment's first byte.
    """

    def __init__(self, path: str, fd: int, start: int) -> None:
        self.path = path
        self._fd = fd
        self._start = start

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def count(self) -> int:
        """Return how many whole entries there are; the last ones may be of no consequence yet."""
        return os.fstat(self._fd).st_size // SIZE

    def read(self, number: int) -> bytes:
        """Return some entries from this one on, as they stand there; none at the end."""
        data = os.pread(self._fd, AHEAD, number * SIZE)
        return data[: len(data) - len(data) % SIZE]

    def entry(self, number: int) -> tuple[int, int, int]:
        """Return offset, time and stream of one entry.

        Raises:
            LogDamaged: it is none.
        """
        data = os.pread(self._fd, SIZE, number * SIZE)
        if len(data) != SIZE:
            raise LogDamaged(f"{self.path} is cut short")
        return self.unpack(data, 0)

    def unpack(self, data: bytes, at: int) -> tuple[int, int, int]:
        """Return offset, time and stream of the entry at ``at`` in what ``read`` returned.

        Raises:
            LogDamaged: it is none.
        """
        offset, stamp, stream, check = _ENTRY.unpack_from(data, at)
        if (
            not STDOUT <= stream <= STDERR
            or offset < self._start
            or (check and check != (crc32(data[at : at + _CONTENT.size]) or 1))
        ):
            raise LogDamaged(f"{self.path} is damaged")
        return offset, stamp, stream

    def bisect(self, offset: int) -> int:
        """Return the number of the last entry at or before ``offset``; 0 where there is none.

        Raises:
            LogDamaged: an entry on the way is none.
        """
        low, high = 0, self.count()
        while high - low > 1:
            middle = (low + high) // 2
            if self.entry(middle)[0] <= offset:
                low = middle
            else:
                high = middle
        return low
