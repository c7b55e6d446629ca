"""Lines about strangers stay few, and say how many they stand for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from psync.transport.quiet import ADDRESSES, Note, QuietLog, to


class Written:
    """A quiet log, what it wrote, and a clock that the test turns."""

    def __init__(self, lines: int = 20) -> None:
        self.notes: list[Note] = []
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.log = QuietLog(
            self.notes.append,
            interval=10,
            lines=lines,
            clock=lambda: self.now,
            later=lambda seconds, call: self.due.append((self.now + seconds, call)),
        )

    def note(self, address: str, kind: str = "failed") -> None:
        self.log.note(kind, address, f"{address} {kind}")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        ready, self.due = (
            [one for one in self.due if one[0] <= self.now],
            [one for one in self.due if one[0] > self.now],
        )
        for _, call in ready:
            call()

    def take(self) -> list[str]:
        lines, self.notes[:] = [str(note) for note in self.notes], []
        return lines


@pytest.fixture
def written() -> Written:
    return Written()


def test_one_event_is_one_line(written: Written) -> None:
    written.note("a")
    written.note("b")
    written.note("a", "late")
    assert written.take() == ["a failed", "b failed", "a late"]
    written.wait(10)
    assert written.take() == []
    written.note("a")
    assert written.take() == ["a failed"]


def test_the_same_again_is_counted_and_told(written: Written) -> None:
    for _ in range(1000):
        written.note("a")
    assert written.take() == ["a failed"]
    written.wait(10)
    assert written.take() == ["a failed (and 998 more like it)"]
    written.wait(10)
    assert written.take() == []
    assert written.due == []  # no timer without need


def test_many_addresses_are_held_down_together() -> None:
    written = Written(lines=3)
    for number in range(50):
        written.note(f"h{number}")
    assert written.take() == ["h0 failed", "h1 failed", "h2 failed"]
    written.note("h0", "late")
    assert written.take() == ["h0 late"]
    written.wait(10)
    assert written.take() == ["h49 failed (and 46 more like it)"]


def test_what_is_kept_is_bounded() -> None:
    written = Written(lines=10**6)
    for number in range(ADDRESSES * 2):
        written.note(f"h{number}")
    assert len(written.log._counts) <= ADDRESSES
    written.wait(10)
    assert written.log._counts == {}


def test_events_without_an_address_are_counted_too(written: Written) -> None:
    for _ in range(100):
        written.note("", "starving")
    assert len(written.take()) == 20
    written.log.flush()
    assert written.take() == [" starving (and 79 more like it)"]


def test_notes_become_lines_of_a_log(caplog: pytest.LogCaptureFixture) -> None:
    write = to(logging.getLogger("psync.test"))
    with caplog.at_level(logging.INFO, "psync.test"):
        write(Note(logging.INFO, "late", "a", "a 100% late", 2))
    assert caplog.messages == ["a 100% late (and 2 more like it)"]


async def test_the_event_loop_tells_the_count() -> None:
    import asyncio

    lines: asyncio.Queue[str] = asyncio.Queue()
    log = QuietLog(lambda note: lines.put_nowait(str(note)), interval=0.01)
    log.note("late", "a", "x")
    log.note("late", "a", "x")
    log.note("late", "a", "x")
    assert await lines.get() == "x"
    assert await lines.get() == "x (and 1 more like it)"
