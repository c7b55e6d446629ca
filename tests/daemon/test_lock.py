"""One daemon per home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from psync.daemon.lock import GLANCE, AlreadyRunning, DaemonLock, holder
from psync.errors import PsyncError


def test_a_lock_is_given_back_and_names_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert holder(path) is None
    lock = DaemonLock(path)
    lock.acquire()
    assert holder(path) == os.getpid()
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        DaemonLock(path).acquire()
    lock.release()
    lock.release()
    assert holder(path) is None
    DaemonLock(path).acquire()


def test_a_lock_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(PsyncError, match="cannot use the daemon's lock"):
        holder(str(tmp_path))
    with pytest.raises(PsyncError, match="cannot use the daemon's lock"):
        DaemonLock(str(tmp_path)).acquire()


def test_somebody_who_only_looks_does_not_keep_a_daemon_out(tmp_path: Path) -> None:
    """Lookers hold the lock for an instant; two of them do so all the time."""
    path = str(tmp_path / "lock")
    Path(path).touch()
    code = f"from psync.daemon.lock import holder\nwhile True: holder({path!r})"
    lookers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    try:
        for _ in range(20):
            lock = DaemonLock(path)
            lock.acquire()
            lock.release()
    finally:
        for looker in lookers:
            looker.kill()
            looker.wait()


def test_who_inherits_the_lock_of_a_dead_daemon_keeps_the_next_one_waiting(tmp_path: Path) -> None:
    """As its launcher does until the launch it was at is over."""
    path = str(tmp_path / "lock")
    code = (
        "import os, sys\nfrom psync.daemon.lock import DaemonLock\n"
        f"lock = DaemonLock({path!r})\nlock.acquire()\n"
        "if os.fork():\n    os._exit(0)\nsys.stdin.read()"
    )
    dead = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert dead.stdin is not None
    assert dead.wait(20) == 0
    assert holder(path) == 0
    waiting = subprocess.Popen(
        [sys.executable, "-c", f"import psync.daemon.lock as l; l.DaemonLock({path!r}).acquire()"]
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2 * GLANCE)
    dead.stdin.close()
    assert waiting.wait(20) == 0
