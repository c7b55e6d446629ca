"""One daemon per home: a lock that the kernel frees when its holder is gone, however it went."""

from __future__ import annotations

import fcntl
import os
import time

from psync.errors import PsyncError
from psync.text import printable

GLANCE = 0.2
"""Seconds to go on trying: somebody who only looks whether a daemon runs holds the lock for an
instant."""

LAST_LAUNCH = 25.0
"""Seconds to go on trying where the holder is dead: its launcher keeps the lock until the launch it
was at is over, which takes 20 s at most."""


class AlreadyRunning(PsyncError):
    """Another daemon of this user has the same directories."""

    code = "already-running"


class DaemonLock:
    """The lock on a daemon's home.

    Args:
        path: the lock file; made when missing, never removed (removing it would let two in).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock and leave this process's ID in the file.

        Raises:
            AlreadyRunning: a daemon that lives holds it; its ID is in the message.
            PsyncError: the file cannot be opened.
        """
        fd = _open(self._path, os.O_CREAT)
        began = time.monotonic()
        while not _try_lock(fd):
            pid = _read_holder(fd)
            if time.monotonic() - began < (GLANCE if _exists(pid) else LAST_LAUNCH):
                time.sleep(GLANCE / 10)
                continue
            os.close(fd)
            raise AlreadyRunning(
                f"a psync-server of yours is running already (process {pid or 'unknown'})",
                hint="psync-server status shows it",
            )
        self._fd = fd
        mine = f"{os.getpid()}\n".encode()
        try:
            # In this order it needs no space that the last holder did not have.
            os.pwrite(fd, mine, 0)
            os.ftruncate(fd, len(mine))
        except OSError:
            pass  # a full disk; it is only for people

    def fileno(self) -> int:
        """Return the descriptor that holds the lock; whoever inherits it holds it too."""
        return self._fd

    def release(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str, flags: int = 0) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        raise PsyncError(
            f"cannot use the daemon's lock, {printable(path)}: {error.strerror}",
            hint="make it a file of your own, or remove it while no daemon runs",
        ) from error


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        return True
    return pid > 0


def holder(path: str) -> int | None:
    """Return the process ID of the daemon that holds the lock at ``path``, None where none does.

    0 stands for one that has only just taken it, or whose last launch is not over yet.

    Raises:
        PsyncError: the file cannot be opened.
    """
    if not os.path.lexists(path):
        return None
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = _read_holder(fd)
        return pid if _exists(pid) else 0
    else:
        return None
    finally:
        os.close(fd)
