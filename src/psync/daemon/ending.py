"""How a run ended, read from its directory."""

from __future__ import annotations

import os

import msgspec

from psync.daemon.rundir import LOST as MARK
from psync.model import ExitStatus
from psync.paths import private
from psync.supervisor import record
from psync.supervisor.cursor import Cursor, LogDamaged


class Ending(msgspec.Struct, frozen=True):
    """How a run ended, as clients are told.

    Attributes:
        end: length of its output in bytes.
        status: its exit status.
        error: the code of the error where the program could not be executed.
        message: what went wrong then.
        reason: what made it end, see ``record.Exit``; empty for a lost one.
        started: when the program was started, in seconds since the epoch; None where nobody knows.
        ended: when it ended; of a lost one, when it was last known to live.
        oldest: the first byte of output that can still be read.
    """

    end: int
    status: ExitStatus
    error: str | None = None
    message: str = ""
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    oldest: int = 0


LOST = ExitStatus(lost=True)

_CODES = {"not-found": "program-not-found"}
"""Kinds of failure to execute that are not ``not-executable``, and their error codes."""


def read_ending(directory: str) -> Ending:
    """Return how the run in ``directory`` ended; without a record that makes sense it is lost.

    Raises:
        OSError: whether there is a record cannot be told now (descriptors have run out, the disk
            failed); it may be asked again.
    """
    try:
        exit_ = record.read_exit(directory)
    except (FileNotFoundError, record.RecordError):
        end, oldest = log_extent(directory)
        started = started_at(directory)
        return Ending(
            end=end,
            status=LOST,
            started=started,
            ended=_end_in(os.path.join(directory, MARK)) or last_sign(directory),
            oldest=oldest,
        )
    failure = exit_.exec_error
    return Ending(
        end=exit_.output_end,
        status=ExitStatus(code=exit_.code, signal=exit_.signal),
        error=None if failure is None else _CODES.get(failure.kind, "not-executable"),
        message="" if failure is None else failure.message,
        reason=exit_.reason,
        started=exit_.started if failure is None else None,
        ended=exit_.ended,
        oldest=min(log_extent(directory)[1], exit_.output_end),
    )


def started_at(directory: str) -> float | None:
    """When the supervisor had forked the program: it says so in its own record right after it."""
    return modified(os.path.join(directory, record.SUPERVISOR))


def last_sign(directory: str) -> float | None:
    """Return when a run gave its last sign of life: that of its program's start, or of its log."""
    try:
        names = os.listdir(directory)
    except OSError:
        return None
    logs = [name for name in names if name.startswith(("output-", "index-"))]
    times = [modified(os.path.join(directory, name)) for name in (record.SUPERVISOR, *logs)]
    return max((one for one in times if one is not None), default=None)


def mark_lost(directory: str, ended: float | None) -> None:
    """Note that a run is lost, and when it was last known to live: the next daemon need not look.

    Where the run is not kept, or the disk is full, nothing is noted.
    """
    try:
        with open(os.path.join(directory, MARK), "wb", opener=private) as file:
            file.write(b"" if ended is None else b"%.3f\n" % ended)
    except OSError:
        return


def modified(path: str) -> float | None:
    """When a file was written last, None if there is none."""
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _end_in(path: str) -> float | None:
    """What ``mark_lost`` noted; None where it did not, as before 0.2.0, or it is damaged."""
    try:
        with open(path, "rb") as file:
            ended = float(file.read(64))
    except (OSError, ValueError):
        return None
    return ended if 0 < ended < 1e11 else None


def log_extent(directory: str) -> tuple[int, int]:
    """Return the end of a run's log and the oldest byte that it holds; 0 and 0 without any.

    Raises:
        OSError: it cannot be told now.
    """
    try:
        cursor = Cursor.open(directory)
    except (FileNotFoundError, LogDamaged):
        return 0, 0  # it never had a log, or none that is of use
    try:
        oldest = cursor.oldest  # first: it never overtakes the end
        return cursor.end, oldest
    finally:
        cursor.close()
