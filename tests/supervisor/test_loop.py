"""The supervisor's event loop."""

from __future__ import annotations

import os
import select

from psync.supervisor.loop import Loop


def test_timers_run_in_their_time_and_the_earlier_of_one_name_stays() -> None:
    loop, calls = Loop(), []
    loop.call_in("b", 0.02, lambda: calls.append("late"))
    loop.call_in("b", 0.01, lambda: calls.append("b"))
    loop.call_in("b", 3600, lambda: calls.append("much too late"))
    loop.call_in("a", 0, lambda: calls.append("a"))
    loop.call_in("c", 0, lambda: calls.append("cancelled"))
    loop.cancel("c")
    loop.cancel("unknown")
    assert loop.planned("b")
    while len(calls) < 2:
        loop.run_once()
    assert calls == ["a", "b"]
    assert not loop.planned("b")


def test_a_timer_may_plan_itself_again() -> None:
    loop, calls = Loop(), []

    def again() -> None:
        calls.append(1)
        loop.call_in("again", 0, again)

    again()
    for _ in range(3):
        loop.run_once()
    assert len(calls) == 4


def test_a_callback_may_forget_a_descriptor_that_is_ready_too() -> None:
    loop, calls = Loop(), []
    ends = [os.pipe(), os.pipe()]
    for read, write in ends:
        os.write(write, b"x")

        def ready(events: int, mine: int = read) -> None:
            calls.append(events)
            for fd, _ in ends:
                loop.unwatch(fd)

        loop.watch(read, select.POLLIN, ready)
    loop.run_once()
    assert calls == [select.POLLIN]
    for pair in ends:
        for fd in pair:
            os.close(fd)


def test_a_descriptor_watched_for_nothing_still_tells_of_its_end() -> None:
    loop = Loop()
    calls: list[int] = []
    read, write = os.pipe()
    loop.watch(write, 0, calls.append)
    loop.call_in("soon", 0, lambda: None)
    loop.run_once()
    assert calls == []
    os.close(read)
    loop.run_once()
    assert calls == [select.POLLERR]
    loop.unwatch(write)
    loop.unwatch(write)
    os.close(write)
