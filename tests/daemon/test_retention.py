"""Which finished runs go, whatever the clocks do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.daemon.retention import PROBATION, Age, Now, Retention, size_on_disk, surplus

DAY = 86400.0
EPOCH = 1.7e9
FOREVER = Retention(runs=10**9, age=None, size=None)


class Finished:
    def __init__(self, age: Age, size: int = 1, *, watched: bool = False) -> None:
        self.age = age
        self.size = size
        self.watched = watched


def gone(finished: list[Finished], rules: Retention, now: Now) -> list[int]:
    """The places in ``finished`` of those that have to go."""
    count, size = len(finished), sum(run.size for run in finished)
    return [finished.index(run) for run in surplus(finished, rules, now, count=count, size=size)]


def ended(*seconds_ago: float, met: float = 0.0) -> list[Finished]:
    """Runs that ended so long before the daemon met them."""
    return [Finished(Age.of(EPOCH - ago, Now(EPOCH, met))) for ago in seconds_ago]


LATER = Now(EPOCH + 2 * PROBATION, 2 * PROBATION)


def test_number_and_size_take_the_oldest_and_no_more_than_they_must() -> None:
    runs = ended(50, 40, 30, 20, 10)
    now = Now(EPOCH, 0.0)
    assert gone(runs, FOREVER, now) == []
    assert gone(runs, Retention(runs=5, age=None, size=5), now) == []
    assert gone(runs, Retention(runs=3, age=None, size=None), now) == [0, 1]
    assert gone(runs, Retention(runs=0, age=None, size=None), now) == [0, 1, 2, 3, 4]
    runs[0].size = 10
    assert gone(runs, Retention(runs=10, age=None, size=4), now) == [0]
    assert gone(runs, Retention(runs=10, age=None, size=3), now) == [0, 1]
    assert gone(runs, Retention(runs=4, age=None, size=3), now) == [0, 1]
    assert gone(runs, Retention(runs=10, age=None, size=0), now) == [0, 1, 2, 3, 4]


def test_one_that_is_watched_stays_and_costs_no_other() -> None:
    runs = ended(50, 40, 30)
    runs[0].watched = True
    assert gone(runs, Retention(runs=2, age=None, size=None), LATER) == []
    assert gone(runs, Retention(runs=1, age=None, size=None), LATER) == [1]
    assert gone(runs, Retention(runs=9, age=1.0, size=None), LATER) == [1, 2]


def test_age_counts_from_the_end() -> None:
    rules = Retention(runs=99, age=10 * DAY, size=None)
    runs = ended(30 * DAY, 10 * DAY + 1, 10 * DAY - 3 * PROBATION, 0)
    assert gone(runs, rules, LATER) == [0, 1]
    assert gone(runs, rules, Now(EPOCH + 4 * PROBATION, 4 * PROBATION)) == [0, 1, 2]
    assert gone(runs, rules, Now(EPOCH + 11 * DAY, 11 * DAY)) == [0, 1, 2, 3]


def test_a_clock_set_forward_while_the_daemon_runs_ages_nothing() -> None:
    rules = Retention(runs=99, age=10 * DAY, size=None)
    runs = ended(9 * DAY, 0)
    assert gone(runs, rules, Now(EPOCH + 3650 * DAY, 2 * PROBATION)) == []
    assert gone(runs, rules, Now(EPOCH + 3650 * DAY, 2 * DAY)) == [0]


def test_a_clock_that_is_wrong_at_the_start_has_an_hour_to_be_set_right() -> None:
    rules = Retention(runs=99, age=10 * DAY, size=None)
    wrong = EPOCH + 3650 * DAY
    runs = [Finished(Age.of(EPOCH, Now(wrong, 0.0)))]
    assert gone(runs, rules, Now(wrong + PROBATION - 1, PROBATION - 1)) == []
    assert gone(runs, rules, Now(EPOCH + DAY, 2 * PROBATION)) == []  # it was
    assert gone(runs, rules, Now(wrong + PROBATION, PROBATION)) == [0]  # it was not


def test_an_end_in_the_future_does_not_keep_a_run_for_ever() -> None:
    rules = Retention(runs=99, age=10 * DAY, size=None)
    runs = ended(-3650 * DAY)
    assert gone(runs, rules, Now(EPOCH + 9 * DAY, 9 * DAY)) == []
    assert gone(runs, rules, Now(EPOCH + 11 * DAY, 11 * DAY)) == [0]


def test_a_short_age_needs_no_hour() -> None:
    rules = Retention(runs=99, age=60.0, size=None)
    (run,) = ended(0)
    assert gone([run], rules, Now(EPOCH + 60, 60)) == []
    assert gone([run], rules, Now(EPOCH + 61, 61)) == [0]


def test_no_more_runs_are_looked_at_than_have_to_go() -> None:
    looked = []

    def finished() -> Iterator[Finished]:
        for run in ended(*range(1000, 0, -1)):
            looked.append(run)
            yield run

    rules = Retention(runs=998, age=DAY, size=None)
    assert len(surplus(finished(), rules, LATER, count=1000, size=1000)) == 2
    assert len(looked) == 3


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_what_counts_is_what_is_allocated(tmp_path: Path, size: int) -> None:
    before = size_on_disk(str(tmp_path))
    (tmp_path / "output").write_bytes(b"x" * size)
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(10**9)
    assert size <= size_on_disk(str(tmp_path)) - before < size + 20_000


def test_a_directory_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    assert size_on_disk(str(tmp_path / "none")) == 0
