"""Daemons die and are followed by others; no run notices and no exit status is lost."""

from __future__ import annotations

import asyncio
import signal

import pytest
from tests.faults.world import Collected, World, collect, seed_of


async def kill_again_and_again(kills: int, runs: int) -> None:
    """Have ``runs`` runs at a time go on while the daemon is killed ``kills`` times."""
    dice = seed_of(f"{kills} kills")
    async with World() as world:
        going: dict[asyncio.Task[Collected], int] = {}
        expected = 0

        async def start_one() -> None:
            nonlocal expected
            code = expected % 256
            expected += 1
            run = await world.start(
                "sh", "-c", f"for i in 1 2 3; do echo $i; sleep 0.0{dice.randrange(1, 10)}; done; "
                f"exit {code}",
            )  # fmt: skip
            going[asyncio.create_task(collect(run))] = code

        for _ in range(runs):
            await start_one()
        for _ in range(kills):
            await asyncio.sleep(dice.uniform(0, 0.05))
            number = signal.SIGKILL if dice.random() < 0.8 else signal.SIGTERM
            await asyncio.to_thread(world.kill_daemon, number)
            await asyncio.to_thread(world.start_daemon)
            done = [task for task in going if task.done()]
            for task in done:
                _check(task.result(), going.pop(task))
                await start_one()
        for task, code in going.items():
            _check(await task, code)
        assert len(world.home.runs()) == min(expected, 200)
        await asyncio.to_thread(world.check)


def _check(got: Collected, code: int) -> None:
    assert got.output == b"1\n2\n3\n"
    assert got.status is not None
    assert (got.status.code, got.status.lost) == (code, False)


@pytest.mark.timeout(120)
async def test_exit_statuses_survive_kills_of_the_daemon() -> None:
    await kill_again_and_again(8, 3)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_100_kills_of_the_daemon() -> None:
    await kill_again_and_again(100, 4)


async def test_a_daemon_that_dies_between_start_and_answer_starts_one_run() -> None:
    dice = seed_of("death between start and answer")
    async with World() as world:
        for number in range(5):
            await world.connect()
            starting = asyncio.create_task(
                world.start("sh", "-c", f"sleep 0.1; echo {number}; exit {number}")
            )
            await asyncio.sleep(dice.uniform(0, 0.02))
            await asyncio.to_thread(world.kill_daemon)
            await asyncio.to_thread(world.start_daemon)
            got = await collect(await starting)
            assert (got.output, got.status and got.status.code) == (b"%d\n" % number, number)
        assert len(world.home.runs()) == 5
        await asyncio.to_thread(world.check)
