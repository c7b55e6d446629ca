"""How many bytes of output may be on their way to one viewer: its window. No I/O, no clock.

What was sent before Ctrl-C has to arrive before the exit can: on a link of 100 KB/s a window of
4 MiB would be 40 seconds of it. So a window holds what the link carries in its round trip (less
would leave the link idle) and in a quarter of a second more, as the client's acknowledgements tell:

    a round    begins with a piece that is sent, ends when its last byte is acknowledged
    rate       bytes acknowledged during a round, by its duration: what the link has carried. While
               there was always something to send it is what the link *can* carry
    delay      the shortest round: the way there and back, and what the client takes to acknowledge

It is the idea of TCP's BBR: the highest rate of the last rounds, the lowest delay. The rate never
says more than the link carries, since bytes are counted where they arrive. A program that writes
little says little about the link; such a round can raise the window and never lowers it.
"""

from __future__ import annotations

from collections import deque

BACKLOG = 0.25
"""Seconds of output that may wait on the way."""

LEAST = 64 * 1024
"""Bytes that may be on their way in any case; a message or two."""

FIRST = 320 * 1024
"""Bytes that may be on their way before the first round is over: a message more than what clients
acknowledge at once (256 KiB), so that the first round ends as soon as it can."""

ROUNDS = 4
"""Rounds whose rates count."""

LONG_ROUND = 0.5
"""Seconds after which an acknowledgement tells the rate although its round is not over, so that a
link that has become slow is noticed before a whole window has passed it."""


class Pace:
    """The window of one viewer.

    Args:
        most: largest window in bytes.
        offset: where the output begins that is sent. What is never sent must not be counted.

    Attributes:
        window: bytes that may be on their way now.
    """

    def __init__(self, most: int, offset: int) -> None:
        self.window = min(FIRST, most)
        self._most = most
        self._acked = offset
        self._end = -1  # of the piece that began the round; -1 while there is no round
        self._began = 0.0
        self._from = 0  # what was acknowledged when the rate's measurement began, and when
        self._since = 0.0
        self._idle = False
        self._delay: float | None = None
        self._rates: deque[float] = deque(maxlen=ROUNDS)

    def sent(self, end: int, now: float) -> None:
        """A piece that ends at ``end`` is on its way."""
        if self._end < 0:
            self._end, self._began, self._idle = end, now, False
            self._from, self._since = self._acked, now

    def idle(self) -> None:
        """There is nothing to send, though the window would allow it."""
        self._idle = True

    def acked(self, offset: int, now: float) -> None:
        """Everything below ``offset`` has arrived."""
        if offset <= self._acked:
            return
        self._acked = offset
        if self._end < 0:
            return
        over = offset >= self._end
        if over:
            round_trip = now - self._began
            if self._delay is None or round_trip < self._delay:
                self._delay = round_trip
            self._end = -1
        elif now - self._since < LONG_ROUND:
            return
        self._measured((offset - self._from) / max(now - self._since, 1e-6))
        self._from, self._since, self._idle = offset, now, False

    def _measured(self, rate: float) -> None:
        time = (self._delay or 0.0) + BACKLOG
        if self._idle and rate * time <= self.window:
            return
        self._rates.append(rate)
        reach = int(max(self._rates) * time)
        self.window = min(self._most, max(LEAST, reach))
