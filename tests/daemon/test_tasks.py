"""Tasks with an owner."""

from __future__ import annotations

import asyncio

import pytest

from psync.daemon.tasks import Tasks


async def test_a_failure_is_logged_by_name_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks()
    failing, done = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        failing.set()
        raise ValueError("that was it")

    async def go_on() -> None:
        await failing.wait()
        done.set()

    tasks.start("the weak one", fail())
    tasks.start("the strong one", go_on())
    await done.wait()
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.getMessage() == "the weak one failed"
    assert record.exc_info is not None
    await tasks.close()


async def test_closing_cancels_and_waits() -> None:
    tasks = Tasks()
    ended = []

    async def stay(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what a task does at its end is waited for
            ended.append(number)

    for number in range(3):
        tasks.start(f"task {number}", stay(number))
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == [0, 1, 2]
    await tasks.close()


async def test_tasks_can_be_cancelled_without_waiting() -> None:
    tasks = Tasks()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks.start("work", work())
    assert len(tasks) == 1
    await asyncio.sleep(0)
    tasks.cancel()
    await ended.wait()
    await asyncio.sleep(0)
    assert len(tasks) == 0
