"""What the benchmark of the door says beside its figures."""

from __future__ import annotations

from bench.door import BOUND, bound


def test_a_bound_is_shown_only_where_one_was_set() -> None:
    assert f"at most {BOUND} wanted" in bound("once")
    assert [bound(manner) for manner in ("again", "talking")] == ["", ""]
