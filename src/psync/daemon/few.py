"""Lines about one client, kept few: so many in a minute are written, the rest is counted.

A client that is paired may ask for things that it is refused as fast as it can. Its first refusals
say what it is about; a million more of them would only push what others did out of the logs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MINUTE = 60.0

REMEMBERED = 1024
"""Clients that are told apart; the one that began longest ago is forgotten for another."""


class Few:
    """Says for each client whether one more line about it is to be written.

    Args:
        most: lines about one client in a minute.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] | None = None) -> None:
        self._most = most
        self._clock = clock or (lambda: time.monotonic())
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def left_out(self, client: str) -> int | None:
        """Return how many lines were left out before this one, None where it is left out, too."""
        now = self._clock()
        count = self._counts.get(client)
        before = 0
        if count is None or now >= count.since + MINUTE:
            before = 0 if count is None else max(0, count.seen - self._most)
            count = self._counts[client] = _Count(now)
            self._counts.move_to_end(client)
            if len(self._counts) > REMEMBERED:
                self._counts.popitem(last=False)
        count.seen += 1
        return before if count.seen <= self._most else None


class _Count:
    __slots__ = ("seen", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.seen = 0
