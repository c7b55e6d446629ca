"""A link that is far slower than the program: Ctrl-C still works, memory stays what it was."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.faults.world import World, collect
from tests.support.waiting import wait_until

RATE = 100_000
"""Bytes per second of the slow link."""

FLOODING = """
import os, signal, sys, time
def stop(*_):
    open(sys.argv[1], "w").write(str(time.monotonic()))
    os._exit(9)
signal.signal(signal.SIGINT, stop)
line = b"x" * 99 + b"\\n"
while True:
    os.write(1, line * 100)
"""


async def test_a_signal_overtakes_a_flood(tmp_path: Path) -> None:
    """The program has its signal while output of before it is still on its way."""
    note = tmp_path / "signalled"
    async with World(buffer=64 * 1024) as world:
        world.proxy.rate = RATE
        run = await world.start("python3", "-c", FLOODING, str(note))
        seen = asyncio.Event()
        collecting = asyncio.create_task(
            collect(run, on_piece=lambda end: seen.set() if end > 100_000 else None)
        )
        await seen.wait()
        run.signal("SIGINT")
        await asyncio.to_thread(wait_until, note.exists)
        assert not collecting.done()
        world.proxy.rate = None  # what is left would take its time
        got = await collecting
        assert got.status is not None
        assert got.status.code == 9
        world.check()


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_ten_gigabytes_do_not_grow_daemon_or_supervisor() -> None:
    size = 10 * 1000**3
    async with World() as world:
        run = await world.start("head", "-c", str(size), "/dev/zero")
        daemon = world.home.daemon
        assert daemon is not None
        (directory,) = world.home.runs()
        supervisor = _owner(directory)
        before = {pid: _memory(pid) for pid in (daemon.pid, supervisor)}
        most = dict(before)
        count = 0
        async for piece in run.output():
            count += piece.end - piece.offset
            if count % (256 * 1024 * 1024) < len(getattr(piece, "data", b"")):
                for pid in most:
                    most[pid] = max(most[pid], _memory(pid))
        assert count == size
        assert (await run.wait()).code == 0
        for pid, start in before.items():
            assert most[pid] - start <= 64 * 1024 * 1024


def _owner(directory: Path) -> int:
    from psync.supervisor import record

    return record.read_owner(os.fspath(directory)).pid


def _memory(pid: int) -> int:
    """Return the anonymous memory of a process, in bytes; pages of files belong to the system."""
    try:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0
