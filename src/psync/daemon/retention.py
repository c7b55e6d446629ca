"""Which finished runs stay: a decision from what is known about them.

The runs that ended first go first, until the rest is within all three limits. One that a client
looks at goes when nobody does any more, and no other goes in its place.

Ages have to survive clocks that jump. Once a run is known, its age goes on with the monotonic
clock, so that a wall clock set forward changes nothing; set back again, it makes runs younger.
What a daemon finds when it starts is as old as the wall clock says, which may be years wrong on a
board that has not asked for the time yet: nothing is removed for its age before ``PROBATION``.
Number and size do not wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Protocol, TypeVar

import msgspec

PROBATION = 3600.0
"""Seconds after which a daemon believes that a run which it found is as old as it seems."""


class Retention(msgspec.Struct, frozen=True):
    """How much of what is over is kept.

    Attributes:
        runs: how many runs.
        age: seconds since a run's end, None for ever.
        size: bytes on disk of all of them, None for as many as there are.
    """

    runs: int = 200
    age: float | None = None
    size: int | None = 4 << 30


class Age(msgspec.Struct, frozen=True):
    """What is known about how long a run has been over.

    Attributes:
        ended: wall clock of its end.
        met: monotonic clock when the daemon learned of it.
        before: how old it seemed to be then.
    """

    ended: float
    met: float
    before: float

    @classmethod
    def of(cls, ended: float, now: Now) -> Age:
        """Return the age of a run that ended at ``ended`` and is met now."""
        return cls(ended, now.monotonic, max(0.0, now.wall - ended))

    def exceeds(self, limit: float, now: Now) -> bool:
        """Whether it is more than ``limit`` seconds, beyond doubt."""
        known = now.monotonic - self.met
        seeming = now.wall - self.ended
        if known < min(PROBATION, limit):
            return False
        # An end in the future says that one of the two clocks was wrong, but not which.
        return self.before + known > limit and (seeming > limit or seeming < 0)


class Now(msgspec.Struct, frozen=True):
    """What the clocks say.

    Attributes:
        wall: seconds since the epoch.
        monotonic: seconds since some moment.
    """

    wall: float
    monotonic: float


class Kept(Protocol):
    """A finished run."""

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""

    @property
    def age(self) -> Age:
        """How old it is."""

    @property
    def watched(self) -> bool:
        """Whether a client looks at it."""


K = TypeVar("K", bound=Kept)


def surplus(finished: Iterable[K], rules: Retention, now: Now, *, count: int, size: int) -> list[K]:
    """Return the runs that have to go.

    Args:
        finished: all finished runs, the one that ended first at the beginning; no more of them are
            looked at than have to go or are watched, and one.
        rules: the limits.
        now: the time.
        count: how many they are.
        size: bytes on disk of all of them.
    """
    gone = []
    for run in finished:
        many = count > rules.runs or (rules.size is not None and size > rules.size)
        if not many and (rules.age is None or not run.age.exceeds(rules.age, now)):
            break
        count -= 1
        size -= run.size
        if not run.watched:
            gone.append(run)
    return gone


def size_on_disk(directory: str) -> int:
    """Return the bytes that the files of a directory take on disk, 0 if it cannot be read.

    Blocks that are allocated, not lengths: an exit record takes as much as a screen of output.
    """
    size = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                size += entry.stat(follow_symlinks=False).st_blocks * 512
        size += os.stat(directory).st_blocks * 512
    except OSError:
        pass  # it is being removed, or there are no descriptors left
    return size
