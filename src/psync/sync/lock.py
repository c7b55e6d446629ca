"""One sync of a project at a time.

The lock is an advisory one (``flock``) on a file of the client: a project's ID holds the client's
identity, so nobody else writes to its mirror. It goes away with the process that holds it, however
that ends; the file stays, and says who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

import msgspec

from psync.errors import Interrupted, ProjectBusy, SyncError
from psync.paths import private_directory
from psync.text import printable

_POLL = 0.1  # flock has no timeout


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock.

    Attributes:
        pid: process ID.
        command: what the user typed.
        started: seconds since the epoch.
    """

    pid: int
    command: str
    started: float

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} ({printable(self.command)}, since {since})"


class ProjectLock:
    """The lock of one project; not reentrant.

    Args:
        state: the client's state directory.
        project: the project's ID.
        command: what to say about this holder.

    Raises:
        ConfigError: the directory of locks cannot be used.
    """

    def __init__(self, state: str, project: str, command: str) -> None:
        directory = private_directory(f"{state}/locks")
        self._path = f"{directory}/{project}.lock"
        self._project = project
        self._command = command
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._fd is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it is ours now.

        Raises:
            SyncError: the file system does not let us.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(fd)
                raise
        except BlockingIOError:
            return False
        except OSError as error:
            raise SyncError(
                f"the project cannot be locked: {printable(self._path)}: {error.strerror}",
                hint="make that file one that you can write to",
            ) from error
        self._fd = fd
        self._sign(fd)
        return True

    def acquire(
        self,
        timeout: float,
        on_wait: Callable[[Holder | None], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Take the lock, wait while another process holds it.

        Args:
            timeout: seconds to wait.
            on_wait: called once, with the holder, before waiting.
            cancelled: asked while waiting.

        Raises:
            ProjectBusy: the time was over; names the holder.
            Interrupted: ``cancelled`` said so.
        """
        deadline = time.monotonic() + timeout
        told = False
        while not self.try_acquire():
            if cancelled():
                raise Interrupted("interrupted while waiting for another sync")
            if time.monotonic() >= deadline:
                holder = self.holder()
                raise ProjectBusy(
                    f"another sync of {self._project} is going on: {holder or 'unknown process'}",
                    hint=f"wait for it, or end it: kill {holder.pid}" if holder else "try again",
                )
            if not told:
                on_wait(self.holder())
                told = True
            time.sleep(_POLL)

    def _sign(self, fd: int) -> None:
        record = Holder(os.getpid(), self._command[:500], time.time())
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, msgspec.json.encode(record) + b"\n", 0)
        except OSError:
            pass  # on a full disk, others learn only that somebody holds the lock

    def release(self) -> None:
        """Give the lock back; a no-op when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def holder(self) -> Holder | None:
        """Return who holds the lock, or held it last; None where that is not known."""
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(8192), type=Holder)
        except (OSError, msgspec.MsgspecError):
            return None
