"""What the source was like at the last whole sync, so that the next one can tell what changed.

    <state>/mirrors/<mirror>/known      msgpack; the mirror's directory is the one of ``manifest``

A path is the same when mode, size, inode and both of its times are, to the nanosecond, as they
were. A file system's clock steps, though: what is written twice within one step may look the same
after the second time. So a file whose times are as young as the look that was taken at it is noted
as one of which nobody can tell. Such a file, and one whose size and time of modification are the
same although something else is not, is compared by content.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping

import msgspec

from psync.errors import SyncError
from psync.paths import private_directory, write_atomic
from psync.sync.listing import Stat
from psync.text import printable

FORMAT = 1

STEP = 20_000_000
"""Nanoseconds within which two writes may bear the same time; Linux's clock for it steps every
10 ms at most (CONFIG_HZ=100)."""

COARSE_STEP = 2_000_000_000
"""The same where times have whole seconds: FAT's step."""

_SECOND = 1_000_000_000

Parts = dict[bytes, dict[bytes, Stat]]
"""For each part of the mirror, what each of its paths is like here."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    format: int
    seal: str
    settings: str
    parts: Parts


class Known(msgspec.Struct, frozen=True):
    """What was known when the last whole sync ended.

    Attributes:
        seal: names the daemon's note of the mirror; empty for none.
        settings: of that sync, where they decide what a file is sent as.
        parts: see ``Parts``.
    """

    seal: str = ""
    settings: str = ""
    parts: Parts = msgspec.field(default_factory=dict)


def read_known(state: str, place: bytes) -> Known | None:
    """Return what is known of a mirror, None where that is nothing.

    Args:
        state: the client's state directory.
        place: tells this mirror from all others.
    """
    try:
        with open(_path(state, place), "rb") as file:
            record = msgspec.msgpack.decode(file.read(), type=_Record)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None
    if record.format != FORMAT:
        return None
    return Known(record.seal, record.settings, record.parts)


def write_known(state: str, place: bytes, known: Known) -> None:
    """Write down what is known.

    Raises:
        SyncError, ConfigError: it cannot be written.
    """
    path = _path(state, place)
    record = _Record(FORMAT, known.seal, known.settings, known.parts)
    try:
        private_directory(path.rpartition("/")[0])
        write_atomic(path, msgspec.msgpack.encode(record))
    except OSError as error:
        raise SyncError(
            f"what was sent cannot be noted in {printable(state)}: {error.strerror}",
            hint="free some space on this machine",
        ) from error


def settle(stats: Mapping[bytes, Stat], looked_at: int) -> dict[bytes, Stat]:
    """Return what may be noted of paths.

    Args:
        stats: what they are like.
        looked_at: when the look at them began, in nanoseconds since the epoch.
    """
    young = looked_at - STEP
    coarse = looked_at - COARSE_STEP
    return {
        name: one
        if len(one) < 5 or (max(one[2], one[3]) < young and (one[2] % _SECOND or one[2] < coarse))
        else ()
        for name, one in stats.items()
    }


def differing(now: Mapping[bytes, Stat], before: Mapping[bytes, Stat]) -> set[bytes]:
    """Return the paths that are not what they were."""
    return {name for name, one in now.items() if not one or before.get(name) != one}


def doubtful(name: bytes, now: Mapping[bytes, Stat], before: Mapping[bytes, Stat]) -> bool:
    """Whether size and time of modification do not tell if a file that differs is another one."""
    one, other = now[name], before.get(name)
    if other is None or len(one) < 5 or not stat.S_ISREG(one[0]):
        return False
    return not other or one[1:3] == other[1:3]


def _path(state: str, place: bytes) -> str:
    key = hashlib.sha256(place).hexdigest()[:24]
    return f"{state}/mirrors/{key}/known"
