"""The mark of a sync that has begun and not ended.

    <project>/unfinished    JSON of ``Begun``

It is there before a sync changes anything, and what counts is that it is there: a host that stops
may lose what is in it, but a file system's journal brings back no later change without it.
"""

from __future__ import annotations

import os
import time

import msgspec

from psync.daemon.look import STEP, file_clock
from psync.daemon.rundir import boot

MARK = "unfinished"

_LONGEST = 1024
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Begun(msgspec.Struct, frozen=True):
    """When a sync began.

    Attributes:
        at: nanoseconds since the epoch, by the clock of the mirror's file system.
        offset: between the host's clock and the time since its start, in nanoseconds; it changes
            only when somebody sets the clock.
        boot: tells this start of the host from others.
        broken: where the syncs before have not ended, ``at`` of the first one: what they left
            unfinished may be there.
    """

    at: int
    offset: int
    boot: str
    broken: int | None = None

    def by(self, now: int) -> int | None:
        """Return the time from which on a file's times say nothing, None if that is all time.

        Args:
            now: the time by the clock of the mirror's file system.
        """
        if self.boot != boot() or abs(_offset() - self.offset) > STEP:
            return None  # what was written since may bear any time
        return min(self.at, now)


def unfinished(directory: str) -> bool:
    """Whether a sync of this project's directory has begun and not ended."""
    return os.path.lexists(f"{directory}/{MARK}")


def set_mark(directory: str) -> None:
    """Note that a sync begins now; an earlier beginning is forgotten.

    Raises:
        OSError: it cannot be noted. Without a mark before there is none now.
    """
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    try:
        now = file_clock(top)
        broken = None
        if unfinished(directory):
            before = _read(f"{directory}/{MARK}")
            broken = now if before is None else min(before.at, before.broken or before.at)
        begun = Begun(now, _offset(), boot(), broken)
        new = f"{MARK}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600, dir_fd=top)
        try:
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(begun))
            os.rename(new, MARK, src_dir_fd=top, dst_dir_fd=top)
        except OSError:
            os.unlink(new, dir_fd=top)
            raise
    finally:
        os.close(top)


def take_mark(directory: str) -> Begun | None:
    """Remove the mark, so that runs may start again; return what was in it if that is whole.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be removed.
    """
    path = f"{directory}/{MARK}"
    begun = _read(path)
    os.unlink(path)
    return begun


def _read(path: str) -> Begun | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | _FLAGS), "rb") as file:
            return msgspec.json.decode(file.read(_LONGEST), type=Begun)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _offset() -> int:
    return time.time_ns() - time.clock_gettime_ns(_UPTIME)
