import os
from pathlib import Path

import pytest

from psync.errors import Interrupted, ProjectBusy, SyncError
from psync.sync.lock import Holder, ProjectLock


def lock(tmp_path: Path, project: str = "game-1") -> ProjectLock:
    return ProjectLock(str(tmp_path / "state"), project, "psync run ./game\n")


def never(holder: Holder | None) -> None:
    raise AssertionError("nobody was to wait")


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    assert first.try_acquire()
    assert not second.try_acquire()
    assert not second.held
    first.release()
    assert second.try_acquire()
    second.release()
    second.release()


def test_projects_do_not_wait_for_each_other(tmp_path: Path) -> None:
    assert lock(tmp_path).try_acquire()
    lock(tmp_path, "other-1").acquire(0, never, lambda: False)


def test_the_holder_is_named(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    assert second.holder() is None
    first.try_acquire()
    holder = second.holder()
    assert holder is not None
    assert holder.pid == os.getpid()
    seen: list[Holder | None] = []
    with pytest.raises(ProjectBusy, match=f"process {os.getpid()} .psync run ./game.n, since"):
        second.acquire(0.01, seen.append, lambda: False)
    assert seen == [holder]


def test_waiting_ends_with_a_cancellation(tmp_path: Path) -> None:
    first = lock(tmp_path)
    first.try_acquire()
    with pytest.raises(Interrupted):
        lock(tmp_path).acquire(600, lambda holder: None, lambda: True)


def test_waiting_ends_when_the_lock_is_given_back(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.try_acquire()
    second.acquire(600, lambda holder: first.release(), lambda: False)
    assert second.held


def test_a_damaged_record_harms_nobody(tmp_path: Path) -> None:
    first, second = lock(tmp_path), lock(tmp_path)
    first.try_acquire()
    (tmp_path / "state/locks/game-1.lock").write_bytes(b"\0\xff")
    with pytest.raises(ProjectBusy, match="unknown process"):
        second.acquire(0, lambda holder: None, lambda: False)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    made = lock(tmp_path)
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "state/locks/game-1.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(SyncError, match=r"cannot be locked: .*symbolic links"):
        made.try_acquire()
    assert (tmp_path / "precious").read_bytes() == b"precious"
