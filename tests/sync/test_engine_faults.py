"""Syncs under bad luck: sources that change or go, an rsync that is killed, great numbers."""

import os
import random
import signal
import threading

import pytest
from tests.sync.world import Going, World

from psync.errors import PsyncError, SyncError
from psync.sync import source
from psync.sync.keeper import NoKeeper
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


def test_names_that_differ_only_in_case_are_told_where_case_does_not_count(world: World) -> None:
    for name in ("Makefile", "makefile", "other"):
        world.file(name)
    for folds, warnings in ((False, []), (True, ["Makefile and makefile differ only in case"])):
        sync = world.sync()
        sync.to(world.endpoint, NoKeeper(), folds_case=folds)
        sync.wait()
        assert world.warnings == warnings
        assert len(world.mirrored()) == 4  # here it does
