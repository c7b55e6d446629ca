"""What faults cost a run: the figures of resuming, of Ctrl-C in a flood and of many viewers.

python -m bench.life [heal | ctrl-c | viewers | runs]…

They use the world of the fault tests: a real daemon with real supervisors, psync's own engine as
the client, and a proxy that is the network.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.test_slow_links import FLOODING, RATE
from tests.faults.world import World
from tests.support.waiting import wait_until

from psync.client.run import RemoteRun
from psync.supervisor import record

TICKS = "while :; do echo tick; sleep 0.02; done"
MB = 1e6


async def heal() -> None:
    """From the moment at which the network is whole again to the next output."""
    for away in (0.2, 3.0, 30.0):
        times = []
        async with World() as world:
            run = await world.start("sh", "-c", TICKS)
            output = run.output()
            for _ in range(5 if away < 10 else 2):
                await anext(output)
                world.proxy.refuse(True)
                world.proxy.cut()
                loop = asyncio.get_running_loop()
                over = loop.time() + away
                while loop.time() < over:  # what had arrived before is not what is waited for
                    try:
                        await asyncio.wait_for(anext(output), over - loop.time())
                    except (TimeoutError, StopAsyncIteration):
                        output = run.output()
                world.proxy.refuse(False)
                began = loop.time()
                await anext(output)
                times.append(loop.time() - began)
            run.stop(kill=True)
        print(f"network away for {away:4.1f} s: output again after {_times(times)}; bound 2 s")


async def ctrl_c() -> None:
    """From the key to the program's handler, with a flood on a link of 100 KB/s."""
    delays, ends = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as directory:
            note = Path(directory) / "signalled"
            async with World(buffer=64 * 1024) as world:
                world.proxy.rate = RATE
                run = await world.start("python3", "-c", FLOODING, str(note))
                pressed = 0.0
                async for piece in run.output():
                    if piece.end > 200_000 and not pressed:
                        pressed = time.monotonic()
                        run.signal("SIGINT")
                ends.append(time.monotonic() - pressed)
                await run.wait()
            wait_until(note.exists)
            delays.append(float(note.read_text()) - pressed)
    print(f"Ctrl-C through a flood at 100 KB/s: signal after {_times(delays)}; bound 1 s")
    print(f"  and the exit status, behind the output sent before, after {_times(ends)}")


async def viewers() -> None:
    """100 viewers of one flood; one of them reads at 10 KB/s."""
    alone = await _watched(99, slow=False)
    beside = await _watched(99, slow=True)
    print(
        f"99 viewers: {alone / MB:.0f} MB/s in all; beside one at 10 KB/s {beside / MB:.0f} MB/s: "
        f"{beside / alone:.2f}; bound 0.8"
    )


async def _watched(count: int, *, slow: bool, size: int = 10_000_000) -> float:
    """Return bytes per second over all fast viewers of ``size`` bytes of output."""
    async with World(buffer=16 * 1024) as world:
        world.proxy.rate = 10_000
        starter = world.client("starter", through_proxy=False)
        flood = f"read x; head -c {size} /dev/zero"
        run = await world.start("sh", "-c", flood, target=starter)
        fast = [world.client(f"viewer{number}", through_proxy=False) for number in range(count)]
        runs = [await target.attach(run.id) for target in fast]
        slowest = asyncio.create_task(_drain(await world.target.attach(run.id))) if slow else None
        began = time.monotonic()
        await run.write_stdin(b"\n")
        await asyncio.gather(*map(_drain, [run, *runs]))
        took = time.monotonic() - began
        if slowest is not None:
            slowest.cancel()
        for target in (starter, *fast):
            target.abandon()
        return size * (count + 1) / took


async def runs() -> None:
    """1,000 runs of a sleeping program at the same time: their statuses and their memory."""
    count = 1000
    async with World() as world:
        clients = [world.client(f"client{number}", through_proxy=False) for number in range(5)]
        started = [
            await world.start(
                "sh", "-c", f"read x; exit {number % 256}", target=clients[number % len(clients)]
            )
            for number in range(count)
        ]
        daemon = world.home.daemon
        assert daemon is not None
        pss = [_pss(record.read_owner(str(path)).pid) for path in world.home.runs()]
        held = _pss(daemon.pid)
        for run in started:
            await run.write_stdin(b"\n")
        codes = [(await run.wait()).code for run in started]
        right = sum(code == number % 256 for number, code in enumerate(codes))
    print(
        f"{count} runs: {right} statuses right; supervisors {statistics.mean(pss) / MB:.1f} MB "
        f"each (at most {max(pss) / MB:.1f}), bound 6; daemon {held / MB:.0f} MB, bound 200"
    )


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024


def _times(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s (at most {max(times):.2f} s)"


async def _drain(run: RemoteRun) -> None:
    async for _ in run.output():
        pass


FIGURES: dict[str, Callable[[], Awaitable[None]]] = {
    "heal": heal,
    "ctrl-c": ctrl_c,
    "viewers": viewers,
    "runs": runs,
}


def main() -> int:
    """Measure what was asked for, by default everything."""
    for name in sys.argv[1:] or FIGURES:
        asyncio.run(_run(FIGURES[name]))
    return 0


async def _run(figure: Callable[[], Awaitable[None]]) -> None:
    await figure()


if __name__ == "__main__":
    sys.exit(main())
