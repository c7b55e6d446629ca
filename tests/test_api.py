"""The public API, as a program uses it that has only the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


@pytest.fixture(scope="module")
def alone() -> Iterator[Field]:
    with Field(sshd=False) as field:
        yield field


def execute(field: Field, program: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in the field's project."""
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=field.project,
        env=field.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_documented_example_works_as_it_stands(alone: Field) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (alone.project / "assets").mkdir(exist_ok=True)
    (alone.project / "assets/sky.txt").write_text("blue\n")
    alone.script("game", 'read move\necho "$PLAYER $move $*"\ncat assets/sky.txt >&2\nexit 6\n')
    done = execute(alone, example)
    assert (done.stdout, done.stderr, done.returncode) == ("Ada jump --level 3\n", "blue\n", 6)


def test_every_name_of_the_page_exists() -> None:
    import psync

    table = re.findall(r"^\| `(\w+)\.(\w+)", PAGE.read_text(), re.MULTILINE)
    assert len(table) >= 9
    for owner, name in table:
        holder = psync if owner == "psync" else getattr(psync, owner)
        assert hasattr(holder, name), f"{owner}.{name}"


WITH = """
import asyncio, psync, signal

async def main():
    async with psync.connect("local") as target:
{body}

asyncio.run(main())
"""


def in_target(body: str) -> str:
    """Return a program that does ``body`` with a connected target."""
    return WITH.format(body="\n".join(f"        {line}" for line in body.strip().splitlines()))


def test_several_runs_at_once_on_one_connection(alone: Field) -> None:
    done = execute(
        alone,
        in_target("""
await target.sync()
runs = [await target.start([b"sh", b"-c", b"echo $0; exit $0", b"%d" % i]) for i in range(5)]
async def ended(run):
    text = b"".join([piece.data async for piece in run.output()])
    return text, (await run.wait()).code
print(await asyncio.gather(*map(ended, runs)))
"""),
    )
    assert done.stderr == ""
    assert done.stdout.strip() == str([(b"%d\n" % i, i) for i in range(5)])


def test_more_runs_than_a_connection_has_room_for_at_a_time(alone: Field) -> None:
    done = execute(
        alone,
        in_target("""
await target.sync()
for i in range(300):
    run = await target.start([b"true"])
    assert (await run.wait()).code == 0
print("done", target.name, target.facts.system)
"""),
    )
    assert (done.stdout, done.stderr) == ("done local Linux\n", "")


def test_signals_and_stop(alone: Field) -> None:
    done = execute(
        alone,
        in_target("""
await target.sync()
# no child: it would get the signal too, die of it, and the shell would say so
script = b"trap 'echo usr1' USR1; echo ready; while :; do read line; done"
run = await target.start([b"sh", b"-c", script])
output = run.output()
assert (await anext(output)).data == b"ready\\n"
run.signal("SIGUSR1")
assert (await anext(output)).data == b"usr1\\n"
run.stop(kill=True)
print(await run.wait())
"""),
    )
    assert done.stderr == ""
    assert "SIGKILL" in done.stdout


def test_errors_are_the_documented_ones(alone: Field) -> None:
    done = execute(
        alone,
        """
import asyncio, psync

try:
    psync.connect("nowhere")
except psync.UnknownTarget as error:
    print(error.message, error.fault.value)

async def main():
    async with psync.connect("local") as target:
        for attempt in (
            lambda: target.start([b"./missing"]),
            lambda: target.start([]),
            lambda: target.sync(cwd=b"missing"),
        ):
            try:
                await attempt()
            except psync.PsyncError as error:
                print(type(error).__name__)
        await target.sync()
        run = await target.start([b"missing-command"])
        try:
            await run.wait()
        except psync.ProgramNotFound:
            print("not found there")
        run = await target.start([b"true"])
        await run.wait()
        try:
            await run.write_stdin(b"x")
        except BrokenPipeError:
            print("nobody reads")

asyncio.run(main())
""",
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "no target named 'nowhere' user",
        "ProgramNotFound",
        "ProgramNotFound",
        "UsageError",
        "not found there",
        "nobody reads",
    ]


def test_a_run_that_is_left_goes_on_for_its_grace(alone: Field) -> None:
    mark = alone.directory / "mark"
    done = execute(
        alone,
        in_target(f"""
await target.sync()
script = b'read line; echo "$line" > "$0"'
run = await target.start([b"sh", b"-c", script, {bytes(mark)!r}], disconnect_grace=None)
await run.write_stdin(b"written after all\\n")
run.detach()
try:
    await run.wait()
except psync.ConnectionLost as error:
    print(error.message)
"""),
    )
    assert (done.stdout, done.stderr) == ("this side left the run\n", "")
    from tests.support.waiting import wait_until

    wait_until(lambda: mark.exists() and mark.read_text() == "written after all\n")


def test_cancelling_a_start_leaves_the_connection_usable(alone: Field) -> None:
    done = execute(
        alone,
        in_target("""
await target.sync()
starting = asyncio.create_task(target.start([b"sleep", b"600"]))
await asyncio.sleep(0)
starting.cancel()
try:
    await starting
except asyncio.CancelledError:
    print("cancelled")
run = await target.start([b"echo", b"fine"])
print(b"".join([piece.data async for piece in run.output()]))
"""),
    )
    assert (done.stdout, done.stderr) == ("cancelled\nb'fine\\n'\n", "")
