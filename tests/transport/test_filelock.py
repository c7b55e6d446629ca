from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psync.errors import TrustError
from psync.transport.filelock import FileLock

HOLD = """
import sys
from psync.transport.filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_waits_and_says_what_for(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(TrustError, match=path), FileLock(path, timeout=0.0):
            pass
        holder.kill()
        holder.wait(20)
        with FileLock(path):  # a lock goes with its holder
            pass


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    order: list[str] = []
    taken = threading.Event()

    def second() -> None:
        taken.set()
        with FileLock(path):
            order.append("second")

    with FileLock(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert taken.wait(20)
        with pytest.raises(TrustError), FileLock(path, timeout=0.1):
            pass
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_it_is_released_after_an_error(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "lock"))
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with FileLock(str(tmp_path / "lock"), timeout=0.0):
        pass
