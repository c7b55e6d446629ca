"""Syncs under bad luck: sources that change or go, an rsync that is killed, great numbers."""

import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
from tests.sync.world import Going, World

from psync.errors import PsyncError, SyncError
from psync.sync import source
from psync.sync.listing import Listing, list_tree
from psync.sync.lock import ProjectLock


def test_a_file_that_goes_away_after_it_was_listed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.file("a")
    world.file("gone")

    def listed(*words: object, **options: object) -> Listing:
        found = list_tree(*words, **options)  # type: ignore[arg-type]
        (world.root / "gone").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(source, "list_tree", listed)
    world.sync().wait()
    assert set(world.mirrored()) == {"tree/psync.toml", "tree/a"}


def test_files_that_always_go_away_are_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file("a")

    def listed(*words: object, **options: object) -> Listing:
        world.file("comes and goes")
        found = list_tree(*words, **options)  # type: ignore[arg-type]
        (world.root / "comes and goes").unlink()
        return found

    monkeypatch.setattr(source, "list_tree", listed)
    with pytest.raises(SyncError, match="comes and goes") as caught:
        world.sync().wait()
    assert "wait until the build is done" in caught.value.hint


def test_a_file_that_grows_while_it_is_sent_is_right_next_time(world: World) -> None:
    path = world.file("log", os.urandom(1 << 20))
    ended = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not ended.is_set() and file.tell() < 64 << 20:
                file.write(os.urandom(4096))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        try:
            world.sync().wait()
        except SyncError as error:
            assert error.hint
    finally:
        ended.set()
        thread.join()
    world.sync().wait()
    assert world.mirrored()["tree/log"] == path.read_bytes()


def test_a_lock_is_free_the_moment_its_holder_dies(world: World) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        held = ProjectLock(world.state, world.project.id, "psync run").try_acquire()
        os.write(write, b"1" if held else b"0")
        signal.pause()
    try:
        assert os.read(read, 1) == b"1"
        mine = ProjectLock(world.state, world.project.id, "psync sync")
        assert not mine.try_acquire()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    assert mine.try_acquire()
    mine.release()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_rsync_killed_at_any_moment_leaves_no_mixture(world: World) -> None:
    chosen = random.Random(5)
    names = [f"d{number % 7}/f{number}" for number in range(60)]

    def fill(version: int) -> None:
        for name in names:
            world.file(name, b"%d " % version + os.urandom(200_000))

    fill(0)
    world.sync().wait()
    broken = 0
    for version in range(1, 51):
        fill(version)
        sync = Going(world.sync())
        timer = threading.Timer(chosen.uniform(0, 0.25), _kill, [sync])
        timer.start()
        try:
            sync.wait()
        except PsyncError as error:
            broken += 1
            assert error.hint
        finally:
            timer.cancel()
            timer.join()
        world.sync().wait()
        assert world.mirrored() == {
            f"tree/{path.relative_to(world.root)}": path.read_bytes()
            for path in world.root.rglob("*")
            if path.is_file()
        }
    assert broken > 5


def _kill(sync: Going) -> None:
    for pid in sync.pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_hundred_thousand_files(world: World) -> None:
    for number in range(400):
        directory = world.root / f"d{number}"
        directory.mkdir()
        for name in range(500):
            os.close(os.open(directory / f"f{name}", os.O_CREAT | os.O_WRONLY))
    try:
        assert world.sync().wait().files == 200_001
        assert world.sync().wait().files == 0
        shutil.rmtree(world.root / "d7")
        assert world.sync().wait().removed == 501
    finally:
        shutil.rmtree(world.root)
        shutil.rmtree(world.mirror)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sparse_file_of_five_gigabytes(world: World) -> None:
    size = 5 << 30
    if shutil.disk_usage(world.directory).free < 2 * size:
        pytest.skip("not enough room")
    path = world.root / "image"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"end\n")
    assert world.sync().wait().files == 2
    copy = Path(world.mirror / "tree/image")
    assert copy.stat().st_size == size
    with copy.open("rb") as file:
        file.seek(size - 5)
        assert file.read() == b"end\n\0"
    copy.unlink()
