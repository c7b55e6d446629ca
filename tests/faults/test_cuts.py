"""The network breaks while output, stdin and the exit status are on their way."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from tests.faults.world import World, collect, seed_of

from psync.errors import ConnectError

# Writes SIZE bytes that differ everywhere, in pieces of all sizes.
FLOOD = """
import hashlib, os, sys
left, n, size = int(sys.argv[1]), 0, 1
while left:
    block = hashlib.shake_128(str(n).encode()).digest(min(left, size))
    sys.stdout.buffer.write(block)
    left -= len(block); n += 1; size = size * 3 % 200003 + 1
sys.stdout.flush()
sys.exit(7)
"""


def flood(size: int) -> bytes:
    """Return what FLOOD writes."""
    blocks, n, step, left = [], 0, 1, size
    while left:
        blocks.append(hashlib.shake_128(str(n).encode()).digest(min(left, step)))
        left -= len(blocks[-1])
        n += 1
        step = step * 3 % 200003 + 1
    return b"".join(blocks)


async def cut_through(size: int, cuts: int) -> None:
    """Have ``size`` bytes of output arrive through a network that is cut ``cuts`` times."""
    dice = seed_of(f"{cuts} cuts in {size} bytes")
    async with World() as world:
        run = await world.start("python3", "-c", FLOOD, str(size))

        world.proxy.cut_after(*(dice.randrange(1, size // cuts) for _ in range(cuts)))
        got = await collect(run)
        assert hashlib.sha256(got.output).digest() == hashlib.sha256(flood(size)).digest()
        assert got.gaps == []
        assert got.status is not None
        assert got.status.code == 7
        assert world.proxy.cuts == cuts
        world.check()


async def test_cuts_at_random_offsets_lose_and_repeat_nothing() -> None:
    await cut_through(8_000_000, 40)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_500_cuts_in_100_mb() -> None:
    await cut_through(100_000_000, 500)


async def test_stdin_arrives_once_through_cuts() -> None:
    dice = seed_of("stdin through cuts")
    data = dice.randbytes(2_000_000)
    async with World() as world:
        run = await world.start("sha256sum")

        async def feed() -> None:
            sent = 0
            while sent < len(data):
                piece = data[sent : sent + dice.randrange(1, 100_000)]
                await run.write_stdin(piece)
                sent += len(piece)
                if dice.random() < 0.3:
                    world.proxy.cut()
            run.close_stdin()

        feeding = asyncio.create_task(feed())
        got = await collect(run)
        await feeding
        assert got.output.split()[0] == hashlib.sha256(data).hexdigest().encode()
        world.check()


async def test_a_start_whose_answer_is_lost_starts_one_run() -> None:
    dice = seed_of("lost answers")
    async with World() as world:
        for number in range(10):
            await world.connect()
            world.proxy.cut_after(dice.randrange(1, 300))
            run = await world.start("sh", "-c", f"echo {number}; exit {number}")
            got = await collect(run)
            assert (got.output, got.status and got.status.code) == (b"%d\n" % number, number)
        assert len(world.home.runs()) == 10
        world.check()


async def test_a_stall_loses_nothing() -> None:
    async with World() as world:
        run = await world.start("sh", "-c", "echo before; read x; echo $x; exit 3")
        collecting = asyncio.create_task(collect(run))
        world.proxy.stall()
        await run.write_stdin(b"after\n")
        world.proxy.flow()
        got = await collecting
        assert (got.output, got.status and got.status.code) == (b"before\nafter\n", 3)
        world.check()


async def test_connections_that_arrive_in_another_order() -> None:
    """The first of two connections comes through only after the second."""
    async with World() as world:
        run = await world.start("python3", "-c", FLOOD, "3000000")
        times = 0

        def plan(end: int) -> None:
            nonlocal times
            if end > times * 500_000:
                times += 1
                world.proxy.reorder()
                world.proxy.cut()

        collecting = asyncio.create_task(collect(run, on_piece=plan))
        while not collecting.done():
            other = world.client("sofa")  # whose connections overtake
            try:
                await other.open()
            except ConnectError:
                continue  # a cut hit this one
            await other.close()
            await asyncio.wait([collecting], timeout=0.05)
        got = await collecting
        assert got.output == flood(3_000_000)
        world.check()


async def test_refused_connections_are_tried_again() -> None:
    async with World() as world:
        run = await world.start("sh", "-c", "read x; echo $x")
        world.proxy.refuse(True)
        world.proxy.cut()
        before = world.proxy.connections
        await world.proxy.wait_connections(before + 3)
        world.proxy.refuse(False)
        await run.write_stdin(b"hello\n")
        got = await collect(run)
        assert got.output == b"hello\n"
        assert [told is None for told in world.told] == [False, True]  # said once, and once again
        world.check()
