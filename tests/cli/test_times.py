"""Times as people write and read them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from psync.cli.times import LineStamper, duration, moment, utc

NANO = 10**9


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with an offset and summer time, whatever the machine knows of zones."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("2026-11-22T10:00:00Z", 1795341600.0),
        ("2026-11-22T10:00:00.5+00:00", 1795341600.5),
        ("2026-11-22T10:00:00-01:30", 1795347000.0),
        ("2026-11-22T11:00", 1795341600.0),
        ("2026-11-22 11:00:00", 1795341600.0),
        ("2026-11-22", 1795302000.0),
        ("2026-07-22T12:00", 1784714400.0),
        ("1960-01-01", 0.0),
    ],
)
def test_moments(word: str, seconds: float) -> None:
    assert moment(word) == seconds


def test_a_duration_is_before_now() -> None:
    before = time.time()
    assert before - 600 <= moment("10m") <= time.time() - 600


@pytest.mark.parametrize("word", ["", "soon", "10", "2026-13-01", "25:00", "9999999-01-01", "-5m"])
def test_no_moment(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="neither a duration"):
        moment(word)


def test_durations() -> None:
    assert duration("1m30s") == 90
    with pytest.raises(argparse.ArgumentTypeError, match="30s, 5m or 1h30m"):
        duration("long")


def test_utc() -> None:
    assert utc(None) is None
    assert utc(0.0) == "1970-01-01T00:00:00.000Z"
    assert utc(1795341599.9996) == "2026-11-22T10:00:00.000Z"
    assert utc(1795341600.123) == "2026-11-22T10:00:00.123Z"
    assert str(utc(1e300)).endswith("Z")
    assert utc(-1e300) == "1970-01-01T00:00:00.000Z"


@pytest.mark.usefixtures("berlin")
def test_lines_get_the_local_time() -> None:
    stamper = LineStamper()
    assert stamper.feed(b"one\ntwo\n", 1795341600 * NANO + 7_000_000) == (
        b"2026-11-22T11:00:00.007+01:00 one\n2026-11-22T11:00:00.007+01:00 two\n"
    )
    assert stamper.feed(b"x", 1784714400 * NANO + 999_999_999) == (
        b"2026-07-22T12:00:00.999+02:00 x"
    )


def test_west_of_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "NST3:30")
    time.tzset()
    try:
        assert LineStamper().feed(b"x", 0) == b"1969-12-31T20:30:00.000-03:30 x"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_line_that_comes_in_pieces_has_one_time() -> None:
    stamper = LineStamper()
    first = stamper.feed(b"be", NANO)
    assert first.endswith(b" be")
    assert stamper.feed(b"ginning", 2 * NANO) == b"ginning"
    assert stamper.feed(b"", 3 * NANO) == b""
    assert stamper.feed(b"\n", 3 * NANO) == b"\n"
    assert stamper.feed(b"\n", 4 * NANO).endswith(b" \n")


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc\n", b"\nd"])), st.lists(st.integers(0, 40)))
def test_cutting_changes_nothing(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    places = sorted({0, *cuts, len(data)})
    pieces = [data[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    stamper = LineStamper()
    stamped = b"".join(stamper.feed(piece, 5 * NANO) for piece in pieces)
    assert stamped == LineStamper().feed(data, 5 * NANO)
    lines = data.splitlines(keepends=True)
    assert [line.partition(b" ")[2] for line in stamped.splitlines(keepends=True)] == lines
