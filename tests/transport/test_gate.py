"""Places at the door and penalties, with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.transport.gate import (
    OVERTAKING,
    REMEMBERED,
    Gate,
    GateLimits,
    Place,
    Progress,
    source_of,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """A gate and who was overtaken there, by number of arrival."""

    def __init__(self, **limits: object) -> None:
        self.clock = Clock()
        self.gate = Gate(GateLimits(**limits), self.clock)  # type: ignore[arg-type]
        self.places: list[Place] = []
        self.overtaken: list[int] = []

    def enter(self, address: str, progress: Progress = Progress.SILENT) -> Place:
        number = len(self.places)
        place = self.gate.enter(address, lambda: progress, lambda: self.overtaken.append(number))
        self.places.append(place)
        return place


def test_there_are_places_until_they_are_taken() -> None:
    crowd = Crowd(strangers=4, strangers_per_address=2)
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
        crowd.enter(address)
    assert crowd.overtaken == []
    assert crowd.gate.strangers == 4


def test_the_oldest_of_the_same_address_makes_place() -> None:
    crowd = Crowd(strangers=10, strangers_per_address=2)
    crowd.enter("192.0.2.9")
    for _ in range(3):
        crowd.enter("192.0.2.1")
    assert crowd.overtaken == [1]
    assert crowd.gate.strangers == 3


def test_the_oldest_of_all_makes_place() -> None:
    crowd = Crowd(strangers=2, strangers_per_address=2)
    for last in range(3):
        crowd.enter(f"192.0.2.{last}")
    assert crowd.overtaken == [0]


def test_who_has_come_least_far_makes_place_first() -> None:
    crowd = Crowd(strangers=10, strangers_per_address=4)
    for progress in (
        Progress.SECURED,
        Progress.ASKED,
        Progress.SILENT,
        Progress.SILENT,
        Progress.BEGUN,
        Progress.ASKED,
        Progress.ASKED,
    ):
        crowd.enter("192.0.2.1", progress)
    assert crowd.overtaken == [2, 3, 4]
    for _ in range(4):
        crowd.enter("192.0.2.1", Progress.SECURED)
    assert crowd.overtaken == [2, 3, 4, 1, 5, 6, 0]


def test_places_are_not_lost_without_end() -> None:
    """A burst is let through; who goes on knocking has to wait, and so keeps its place longer."""
    crowd = Crowd(strangers=2, strangers_per_address=2)
    for _ in range(2 + int(OVERTAKING) - 1):
        crowd.enter("192.0.2.1")
        assert crowd.gate.pause() == 0
    for number in (1, 2, 3):
        crowd.enter("192.0.2.1")
        assert crowd.gate.pause() == pytest.approx(number / OVERTAKING)
    crowd.clock.now += 3.1 / OVERTAKING
    assert crowd.gate.pause() == 0
    crowd.enter("192.0.2.1")
    assert crowd.gate.pause() > 0


def test_who_leaves_frees_the_place() -> None:
    crowd = Crowd(strangers=1, strangers_per_address=1)
    first = crowd.enter("192.0.2.1")
    crowd.gate.leave(first)
    crowd.gate.leave(first)
    crowd.enter("192.0.2.1")
    assert crowd.overtaken == []
    assert crowd.gate.strangers == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(Progress)), max_size=60))
def test_the_newcomer_always_gets_a_place_and_the_limits_hold(
    arrivals: list[tuple[int, Progress]],
) -> None:
    crowd = Crowd(strangers=5, strangers_per_address=2, tolerated=1000)
    for last, progress in arrivals:
        crowd.enter(f"192.0.2.{last}", progress)
        assert crowd.gate.strangers <= 5
        assert len(crowd.places) - 1 not in crowd.overtaken
    present = [place for n, place in enumerate(crowd.places) if n not in crowd.overtaken]
    assert len(present) == crowd.gate.strangers
    for source in {place.source for place in present}:
        assert sum(place.source == source for place in present) <= 2


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("somewhere", "somewhere"),
    ],
)
def test_what_an_address_is_counted_under(address: str, source: str) -> None:
    assert source_of(address) == source


# -- penalties -------------------------------------------------------------------------------------


def penalties(gate: Gate, clock: Clock, address: str, failures: int) -> list[float]:
    """Fail at once whenever it is possible again; return how long each penalty was."""
    found = []
    for _ in range(failures):
        gate.blame(address)
        found.append(gate.refused(address))
        clock.now += found[-1]
        assert gate.refused(address) == 0
    return found


def test_penalties_double_up_to_a_minute_or_so() -> None:
    clock = Clock()
    gate = Gate(GateLimits(tolerated=2), clock)
    found = penalties(gate, clock, "192.0.2.1", 11)
    assert found == pytest.approx([0, 0, 1, 2, 4, 8, 16, 32, 64, 64, 64])
    assert gate.refused("192.0.2.2") == 0


def test_a_penalty_ends_and_failures_are_forgotten() -> None:
    clock = Clock()
    gate = Gate(GateLimits(tolerated=2, forgiven=30), clock)
    penalties(gate, clock, "192.0.2.1", 5)
    clock.now += 60
    gate.blame("192.0.2.1")
    assert gate.refused("192.0.2.1") == 2.0  # the fourth failure instead of the sixth
    clock.now += 1000
    assert penalties(gate, clock, "192.0.2.1", 3) == [0, 0, 1]


def test_failures_that_come_slowly_are_no_attack() -> None:
    clock = Clock()
    gate = Gate(GateLimits(tolerated=1, forgiven=30), clock)
    for _ in range(100):
        gate.blame("192.0.2.1")
        assert gate.refused("192.0.2.1") == 0
        clock.now += 30


def test_a_network_of_ipv6_addresses_shares_its_penalty() -> None:
    clock = Clock()
    gate = Gate(GateLimits(tolerated=0), clock)
    gate.blame("2001:db8::1")
    assert gate.refused("2001:db8::2:3") == 1
    assert gate.refused("2001:db8:0:1::1") == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_the_loopback_is_exempt(address: str) -> None:
    gate = Gate(GateLimits(tolerated=0), Clock())
    gate.blame(address)
    assert gate.refused(address) == 0


def test_what_is_exempt_can_be_set() -> None:
    gate = Gate(GateLimits(tolerated=0, exempt=("192.0.2.0/24",)), Clock())
    gate.blame("192.0.2.1")
    gate.blame("127.0.0.1")
    assert gate.refused("192.0.2.1") == 0
    assert gate.refused("127.0.0.1") == 1
    with pytest.raises(ValueError, match="nonsense"):
        Gate(GateLimits(exempt=("nonsense",)))


def test_who_is_overtaken_in_silence_has_failed() -> None:
    crowd = Crowd(strangers=10, strangers_per_address=1, tolerated=0)
    crowd.enter("192.0.2.1", Progress.BEGUN)
    crowd.enter("192.0.2.1")
    assert crowd.gate.refused("192.0.2.1") == 0  # it talked: many clients behind one address
    crowd.enter("192.0.2.1")
    assert crowd.gate.refused("192.0.2.1") == 1


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    gate = Gate(GateLimits(tolerated=0, penalty=64), clock)
    for number in range(REMEMBERED + 10):
        gate.blame(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert gate.refused("10.0.0.9") == 0
    assert gate.refused("10.0.0.10") == 64


# -- invitations -----------------------------------------------------------------------------------


def test_attempts_are_few() -> None:
    clock = Clock()
    gate = Gate(GateLimits(attempts=4), clock)
    assert [gate.attempt() for _ in range(6)] == [True] * 4 + [False] * 2
    clock.now += 0.5
    assert [gate.attempt() for _ in range(3)] == [True, True, False]
    clock.now += 3600
    assert sum(gate.attempt() for _ in range(100)) == 4
