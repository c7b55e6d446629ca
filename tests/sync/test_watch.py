"""What is told of changes in real files, by the real system."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from psync.sync import watch
from psync.sync.plan import SyncPlan, plan_sync
from psync.sync.project import Project
from psync.sync.watch import Watcher, is_being_written

LEASES = hasattr(fcntl, "F_SETLEASE")
LONG = 30.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "game"
    (root / "src").mkdir(parents=True)
    (root / "src/a.c").write_text("a\n")
    (root / "target").mkdir()
    (root / "target/game").write_text("#!/bin/sh\n")
    return root


def plan(root: Path | bytes, *assets: str | bytes, program: str | None = "target/game") -> SyncPlan:
    top = os.fsencode(root)
    return plan_sync(
        Project("game-1", top, "game"),
        cwd=top,
        program=None if program is None else os.path.join(top, os.fsencode(program)),
        assets=[os.fsencode(one) for one in assets],
        include=(),
    )


async def soon(what: Awaitable[frozenset[bytes] | None]) -> set[str] | None:
    """Return a batch as names."""
    changed = await asyncio.wait_for(what, LONG)
    return None if changed is None else {os.fsdecode(path) for path in changed}


async def until(watcher: Watcher, path: Path) -> list[set[str] | None]:
    """Return all batches up to the one that speaks of a path, or of everything."""
    batches = []
    while True:
        changed = await soon(watcher.batch())
        batches.append(changed)
        if changed is None or str(path) in changed:
            return batches


def replace(path: Path, text: str) -> None:
    """Write a file as editors and linkers do: beside it, and rename."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


# -- changes --------------------------------------------------------------------------------------


Change = Callable[[Path], Path]


def _write(root: Path) -> Path:
    (root / "src/a.c").write_text("b\n")
    return root / "src/a.c"


def _replace(root: Path) -> Path:
    replace(root / "src/a.c", "b\n")
    return root / "src/a.c"


def _replace_program(root: Path) -> Path:
    replace(root / "target/game", "#!/bin/sh\nexit\n")
    return root / "target/game"


def _touch(root: Path) -> Path:
    os.utime(root / "src/a.c", (1, 1))
    return root / "src/a.c"


def _chmod(root: Path) -> Path:
    (root / "src/a.c").chmod(0o700)
    return root / "src/a.c"


def _remove(root: Path) -> Path:
    (root / "src/a.c").unlink()
    return root / "src/a.c"


def _remove_program(root: Path) -> Path:
    (root / "target/game").unlink()
    return root / "target/game"


def _make_deep(root: Path) -> Path:
    (root / "src/new/er").mkdir(parents=True)
    (root / "src/new/er/c.c").touch()
    return root / "src/new"


def _move_in(root: Path) -> Path:
    (root / "made/deep").mkdir(parents=True)
    (root / "made/deep/c.c").touch()
    (root / "made").rename(root / "src/made")
    return root / "src/made"


def _move_out(root: Path) -> Path:
    (root / "src/a.c").rename(root / "a.c")
    return root / "src/a.c"


@pytest.mark.parametrize(
    "change",
    [
        *(_write, _replace, _replace_program, _touch, _chmod, _remove, _remove_program),
        *(_make_deep, _move_in, _move_out),
    ],
)
async def test_a_change_is_told(root: Path, change: Change) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        path = change(root)
        changed = (await until(watcher, path))[-1]
        # a new directory has to be watched as well, and what is in it by then nobody has seen
        assert changed is None if path.is_dir() else str(path) in (changed or ())


async def test_what_is_in_a_directory_that_was_moved_in_is_watched_from_then_on(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        await until(watcher, _move_in(root))
        path = root / "src/made/deep/c.c"
        path.write_text("c\n")
        while (await until(watcher, path))[-1] is None:  # until it is watched again
            path.write_text("d\n")


async def test_nothing_else_counts(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        for name in ("notes.txt", "target/game.d", "target/deps", "srcs"):
            (root / name).write_text("x")
        batches = await until(watcher, _write(root))
    assert batches == [{str(root / "src/a.c")}]


async def test_what_a_vcs_writes_does_not_count(root: Path) -> None:
    (root / ".git").mkdir()
    async with Watcher(plan(root, ".")) as watcher:
        (root / ".git/index.lock").write_text("x")
        (root / ".git/index.lock").rename(root / ".git/index")
        batches = await until(watcher, _write(root))
    assert batches == [{str(root / "src/a.c")}]


async def test_what_is_left_out_does_not_count_until_it_is_not_left_out_any_more(
    root: Path,
) -> None:
    (root / ".psyncignore").write_text("/cache\n")
    (root / "cache/deep").mkdir(parents=True)
    async with Watcher(plan(root, ".")) as watcher:
        (root / "cache/x").write_text("x")
        (root / "cache/deep/y").write_text("y")
        assert await until(watcher, _write(root)) == [{str(root / "src/a.c")}]
        (root / ".psyncignore").unlink()
        await soon(watcher.batch())
        path = root / "cache/deep/y"
        path.write_text("z")
        await until(watcher, path)


@pytest.mark.parametrize("name", [".gitignore", ".psyncignore"])
async def test_patterns_above_a_directory_that_was_named_count(root: Path, name: str) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        (root / name).write_text("*.o\n")
        assert (await until(watcher, root / name))[-1] == {str(root / name)}


async def test_a_change_before_the_first_question_is_not_missed(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        path = _write(root)
        wait_until(lambda: path.read_text() == "b\n")
        assert await soon(watcher.batch()) == {str(path)}


async def test_a_link_that_was_named_is_followed(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (root / "assets").symlink_to(data)
    async with Watcher(plan(root, "assets")) as watcher:
        (data / "level").write_text("1")
        assert await soon(watcher.batch()) is None


async def test_what_was_named_through_a_link_is_found(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data/levels").mkdir(parents=True)
    (root / "assets").symlink_to(tmp_path / "data")
    async with Watcher(plan(root, "assets/levels")) as watcher:
        (tmp_path / "data/levels/1").write_text("1")
        assert await soon(watcher.batch()) is None


# -- settling -------------------------------------------------------------------------------------


async def test_a_thousand_quick_changes_are_few_batches(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        names = {str(root / f"src/{number}.c") for number in range(1000)}
        for name in names:
            Path(name).touch()
        seen: set[str] = set()
        batches = 0
        while not names <= seen:
            changed = await soon(watcher.batch())
            assert changed is not None
            seen |= changed
            batches += 1
    assert batches < 20


async def test_what_changes_all_the_time_does_not_put_it_off_for_ever(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SETTLE", LONG)
    monkeypatch.setattr(watch, "PATIENCE", 0.2)
    enough = threading.Event()

    def write() -> None:
        with (root / "src/log").open("a") as file:
            while not enough.wait(0.005):
                file.write("x")
                file.flush()

    writer = threading.Thread(target=write)
    async with Watcher(plan(root, "src")) as watcher:
        writer.start()
        try:
            assert await soon(watcher.batch()) == {str(root / "src/log")}
        finally:
            enough.set()
            writer.join()


async def test_many_changes_are_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST", 10)
    async with Watcher(plan(root, "src")) as watcher:
        for number in range(50):
            (root / f"src/{number}.c").touch()
        while (await soon(watcher.batch())) is not None:
            pass


@pytest.mark.skipif(not LEASES, reason="the system does not tell who writes a file")
async def test_a_program_that_is_being_written_is_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = root / "target/game"
    linker = program.open("ab")
    answers: list[bool] = []

    def asked(path: bytes) -> bool:
        if len(answers) == 3:
            linker.close()
        answers.append(is_being_written(path))
        return answers[-1]

    monkeypatch.setattr(watch, "is_being_written", asked)
    async with Watcher(plan(root)) as watcher:
        linker.write(b"echo half\n")
        linker.flush()
        assert await soon(watcher.batch()) == {str(program)}
    assert answers == [True, True, True, False]


@pytest.mark.skipif(not LEASES, reason="the system does not tell who writes a file")
def test_who_writes_a_file_is_known(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not is_being_written(bytes(path))
    with path.open("w+b") as file:
        file.truncate(4096)
        assert is_being_written(bytes(path))
        mapped = mmap.mmap(file.fileno(), 4096)
    assert is_being_written(bytes(path))  # as mold and lld write
    mapped.close()
    assert not is_being_written(bytes(path))
    with path.open("rb"):
        assert not is_being_written(bytes(path))


@pytest.mark.skipif(not LEASES, reason="the system does not tell who writes a file")
def test_who_asks_is_not_killed_by_a_writer_that_comes_just_then(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    writer = subprocess.Popen(
        [sys.executable, "-c", f"while True: open({str(path)!r}, 'r+b').close()"]
    )
    asker = f"""
from psync.sync.watch import is_being_written
seen, asked = set(), 0
while asked < 50_000 or len(seen) < 2:
    seen.add(is_being_written({bytes(path)!r}))
    asked += 1
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", asker], capture_output=True, text=True, timeout=50, check=False
        )
    finally:
        writer.kill()
        writer.wait()
    assert done.returncode == 0, done.stderr


# -- what is watched goes away --------------------------------------------------------------------


async def test_a_directory_above_the_program_is_made_anew(root: Path) -> None:
    program = root / "target/game"
    async with Watcher(plan(root)) as watcher:
        shutil.rmtree(root / "target")
        await soon(watcher.batch())
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        while not program.exists() or await soon(watcher.batch()) is None:
            replace(program, "#!/bin/sh\nexit\n")
        replace(program, "#!/bin/sh\n")
        assert (await until(watcher, program))[-1] in (None, {str(program)})


async def test_a_directory_that_comes_back_is_looked_at_as_a_whole(root: Path) -> None:
    async with Watcher(plan(root, "src", program=None)) as watcher:
        (root / "src").rename(root / "away")
        await soon(watcher.batch())
        (root / "away").rename(root / "src")
        while await soon(watcher.batch()) is not None:
            pass
        path = _write(root)
        await until(watcher, path)


async def test_a_name_that_nobody_can_spell_is_looked_for_everywhere(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        Path(os.fsdecode(bytes(root / "src") + b"/\xff.c")).touch()
        assert await soon(watcher.batch()) is None
        await until(watcher, _write(root))


async def test_a_directory_that_cannot_be_spelt_is_looked_at_again_and_again(
    tmp_path: Path,
) -> None:
    top = os.path.join(bytes(tmp_path), b"\xff")
    os.mkdir(top)
    warnings: list[str] = []
    async with Watcher(plan(top, program=None), warn=warnings.append) as watcher:
        path = Path(os.fsdecode(top), "a.c")
        path.touch()
        await until(watcher, path)
    (line,) = warnings
    assert "not UTF-8" in line


async def test_a_batch_that_is_not_waited_for_any_more_comes_with_the_next_one(root: Path) -> None:
    async with Watcher(plan(root, "src")) as watcher:
        waiting = asyncio.ensure_future(watcher.batch())
        path = _write(root)
        while not watcher._changed:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await soon(watcher.batch()) == {str(path)}


# -- the system -----------------------------------------------------------------------------------


async def test_git_is_not_waited_for_by_who_leaves(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".git").mkdir()
    git, runs = tmp_path / "bin/git", tmp_path / "runs"
    os.mkfifo(runs)
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho > '{runs}'\nexec sleep 1000\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    entering = asyncio.ensure_future(Watcher(plan(root, "src")).__aenter__())
    await asyncio.wait_for(asyncio.to_thread(runs.read_bytes), LONG)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await asyncio.get_running_loop().shutdown_default_executor()


def _threads() -> list[str]:
    """The threads that watch: psync's and those of watchfiles."""
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            found.append(path.read_text())
        except OSError:
            continue
    ours = [
        one.name for one in threading.enumerate() if one.name in ("watch files", "look for changes")
    ]
    return ours + [name for name in found if name.startswith("notify-rs")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
@pytest.mark.parametrize("polling", [False, True])
async def test_no_thread_survives(root: Path, polling: bool) -> None:
    wait_until(lambda: not _threads())  # of the test before this one
    async with Watcher(plan(root, "."), polling=polling) as watcher:
        assert len(_threads()) == (1 if polling else 4)
        await until(watcher, _write(root))
    wait_until(lambda: not _threads())


async def test_polling_where_the_system_does_not_tell(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "1")
    async with Watcher(plan(root, "src")) as watcher:
        assert watcher.polling
        await until(watcher, _replace(root))
        await until(watcher, _replace_program(root))


WITHOUT_WATCHES = """
import asyncio, sys
sys.path.insert(0, {top!r})
from pathlib import Path
from tests.sync.test_watch import Watcher, plan, until, _write
async def main():
    async with Watcher(plan(Path({root!r}), "src"), warn=print) as watcher:
        await until(watcher, _write(Path({root!r})))
        print(watcher.polling)
asyncio.run(main())
"""


@pytest.fixture
def limited() -> Iterator[Callable[[str, str], subprocess.CompletedProcess[str]]]:
    """Runs Python code where inotify's limits are a namespace's own, and none."""

    def run(limit: str, code: str) -> subprocess.CompletedProcess[str]:
        command = f'echo 0 > /proc/sys/user/{limit} && exec {sys.executable} -c "$1"'
        return subprocess.run(
            ["unshare", "-Ur", "sh", "-c", command, "sh", code],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    try:
        works = run("max_inotify_watches", "").returncode == 0
    except FileNotFoundError:
        works = False
    if not works:
        pytest.skip("no namespace with limits of its own can be made here")
    yield run


@pytest.mark.parametrize("limit", ["max_inotify_watches", "max_inotify_instances"])
async def test_without_watches_all_files_are_looked_at_again_and_again(
    root: Path,
    limit: str,
    limited: Callable[[str, str], subprocess.CompletedProcess[str]],
) -> None:
    top = str(Path(__file__).parents[2])
    done = limited(limit, WITHOUT_WATCHES.format(top=top, root=str(root)))
    assert done.returncode == 0, done.stderr
    *warnings, polling = done.stdout.splitlines()
    assert polling == "True"
    (line,) = warnings
    assert f"fs.inotify.{limit.replace('inotify', 'user')}" in line
