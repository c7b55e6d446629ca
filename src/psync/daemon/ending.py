"""How a run ended, read from its directory."""

from __future__ import annotations

import msgspec

from psync.model import ExitStatus
from psync.supervisor import record
from psync.supervisor.log import LogDamaged, LogReader


class Ending(msgspec.Struct, frozen=True):
    """How a run ended, as clients are told.

    Attributes:
        end: length of its output in bytes.
        status: its exit status.
        error: the code of the error where the program could not be executed.
        message: what went wrong then.
    """

    end: int
    status: ExitStatus
    error: str | None = None
    message: str = ""


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
        return Ending(end=_log_end(directory), status=LOST)
    failure = exit_.exec_error
    return Ending(
        end=exit_.output_end,
        status=ExitStatus(code=exit_.code, signal=exit_.signal),
        error=None if failure is None else _CODES.get(failure.kind, "not-executable"),
        message="" if failure is None else failure.message,
    )


def _log_end(directory: str) -> int:
    try:
        reader = LogReader(directory)
    except (FileNotFoundError, LogDamaged):
        return 0  # it never had a log, or none that is of use
    try:
        return reader.end
    finally:
        reader.close()
