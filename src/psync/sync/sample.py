"""How well files can be compressed, judged by a few pieces of the biggest ones; and their holes."""

from __future__ import annotations

import os
from collections.abc import Iterable

FILES = 3
"""How many files are looked into, the biggest ones."""

PLACES = 3
"""In how many places of each."""

PIECE = 16 * 1024
"""Bytes of one piece. Nine of them take 3 ms to compress; half a window of zlib's tells binaries,
text and pictures apart."""

HOLES = 1 << 20
"""Bytes that a file has to save by its holes for them to matter. To find them again rsync looks at
the ends of everything that it writes, which costs next to nothing; the file may be in more pieces
on the disk, which is why they are left alone where they save little."""


def compressed_ratio(files: Iterable[tuple[bytes, int]]) -> float:
    """Return what zlib at level 1 leaves of files, as a share of their size; 1 where nothing tells.

    A file that cannot be read counts for nothing: rsync will say so.

    Args:
        files: paths and sizes.
    """
    import heapq
    import zlib

    weight = left = 0.0
    for path, size in heapq.nlargest(FILES, files, key=lambda file: file[1]):
        pieces = _pieces(path, size)
        read = sum(map(len, pieces))
        if read:
            packed = sum(len(zlib.compress(piece, 1)) for piece in pieces)
            weight += size
            left += size * packed / read
    return left / weight if weight else 1.0


def _pieces(path: bytes, size: int) -> list[bytes]:
    try:
        # a file that became a pipe since it was listed must not hold anybody up
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        # from the middle of each third: what begins a file seldom is what fills it
        places = [size * (2 * number + 1) // (2 * PLACES) for number in range(PLACES)]
        starts = sorted({max(0, min(place, size - PIECE)) for place in places})
        return [os.pread(fd, PIECE, start) for start in starts]
    except OSError:
        return []
    finally:
        os.close(fd)


def has_holes(files: Iterable[tuple[bytes, int]]) -> bool:
    """Whether one of some files takes up so much less than its size that it pays to keep it so.

    Args:
        files: absolute paths and sizes.
    """
    for path, size in files:
        try:
            blocks = os.stat(path).st_blocks
        except OSError:
            continue
        if size - blocks * 512 >= HOLES:
            return True
    return False
