"""Output cut where the time at which it was written changes."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.client import pieces
from psync.client.pieces import Output, Stamps
from psync.errors import ProtocolError
from psync.model import Stream

OUT = Stream.STDOUT


def test_without_times_a_piece_stays_whole() -> None:
    assert Stamps().split(OUT, 5, b"abc") == [Output(OUT, 5, b"abc", 0)]


def test_a_piece_written_at_two_times_becomes_two() -> None:
    stamps = Stamps()
    stamps.learn(((0, 10), (2, 20), (9, 30)))
    assert stamps.split(OUT, 0, b"abcd") == [Output(OUT, 0, b"ab", 10), Output(OUT, 2, b"cd", 20)]
    assert stamps.split(OUT, 4, b"efgh") == [Output(OUT, 4, b"efgh", 20)]
    stamps.forget()  # another connection tells it again
    stamps.learn(((4, 20), (9, 30)))
    assert stamps.split(OUT, 8, b"ij") == [Output(OUT, 8, b"i", 20), Output(OUT, 9, b"j", 30)]


def test_what_was_told_already_changes_nothing() -> None:
    stamps = Stamps()
    stamps.learn(((0, 10), (2, 20)))
    stamps.learn(((0, 99), (2, 99), (3, 30)))
    assert [piece.time for piece in stamps.split(OUT, 0, b"abcd")] == [10, 20, 30]


def test_times_of_output_that_never_comes_are_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_STAMPS", 100)
    stamps = Stamps()
    with pytest.raises(ProtocolError, match="that does not come"):
        stamps.learn(tuple((i, 1) for i in range(101)))


@given(st.binary(max_size=50), st.dictionaries(st.integers(0, 50), st.integers(1, 9)))
def test_every_byte_has_the_time_of_the_last_stamp_before_it(
    data: bytes, times: dict[int, int]
) -> None:
    stamps = Stamps()
    stamps.learn(tuple(sorted(times.items())))
    found = stamps.split(OUT, 0, data)
    assert b"".join(piece.data for piece in found) == data
    for piece in found:
        for place in range(piece.offset, piece.end):
            known = [offset for offset in times if offset <= place]
            assert piece.time == (times[max(known)] if known else 0)
