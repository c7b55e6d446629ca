"""Sleep and jumps of the clock are noticed; nothing else is."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st

from psync.client import wakeup
from psync.client.wakeup import JUMP, Clocks, ClockWatch

START = Clocks(awake=100.0, boot=500.0, wall=1.7e9)


def after(awake: float, *, slept: float = 0.0, set_by: float = 0.0) -> Clocks:
    return Clocks(
        START.awake + awake, START.boot + awake + slept, START.wall + awake + slept + set_by
    )


@pytest.mark.parametrize("awake", [0.0, 1.0, 1000.0])
def test_time_that_only_passes_is_no_jump(awake: float) -> None:
    assert after(awake).jump_since(START) == 0.0


def test_a_suspend_is_one() -> None:
    assert after(1.0, slept=3600.0).jump_since(START) == pytest.approx(3600.0)


@pytest.mark.parametrize("seconds", [60.0, -60.0])
def test_a_clock_that_was_set_is_one(seconds: float) -> None:
    assert after(1.0, set_by=seconds).jump_since(START) == pytest.approx(60.0)


@given(st.floats(0, 1e6), st.floats(0, JUMP * 0.45), st.floats(-JUMP * 0.45, JUMP * 0.45))
def test_what_is_little_is_none(awake: float, slept: float, set_by: float) -> None:
    assert after(awake, slept=slept, set_by=set_by).jump_since(START) == 0.0


def test_the_clocks_of_this_machine_go_together() -> None:
    before = Clocks.now()
    assert Clocks.now().jump_since(before) == 0.0
    assert wakeup.boottime() >= before.boot


async def test_the_watch_tells_each_jump_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "INTERVAL", 0.0)
    shown = iter([START, after(1.0), after(2.0, slept=50.0), after(3.0, slept=50.0)])
    jumps: list[float] = []
    looked = asyncio.Event()

    def look() -> Clocks:
        try:
            return next(shown)
        except StopIteration:
            looked.set()
            return after(4.0, slept=50.0)

    watch = ClockWatch(jumps.append, look=look)
    watch.start()
    watch.start()
    await asyncio.wait_for(looked.wait(), 10)
    watch.stop()
    assert jumps == [pytest.approx(50.0)]
