"""Windows over links that are simulated: a rate, a way there and back, a client that acknowledges
as psync does. The clock is a number."""

from __future__ import annotations

import heapq
import itertools

import pytest

from psync.daemon.pace import BACKLOG, FIRST, LEAST, Pace

MOST = 4 * 1024 * 1024
PIECE = 64 * 1024 - 64
ACK_BYTES = 256 * 1024
ACK_DELAY = 0.05


class Link:
    """A viewer, a link and a client.

    Attributes:
        rate: bytes per second.
        trip: seconds there, and as many back.
        supply: bytes that the program still has to write; None without end.
    """

    def __init__(self, rate: float, trip: float = 0.0005, supply: int | None = None) -> None:
        self.rate = rate
        self.trip = trip
        self.supply = supply
        self.now = 0.0
        self.pace = Pace(MOST, 0)
        self.sent = self.arrived = self.acked = self.told = 0
        self.largest = 0
        self.idle = 0.0
        self._free = 0.0
        self._events: list[tuple[float, int, str, int]] = []
        self._order = itertools.count()
        self._delayed = False

    def write(self, count: int) -> None:
        """The program writes."""
        assert self.supply is not None
        self.supply += count
        self._pump()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        self._pump()
        while self._events and self._events[0][0] <= end:
            self.now, _, what, offset = heapq.heappop(self._events)
            getattr(self, what)(offset)
        self.now = end

    def _at(self, when: float, what: str, offset: int = 0) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, offset))

    def _pump(self) -> None:
        while self.supply is None or self.supply:
            room = self.pace.window - (self.sent - self.acked)
            size = min(room, PIECE, max(4096, self.pace.window // 4), self.supply or room)
            if size < min(4096, self.supply or 4096):
                return
            self.sent += size
            if self.supply is not None:
                self.supply -= size
            self.idle += max(0.0, self.now - self._free)
            self._free = max(self._free, self.now) + size / self.rate
            self._at(self._free + self.trip, "_arrive", self.sent)
            self.pace.sent(self.sent, self.now)
            self.largest = max(self.largest, self.sent - self.acked)
        self.pace.idle()

    def _arrive(self, offset: int) -> None:
        self.arrived = offset
        if offset - self.told >= ACK_BYTES:
            self._tell(offset)
        elif not self._delayed:
            self._delayed = True
            self._at(self.now + ACK_DELAY, "_tell_late")

    def _tell_late(self, _offset: int) -> None:
        self._delayed = False
        if self.arrived > self.told:
            self._tell(self.arrived)

    def _tell(self, offset: int) -> None:
        self.told = offset
        self._at(self.now + self.trip, "_ack", offset)

    def _ack(self, offset: int) -> None:
        self.acked = offset
        self.pace.acked(offset, self.now)
        self._pump()


@pytest.mark.parametrize("rate", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("trip", [0.0005, 0.02, 0.15])
def test_little_waits_on_a_slow_link(rate: float, trip: float) -> None:
    link = Link(rate, trip)
    link.run(20)
    link.largest, link.idle, start = 0, 0.0, link.now
    link.run(60)
    # What the link holds, a quarter of a second, and what one message adds to the shortest round.
    held = rate * (2 * trip + ACK_DELAY)
    assert link.largest <= max(LEAST, held + rate * BACKLOG + PIECE + 1)
    assert link.idle <= 0.05 * (link.now - start)


@pytest.mark.parametrize("trip", [0.00005, 0.005, 0.04])
def test_a_fast_link_is_never_idle_for_want_of_a_window(trip: float) -> None:
    link = Link(200e6, trip)
    link.run(1)
    assert link.pace.window == MOST
    link.idle = 0.0
    count = link.arrived
    link.run(4)
    most = min(200e6, (MOST - ACK_BYTES - PIECE) / (2 * trip + MOST / 200e6 / 8))
    assert link.arrived - count >= 0.6 * 4 * most


def test_the_first_burst_is_acknowledged_at_once() -> None:
    link = Link(1e9, 0.00005)
    link.run(0.01)
    assert link.arrived > 2 * FIRST
    assert link.pace.window == MOST


def test_a_far_and_fast_link_gets_a_large_window() -> None:
    link = Link(10e6, 0.3)
    link.run(30)
    assert link.pace.window == MOST
    assert link.arrived > 25 * MOST


def test_a_program_that_writes_little_does_not_shrink_the_window() -> None:
    link = Link(50e6, 0.005, supply=0)
    for _ in range(200):
        link.write(30)
        link.run(0.1)
    assert link.pace.window == FIRST
    link.write(20_000_000)
    link.run(2)
    assert link.pace.window == MOST
    for _ in range(200):
        link.write(30)
        link.run(0.1)
    assert link.pace.window == MOST


def test_a_link_that_becomes_slow_is_noticed_before_a_whole_window_has_passed() -> None:
    link = Link(100e6, 0.01)
    link.run(5)
    assert link.pace.window == MOST
    link.rate = 100_000
    link.run(25)
    link.largest = 0
    link.run(60)
    assert link.largest <= 2 * LEAST


def test_a_link_that_becomes_fast_again_is_used() -> None:
    link = Link(100_000, 0.01)
    link.run(30)
    assert link.pace.window < 2 * LEAST
    link.rate = 100e6
    link.run(3)
    assert link.pace.window == MOST


def test_a_client_that_stops_reading_has_little_waiting_for_it_when_it_goes_on() -> None:
    link = Link(100e6, 0.001)
    link.run(1)
    assert link.pace.window == MOST
    pace, sent = link.pace, link.sent
    pace.acked(link.acked + 1000, 100.0)  # `less`: a page after a long time
    for second in range(101, 110):
        pace.acked(link.acked + second * 1000, float(second))
    assert pace.window == LEAST
    assert sent - link.acked <= MOST


def test_small_windows_of_a_peer_are_kept() -> None:
    pace = Pace(4096, 0)
    assert pace.window == 4096
    for number in range(1, 50):
        pace.sent(number * 4096, number * 0.001)
        pace.acked(number * 4096, number * 0.001 + 0.0005)
        assert pace.window == 4096


def test_acknowledgements_that_say_nothing_new_change_nothing() -> None:
    pace = Pace(MOST, 1000)
    pace.acked(1000, 0.0)
    pace.acked(900, 1.0)
    assert pace.window == FIRST
    pace.sent(2000, 1.0)
    pace.acked(1000, 50.0)
    assert pace.window == FIRST
