"""A thousand runs at a time: every exit status is right, also across a change of daemons.

Prints what they cost; how much that may be is a figure for ``bench`` and no test.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.daemon import Attachment, Home, shell

from psync.protocol import messages as m
from psync.supervisor import record

PER_CONNECTION = 200


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


async def all_at_once(home: Home, count: int) -> None:
    home.start()
    async with AsyncExitStack() as stack:
        runs: list[Attachment] = []
        for start in range(0, count, PER_CONNECTION):
            client = await stack.enter_async_context(home.client())
            for number in range(start, min(start + PER_CONNECTION, count)):
                argv = shell(f"read x; exit {number % 256}")
                runs.append(client.start(*argv, disconnect_grace=None))
            await asyncio.gather(*(run.running() for run in runs[start:]))
        ids = [await run.running() for run in runs]
        assert len(set(ids)) == count
        report(home, ids)
        home.leave(signal.SIGKILL)
    home.start()
    report(home, ids)
    async with AsyncExitStack() as stack:
        listing = await stack.enter_async_context(home.client())
        listed: list[str] = []
        more = True
        while more:
            before = listed[-1] if listed else None
            answer = await listing.ask(m.ListRuns(request=1, active=True, before=before))
            assert isinstance(answer, m.RunList)
            listed += [run.id for run in answer.runs]
            more = answer.more
        assert listed == ids[::-1]
        for start in range(0, count, PER_CONNECTION):
            client = await stack.enter_async_context(home.client())
            part = [client.attach(run_id) for run_id in ids[start : start + PER_CONNECTION]]
            for run in part:
                await run.running()
            for run in part:
                run.send(b"\n")
            for number, run in enumerate(part, start):
                assert (await run.ended()).status.code == number % 256
    assert "Traceback" not in home.log
    assert home.leave() == 0


def report(home: Home, ids: list[str]) -> None:
    """Print what the daemon and its supervisors take."""
    assert home.daemon is not None
    owners = [record.read_owner(str(home.run(run_id))) for run_id in ids]
    assert all(owner.alive for owner in owners)
    sizes = [_memory(owner.pid, "smaps_rollup", "Pss:") for owner in owners]
    resident = _memory(home.daemon.pid, "status", "VmRSS:")
    print(
        f"{len(ids)} runs: supervisors {sum(sizes) / len(sizes):.0f} KiB PSS each, "
        f"{max(sizes)} at most; daemon {resident} KiB resident, "
        f"{len(os.listdir(f'/proc/{home.daemon.pid}/fd'))} descriptors"
    )


def _memory(pid: int, file: str, field: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise AssertionError(f"no {field} in {file}")


@pytest.mark.timeout(120)
async def test_many_runs_at_a_time(home: Home) -> None:
    await all_at_once(home, 60)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_thousand_runs_at_a_time(home: Home) -> None:
    await all_at_once(home, 1000)
