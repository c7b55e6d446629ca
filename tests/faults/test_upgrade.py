"""From one installed version to the next while runs are alive, and versions that meet each other.

The version before is a wheel beside this file, as it was released; the next one is this tree.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.world import World, collect
from tests.support.daemon import Home
from tests.support.field import SOURCES, Field

import psync
from psync.errors import NotPaired

BEFORE = "0.1.0"
WHEEL = Path(__file__).parent / "data" / f"psync-{BEFORE}-py3-none-any.whl"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory in which the version before is installed."""
    directory = tmp_path_factory.mktemp("before")
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(directory)
    return str(directory)


@pytest.fixture
def field() -> Iterator[Field]:
    with Field() as field:
        yield field


def use(home: Home, directory: str) -> None:
    """Have the home's next daemon be the one installed in ``directory``."""
    home.env["PYTHONPATH"] = directory


def list_as_before(path: Path) -> None:
    """Rewrite a list of clients, which this version's pairing wrote, as 0.1 would have."""
    fields = ("name", "fingerprint", "client_id", "paired", "expires", "revoked")
    clients = json.loads(path.read_text())["clients"]
    old = [{name: one.get(name) for name in fields} for one in clients]
    path.write_text(json.dumps({"version": 1, "clients": old}))


def version(directory: str) -> str:
    said = subprocess.run(
        [sys.executable, "-P", "-m", "psync.cli.main", "--version"],
        env={**os.environ, "PYTHONPATH": directory},
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.split()[-1]


def test_the_two_versions_are_two(before: str) -> None:
    assert (version(before), version(SOURCES)) == (BEFORE, psync.__version__)
    assert psync.__version__ != BEFORE


async def test_runs_live_through_an_upgrade(before: str) -> None:
    async with World(before) as world:
        list_as_before(Path(world.home.paths.clients))
        script = "trap 'echo interrupted; exit 9' INT; echo one; read x; echo $x; read x; exit $x"
        runs = [await world.start("sh", "-c", script) for _ in range(3)]
        collecting = [asyncio.create_task(collect(run)) for run in runs]
        use(world.home, SOURCES)
        for number in (1, 2):
            await asyncio.to_thread(world.kill_daemon)
            await asyncio.to_thread(world.start_daemon)
            run = await world.start("sh", "-c", f"exit {number}")  # it takes new ones as well
            assert (await run.wait()).code == number
            if number == 1:  # the old version's supervisors, this version's daemon
                for run in runs:
                    await run.write_stdin(b"two\n")
        for number, run in enumerate(runs[:2]):
            await run.write_stdin(b"%d\n" % number)
        await runs[2].started()
        runs[2].signal("SIGINT")
        got = await asyncio.gather(*collecting)
        assert [one.status and one.status.code for one in got] == [0, 1, 9]
        assert [one.output for one in got] == [
            b"one\ntwo\n", b"one\ntwo\n", b"one\ntwo\ninterrupted\n"
        ]  # fmt: skip
        await asyncio.to_thread(world.check)


async def test_a_daemon_of_the_version_before_leaves_alone_what_it_does_not_know(
    before: str,
) -> None:
    async with World() as world:
        run = await world.start("sh", "-c", "echo one; read x; echo $x; exit 6")
        world.target.abandon()
        await asyncio.to_thread(world.kill_daemon)
        use(world.home, before)
        await asyncio.to_thread(world.start_daemon)
        with pytest.raises(NotPaired):  # it cannot tell what a later list of clients means
            await world.client("desk").open()
        await asyncio.to_thread(world.kill_daemon)
        use(world.home, SOURCES)
        await asyncio.to_thread(world.start_daemon)
        again = await world.client("desk").attach(run.id)
        await again.write_stdin(b"two\n")
        got = await collect(again)
        assert (got.output, got.status and got.status.code) == (b"one\ntwo\n", 6)


def test_a_client_of_the_version_before_and_this_daemon(before: str, field: Field) -> None:
    field.pair()
    field.script("game", "echo out; echo err >&2; cat; exit 5\n")
    field.env["PYTHONPATH"] = before
    done = field.psync("run", "./game", input=b"in\n")
    assert (done.stdout, done.returncode) == (b"out\nin\n", 5)
    assert done.stderr.endswith(b"err\n")


def test_a_daemon_of_the_version_before_and_this_client(before: str) -> None:
    with Field(server_env={"PYTHONPATH": before}) as field:
        field.pair()
        record = json.loads((field.server_home / "state/daemon.json").read_text())
        assert record["software"].endswith(BEFORE)
        field.script("game", "echo out; cat; exit 5\n")
        done = field.psync("run", "./game", input=b"in\n")
        assert (done.stdout, done.returncode) == (b"out\nin\n", 5)
        done = field.psync("ps")
        assert done.returncode == 125
        assert b"upgrade" in done.stderr
        # upgraded there: the pairing holds, and the history is there
        field.server("start", env={"PYTHONPATH": before})
        field.kill_daemon()
        field.server("start")
        (run,) = json.loads(field.psync("ps", "-a", "--json").stdout)
        assert run["state"] == "exited"
        done = field.psync("run", "./game", input=b"in\n")
        assert (done.stdout, done.returncode) == (b"out\nin\n", 5)
