"""Whether a transfer compresses, and whether it looks for what the other side has already. No I/O.

Chosen is what takes least, by a model with four figures: how fast the link is, how fast rsync
compresses, how fast it compares, and what of the files is left when it has done so. The figures are
from this table (two cores, rsync 3.5.0 over ssh, 50 MB, at 1 MB/s 5 MB; seconds, the best of one to
three; the link was slowed down by a proxy; 0.1 s of each are rsync's start):

    a binary of which 1 % of the bytes changed (125 places of 4,000 bytes); zlib leaves 41 % of it
    link        delta   delta -z   whole   whole -z (zstd)   whole lz4   whole zlib
    loopback    0.14    0.17       0.36    0.56              0.38        0.95
    100 MB/s    0.13    0.16       0.57    0.49              0.38
    50 MB/s     0.19    0.17       1.08    0.49              0.65
    20 MB/s     0.15    0.12       2.56    1.12              1.47
    10 MB/s     0.26    0.29       5.17    2.14              2.94
    1 MB/s      0.21    0.12       5.10    1.47              2.26

    the same with a byte changed in every 500, so that no block stays: a program linked anew
    loopback    0.47    0.54       0.21    0.27
    100 MB/s    0.59    0.54       0.58    0.27
    20 MB/s     2.59    1.20       2.68    1.10

    noise, where there was a binary: cannot be compressed, has nothing in common with it
    loopback    0.43    0.43       0.19    0.23              0.26        1.05
    100 MB/s    0.59    0.57       0.57    0.56              0.60
    20 MB/s     2.58    2.58       2.58    2.58              2.57

So a delta of what changed a little wins at any speed, and one of what changed throughout costs
twice the time on a fast link and nothing on a slow one: what earlier deltas saved decides there.
zstd is worth it up to some 200 MB/s, zlib up to some 30 MB/s, lz4 never by more than noise.
"""

from __future__ import annotations

import re

import msgspec

from psync.model import Tool

UNKNOWN_RATE = 50e6
"""Bytes per second that a link is taken for before anything was measured. Between 10 and 100 MB/s
nothing is chosen otherwise."""

NEAR_RATE = 500e6
"""The same of a link that does not leave this machine."""

ZSTD_SPEED = 400e6
"""Bytes per second that zstd compresses at level 1: what 0.06 s more on loopback say, less what
they save there."""

ZLIB_SPEED = 55e6
"""The same for zlib at level 1, all that an rsync older than 3.2 has."""

SEARCH_SPEED = 200e6
"""Bytes per second in which rsync looks for blocks that the other side has, and finds none."""

MATCH_SPEED = 1e9
"""Bytes per second that it goes over where it finds them."""

USUAL_LITERAL = 0.1
"""What is left of a file that changed, until that was seen; as good a guess as any below a half."""

MOST_LITERAL = 0.8
"""What is thought to be left at most, whatever was seen: who is wrong then loses much on a slow
link, and on a fast one nothing."""

SMALL = 256 * 1024
"""Bytes of files from which on it is worth looking whether they can be compressed."""


class Choice(msgspec.Struct, frozen=True):
    """How a transfer is done.

    Attributes:
        compress: with ``-z``; both rsyncs agree on the algorithm.
        whole: files are sent whole, also where the other side has something similar (``-W``).
    """

    compress: bool
    whole: bool


def choose(
    rate: float, ratio: float, *, literal: float | None = None, speed: float = ZSTD_SPEED
) -> Choice:
    """Return what takes least time.

    Args:
        rate: bytes per second that the link carries.
        ratio: what compression leaves of the files, 0 to 1 and a little more.
        literal: what deltas left of files that changed, 0 to 1; None where that was not seen yet.
        speed: bytes per second that rsync compresses.
    """
    packed = _on_the_way(rate, ratio, speed)
    sent = min(1 / rate, packed)
    literal = USUAL_LITERAL if literal is None else min(literal, MOST_LITERAL)
    searched = literal / SEARCH_SPEED + (1 - literal) / MATCH_SPEED
    return Choice(compress=packed < 1 / rate, whole=searched + literal * sent > sent)


def compression_speed(here: str, there: Tool | None) -> float:
    """Return how fast two rsyncs will compress.

    They agree on zstd where both have it, which is usual from 3.2 on; otherwise on zlib. Where this
    is wrong the transfer takes longer than it would have to, and that is all.

    Args:
        here: version of the rsync here.
        there: the one on the other side, where it is known.
    """
    new = _is_new(here) and there is not None and _is_new(there.version)
    return ZSTD_SPEED if new else ZLIB_SPEED


def _on_the_way(rate: float, ratio: float, speed: float) -> float:
    """Return seconds for one byte that is compressed.

    Compressing and sending overlap, but not wholly: rsync has one thread for both.
    """
    return ratio / rate + 1 / speed


def _is_new(version: str) -> bool:
    number = re.match(r"(\d+)\.(\d+)", version)
    return number is not None and (int(number[1]), int(number[2])) >= (3, 2)
