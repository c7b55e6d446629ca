"""Who keeps the mirror: the daemon, as a sync sees it.

The engine blocks, the connection to the daemon is the event loop's; what stands between the two
implements ``Keeper``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from psync.protocol.transfers import MOST_NAMES, NAMES_BYTES


class Checked(msgspec.Struct, frozen=True):
    """What the daemon says of a mirror of which it made a note earlier.

    Attributes:
        known: it has that note, and no sync has begun since.
        changed: paths in the mirror that are not what they were, if they are few.
        many: they are not.
    """

    known: bool = False
    changed: tuple[bytes, ...] = ()
    many: bool = False


def nameable(names: Collection[bytes]) -> bool:
    """Whether the daemon can be told of so many paths at once."""
    return len(names) <= MOST_NAMES and sum(map(len, names)) <= NAMES_BYTES


class Keeper(Protocol):
    """Keeps one mirror. All methods block, and raise ``PsyncError``."""

    def check(self, seal: str) -> Checked:
        """Return how the mirror differs from the note with this seal."""

    def begin(self) -> None:
        """Have the mirror made unless it is there, and no run started in it from now on."""

    def end(self, base: str | None, names: tuple[bytes, ...]) -> str:
        """The mirror is whole: have runs started in it again; return the seal of a new note.

        Args:
            base: seal of the note that the sync went on from; None if it compared everything.
            names: paths in the mirror that it sent or removed; with a base no others. Of more than
                are ``nameable`` no note is made that goes on from another one.

        Returns:
            The seal; empty if there is no note.
        """

    def cancel(self) -> None:
        """Have whatever blocks raise ``Interrupted``; from any thread."""


class NoKeeper:
    """Nobody keeps the mirror: it is there, and nothing is known of it."""

    def check(self, seal: str) -> Checked:
        """Nothing is known."""
        return Checked()

    def begin(self) -> None:
        """Nothing to do."""

    def end(self, base: str | None, names: tuple[bytes, ...]) -> str:
        """No note is made."""
        return ""

    def cancel(self) -> None:
        """Nothing blocks."""
