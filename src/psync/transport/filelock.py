"""A lock between processes: one at a time makes a key or changes the list of clients."""

from __future__ import annotations

import os
import time
from types import TracebackType

from psync.errors import TrustError
from psync.text import printable

LOCK_TIMEOUT = 10.0
"""Seconds to wait for a lock. It is only ever held while a few small files are written."""

_POLL = 0.02


class FileLock:
    """``with FileLock(path):`` holds the lock ``path``, also against threads of this process.

    The file is created (mode 0600) and stays; the lock goes with the process that holds it, however
    that ends. Its directory must exist.

    Raises:
        TrustError: somebody held it for all of ``LOCK_TIMEOUT``.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: str, timeout: float = LOCK_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout
        self._fd = -1

    def __enter__(self) -> None:
        import fcntl

        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        end = time.monotonic() + self._timeout
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise TrustError(
                            f"another process has held {printable(self._path)} "
                            f"for {self._timeout:.0f} seconds",
                            hint="is another psync stuck? try again when it has ended",
                        ) from None
                    # flock has no timeout, and a signal to interrupt it would be the program's
                    time.sleep(_POLL)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)
