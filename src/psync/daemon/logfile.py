"""The daemon's log while it runs: lines on stderr, and a new file when daemon.log has grown large.

Where stderr is ``daemon.log`` (the daemon was started in the background) it is moved aside to
``daemon.log.1`` at ``LARGEST``, and the daemon goes on in a new one; so both together stay bounded
however long it runs and whoever makes it write. A terminal, the journal or a file of the user's own
is left as it is.
"""

from __future__ import annotations

import logging
import os
import sys

LARGEST = 4 * 1024 * 1024
"""Bytes of daemon.log at which it is moved aside."""

_STDOUT, _STDERR = 1, 2


class LogFile(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to stderr.

    Args:
        path: where ``daemon.log`` is, or would be.
        largest: see ``LARGEST``.
    """

    def __init__(self, path: str, *, largest: int = LARGEST) -> None:
        super().__init__(sys.stderr)
        self._path = path
        self._largest = largest

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; moves the file aside before one that is too much for it."""
        try:
            if os.fstat(_STDERR).st_size >= self._largest:
                self._turn_over()
        except OSError:
            pass  # a full disk: the line is worth a try all the same
        super().emit(record)

    def _turn_over(self) -> None:
        if not _is(_STDERR, self._path):
            return
        both = _is(_STDOUT, self._path)
        new = f"{self._path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(new, flags, 0o600)
        try:
            os.replace(self._path, f"{self._path}.1")
            os.replace(new, self._path)
            os.dup2(fd, _STDERR)
            if both:
                os.dup2(fd, _STDOUT)
        finally:
            os.close(fd)


def _is(fd: int, path: str) -> bool:
    """Whether a descriptor is open on the file that has that path now."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
