"""Pulls from real mirrors, and from daemon hosts that cheat."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.errors import DestinationError, Interrupted, SSHError, SyncError
from psync.model import Tool
from psync.sync.pull import Pull, Pulled
from psync.sync.pullplan import PullPlan, plan_pull
from psync.sync.ssh import SharedConnection
from psync.sync.staging import NotAskedFor

# Takes rsync's arguments from stdin, as rsync would, and starts one with others in their place.
_CHEAT = """\
#!{python}
import os, sys
sent = b""
while not sent.endswith(b"\\0\\0"):
    sent += os.read(0, 1)
words = sent[:-2].split(b"\\0")[1:]
flags = next(word for word in sys.argv if word.startswith("-s")).replace("s", "", 1)
{change}
os.execvp("rsync", [b"rsync", b"--server", b"--sender", flags, *words])
"""

# Passes the first bytes of the real rsync on, and dies.
_DYING = """\
#!{python}
import os, subprocess, sys
rsync = subprocess.Popen(["rsync", *sys.argv[1:]], stdout=subprocess.PIPE)
left = 2_000_000
while left and (data := os.read(rsync.stdout.fileno(), min(65536, left))):
    left -= len(data)
    while data:
        data = data[os.write(1, data):]
rsync.kill()
os._exit(1)
"""


class Puller:
    """A world and a destination for what is pulled from it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.into = world.directory / "into"
        self.into.mkdir()
        self.tree = world.mirror / "tree"
        self.warnings: list[str] = []

    def put(self, name: str, content: bytes = b"content") -> Path:
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def plan(self, *names: str | bytes) -> PullPlan:
        root = os.fsencode(self.world.root)
        typed = [os.fsencode(name) for name in names]
        return plan_pull(self.world.project, root, typed, into=os.fsencode(self.into))

    def pull(self, *names: str | bytes, dry: bool = False) -> Pull:
        return Pull(
            self.plan(*names),
            self.world.endpoint,
            state=self.world.state,
            dry=dry,
            on_warning=self.warnings.append,
        )

    def run(self, *names: str | bytes, dry: bool = False) -> Pulled:
        return self.pull(*names, dry=dry).wait()

    def here(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.into)): path.read_bytes()
            for path in self.into.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def puller(anywhere: World) -> Puller:
    return Puller(anywhere)


@pytest.fixture
def cheated(world: World, connection: SharedConnection) -> Puller:
    world.over_ssh(connection)
    return Puller(world)


def cheat(puller: Puller, connection: SharedConnection, change: str) -> None:
    """Have the rsync over there do something else than it is asked to."""
    script = puller.world.directory / "cheating rsync"
    script.write_text(_CHEAT.format(python=sys.executable, change=change))
    script.chmod(0o755)
    puller.world.over_ssh(connection, Tool(path=str(script), version="3.2.7"))


def test_a_tree_comes_whole_and_once(puller: Puller) -> None:
    puller.put("saves/a", b"1")
    puller.put("saves/deep/b", b"22").chmod(0o700)
    done = puller.run("saves")
    assert puller.here() == {"saves/a": b"1", "saves/deep/b": b"22"}
    assert ({one.name: one.size for one in done.placed}, done.size, done.same) == (
        {b"saves/a": 1, b"saves/deep/b": 2},
        3,
        0,
    )
    assert (puller.into / "saves/deep/b").stat().st_mode & 0o777 == 0o700
    again = puller.run("saves")
    assert (again.placed, again.same) == ((), 2)
    puller.put("saves/a", b"3")
    changed = puller.run("saves")
    assert ([one.name for one in changed.placed], changed.same) == ([b"saves/a"], 1)
    assert puller.here()["saves/a"] == b"3"


def test_psyncs_own_and_the_vcs_stay_there(puller: Puller) -> None:
    for name in (".psync-mirror", ".git/config", "a/.psync-partial/x", "a/b"):
        puller.put(name)
    puller.run(".")
    assert list(puller.here()) == ["a/b"]


def test_a_sparse_file_stays_sparse(puller: Puller) -> None:
    with puller.put("core").open("wb") as core:
        core.seek(512 << 20)
        core.write(b"end")
    puller.run("core")
    came = (puller.into / "core").stat()
    assert came.st_size == (512 << 20) + 3
    assert came.st_blocks * 512 < 1 << 20


def test_what_is_missing_is_named_and_the_rest_comes(puller: Puller) -> None:
    puller.put("there")
    with pytest.raises(SyncError, match=r"has no gone/deep, \*\.png") as caught:
        puller.run("gone/deep", "there", "*.png")
    assert "psync pull -n ." in caught.value.hint
    assert list(puller.here()) == ["there"]


def test_where_there_is_no_mirror_nothing_is_there(puller: Puller) -> None:
    subprocess.run(["rm", "-rf", "--", str(puller.world.mirror)], check=True, timeout=30)
    with pytest.raises(SyncError, match="has no x"):
        puller.run("x")
    with pytest.raises(SyncError, match=r"has no \."):
        puller.run(".")


def test_a_dry_run_writes_nothing(puller: Puller) -> None:
    puller.put("saves/a", b"12")
    puller.put("saves/b")
    puller.run("saves/b")
    before = puller.here()
    done = puller.run("saves", dry=True)
    assert [(one.name, one.size) for one in done.placed] == [(b"saves/a", 2)]
    assert puller.here() == before


def test_what_is_no_file_is_left_out_and_named(puller: Puller) -> None:
    puller.put("dir/file")
    os.mkfifo(puller.tree / "dir/fifo")
    done = puller.run("dir")
    assert list(puller.here()) == ["dir/file"]
    assert [name for name, _ in done.left] == [b"dir/fifo"]
    assert puller.warnings == ["not pulled: dir/fifo: it is neither file nor link nor directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_named_and_the_rest_comes(puller: Puller) -> None:
    puller.put("dir/secret").chmod(0)
    puller.put("dir/file")
    with pytest.raises(SyncError, match=r"could not pull dir/secret \(Permission denied\)"):
        puller.run("dir")
    assert list(puller.here()) == ["dir/file"]


def test_what_stands_in_the_way_is_named_and_the_rest_comes(puller: Puller) -> None:
    puller.put("dir/file")
    puller.put("dir/other")
    (puller.into / "dir/file").mkdir(parents=True)
    with pytest.raises(SyncError, match=r"dir/file \(a directory stands in its place\)"):
        puller.run("dir")
    assert list(puller.here()) == ["dir/other"]


def test_a_log_that_grows_is_no_failure(puller: Puller) -> None:
    log = puller.put("log", b"")
    over = threading.Event()

    def write() -> None:
        with log.open("ab", buffering=0) as file:
            while not over.is_set():
                file.write(b"0123456789abcdef" * 256)
                over.wait(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        puller.run("log")
    finally:
        over.set()
        thread.join()
    came = (puller.into / "log").read_bytes()
    assert log.read_bytes().startswith(came)


def test_cancelled_before_it_begins(puller: Puller) -> None:
    puller.put("a")
    pull = puller.pull("a")
    pull.cancel()
    with pytest.raises(Interrupted):
        pull.wait()
    assert list(puller.into.iterdir()) == []


def test_a_full_disk_here_is_told_as_such(world: World, small_disk: Path) -> None:
    puller = Puller(world)
    puller.into = small_disk
    puller.put("small")
    puller.put("zbig", b"x" * (4 << 20))
    with pytest.raises(DestinationError, match="disk is full on this machine"):
        puller.run("small", "zbig")
    assert set(puller.here()) <= {"small"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"]
    if subprocess.run(["mount", *options, str(path)], capture_output=True, timeout=30).returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=30)


def test_a_broken_connection_keeps_what_is_whole(
    cheated: Puller, connection: SharedConnection
) -> None:
    cheated.put("a", b"whole")
    cheated.put("b", os.urandom(8 << 20))
    script = cheated.world.directory / "dying rsync"
    script.write_text(_DYING.format(python=sys.executable))
    script.chmod(0o755)
    cheated.world.over_ssh(connection, Tool(path=str(script), version="3.2.7"))
    with pytest.raises((SSHError, SyncError)):
        cheated.run("a", "b")
    assert cheated.here() == {"a": b"whole"}


@pytest.mark.parametrize(
    "change",
    [
        "words.insert(0, b'--include=*')",  # more than was asked for
        "words.insert(0, b'--include=*'); words[-1] = b'{evil}/'",  # something else
    ],
)
def test_a_host_that_sends_more_is_found_out(
    cheated: Puller, connection: SharedConnection, change: str
) -> None:
    cheated.put("saves/a")
    cheated.put("Makefile", b"all: ; evil\n")
    evil = cheated.world.directory / "evil"
    (evil / ".git").mkdir(parents=True)
    (evil / ".git/config").write_text("evil")
    (evil / "saves").symlink_to("/etc")
    cheat(cheated, connection, change.format(evil=evil))
    with pytest.raises((NotAskedFor, SyncError)):
        cheated.run("saves/a")
    assert [*cheated.into.iterdir()] == []


def test_a_host_that_follows_links_or_changes_modes_gains_nothing(
    cheated: Puller, connection: SharedConnection
) -> None:
    evil = cheated.world.directory / "evil"
    (evil / "saves").mkdir(parents=True)
    (evil / "saves/out").symlink_to("../../../../etc/passwd")
    (evil / "saves/root").write_text("#!/bin/sh\n")
    (evil / "saves/root").chmod(0o6777)
    os.mkfifo(evil / "saves/fifo")
    cheat(cheated, connection, f"words[-1] = b'{evil}/'")
    done = cheated.run("saves")
    assert [str(path.relative_to(cheated.into)) for path in cheated.into.rglob("*")] == [
        "saves",
        "saves/root",
    ]
    assert (cheated.into / "saves/root").stat().st_mode & 0o7777 == 0o755
    assert sorted(name for name, _ in done.left) == [b"saves/fifo", b"saves/out"]
