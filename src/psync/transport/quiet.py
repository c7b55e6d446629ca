"""Log lines about strangers, kept few: who is attacked has no use for a million of them.

The first event of a kind from an address is written at once. More of the same kind from the same
address are counted, and the count is written when the interval is over. Many addresses at once are
held down in the same way, by kind alone. What is kept for this is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

INTERVAL = 10.0
"""Seconds in which one event of a kind is written for an address, and ``LINES`` for all of them."""

LINES = 20
ADDRESSES = 1024
"""How many addresses of all kinds are told apart in an interval; the rest is counted by kind."""


class Note(msgspec.Struct, frozen=True):
    """One line about one event, or about those that were left out.

    Attributes:
        level: as in ``logging``.
        kind: a short word for what happened; events of one kind are counted together.
        address: from where, "" when it is about many addresses.
        text: the line, without the count.
        more: how many events like it were left out before.
    """

    level: int
    kind: str
    address: str
    text: str
    more: int

    def __str__(self) -> str:
        return f"{self.text} (and {self.more} more like it)" if self.more else self.text


class _Count:
    __slots__ = ("left_out", "level", "since", "text", "written")

    def __init__(self, since: float) -> None:
        self.since = since
        self.written = 0
        self.left_out = 0
        self.level = logging.WARNING
        self.text = ""

    def leave_out(self, level: int, text: str) -> None:
        self.left_out += 1
        self.level, self.text = level, text


class QuietLog:
    """Writes notes, and counts those that would be too many. Belongs to the event loop's thread.

    Args:
        write: takes each note that is written, for example ``to(logger)``.
        interval: see ``INTERVAL``.
        lines: see ``LINES``.
        clock: seconds, monotonic.
        later: calls something after so many seconds; by default the running event loop does.
    """

    def __init__(
        self,
        write: Callable[[Note], None],
        *,
        interval: float = INTERVAL,
        lines: int = LINES,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._write = write
        self._interval = interval
        self._lines = lines
        self._clock = clock
        self._later = later
        self._counts: dict[tuple[str, str], _Count] = {}
        self._waiting = False

    def note(self, kind: str, address: str, text: str, *, level: int = logging.WARNING) -> None:
        """Write or count one event; ``text`` is a whole line and names the address itself."""
        now = self._clock()
        whole = self._counts.setdefault((kind, ""), _Count(now))
        one = self._counts.get((kind, address)) if address else None
        if one is not None:
            one.leave_out(level, text)
        elif whole.written >= self._lines:
            whole.leave_out(level, text)
        else:
            whole.written += 1
            if address and len(self._counts) < ADDRESSES:
                self._counts[kind, address] = _Count(now)
            self._write(Note(level, kind, address, text, 0))
        self._wake()

    def flush(self) -> None:
        """Write what was left out so far, whether or not the interval is over."""
        self._tell(lambda _count: True)

    # -- inside ------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._waiting:
            self._waiting = True
            later = self._later or asyncio.get_running_loop().call_later
            later(self._interval, self._over)

    def _over(self) -> None:
        self._waiting = False
        now = self._clock()
        self._tell(lambda count: now >= count.since + self._interval)
        if self._counts:
            self._wake()

    def _tell(self, due: Callable[[_Count], bool]) -> None:
        for (kind, address), count in list(self._counts.items()):
            if due(count):
                del self._counts[kind, address]
                if count.left_out:
                    self._write(Note(count.level, kind, address, count.text, count.left_out - 1))


def to(logger: logging.Logger) -> Callable[[Note], None]:
    """Return a ``write`` for ``QuietLog`` that logs each note as one line."""

    def write(note: Note) -> None:
        logger.log(note.level, "%s", note)

    return write
