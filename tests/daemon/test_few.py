"""Few lines about each client, and none forgotten."""

from __future__ import annotations

from psync.daemon.few import MINUTE, REMEMBERED, Few


def test_the_rest_of_a_minute_is_counted() -> None:
    now = 100.0
    few = Few(3, clock=lambda: now)
    assert [few.left_out("desk") for _ in range(5)] == [0, 0, 0, None, None]
    assert few.left_out("sofa") == 0
    now += MINUTE
    assert [few.left_out("desk") for _ in range(4)] == [2, 0, 0, None]
    now += 10 * MINUTE
    assert few.left_out("sofa") == 0


def test_what_is_remembered_is_bounded() -> None:
    few = Few(1, clock=lambda: 0.0)
    for number in range(10 * REMEMBERED):
        assert few.left_out(f"client {number}") == 0
    assert len(few._counts) == REMEMBERED
