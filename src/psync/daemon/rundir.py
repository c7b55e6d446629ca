"""What the daemon itself keeps in a run's directory, and what it makes of one it finds.

    run.json             where the run comes from (``Ticket``); written before the launch
    lost                 empty: the run is lost, and what its supervisor left was cleaned up
    <id>.gone/           a directory that is being removed
    <id>.damaged/        one that could not be read; psync never looks into it again

Everything else there is the supervisor's, see ``psync.supervisor.record``.
"""

from __future__ import annotations

import logging
import os

import msgspec

from psync.paths import free_path
from psync.supervisor import record
from psync.supervisor.log import LogDamaged, LogReader
from psync.text import printable

FORMAT = 1
"""Version of ``run.json``."""

TICKET = "run.json"
LOST = "lost"
GONE = ".gone"
DAMAGED = ".damaged"

logger = logging.getLogger("psync.runs")


class Ticket(msgspec.Struct, frozen=True):
    """What ``run.json`` holds: where a run comes from.

    Attributes:
        format: version of this format.
        client: ID of the client that started it.
        request: the client's request ID; the same one never starts a second run.
        project: the project it belongs to.
        name: a name for people.
        argv: the command.
        created: seconds since the epoch.
    """

    format: int
    client: str
    request: str
    project: str | None
    name: str
    argv: tuple[bytes, ...]
    created: float


class _Damage(Exception):
    """``run.json`` cannot be read."""


def has_supervisor(directory: str) -> bool:
    """Whether the run there has a supervisor that lives.

    Raises:
        OSError: it cannot be told now.
    """
    try:
        return (
            not os.path.exists(os.path.join(directory, record.EXIT))
            and record.read_owner(directory).alive
        )
    except (FileNotFoundError, record.RecordError):
        return False


def inspect(name: str, directory: str) -> Ticket | None:
    """Return where a run comes from; None for one that is damaged, which is set aside."""
    try:
        if has_supervisor(directory):
            return _ticket_of_the_living(name, directory)
        ticket = _read_ticket(directory)
        _check_log(directory)
    except (OSError, _Damage, record.RecordError, LogDamaged) as error:
        aside = free_path(f"{directory}{DAMAGED}")
        logger.error(
            "run %s is damaged and set aside as %s: %s",
            printable(name),
            printable(aside),
            printable(str(error)),
        )
        try:
            os.rename(directory, aside)
        except OSError as failure:
            logger.error("run %s cannot be set aside: %s", printable(name), failure)
        return None
    return ticket


def _ticket_of_the_living(name: str, directory: str) -> Ticket:
    """The same for a run that goes on: it is kept, whatever became of its ticket."""
    try:
        return _read_ticket(directory)
    except (OSError, _Damage) as error:
        logger.error(
            "run %s goes on, but where it comes from is damaged: %s",
            printable(name),
            printable(str(error)),
        )
        return Ticket(FORMAT, "", name, None, "", (), os.stat(directory).st_mtime)


def _read_ticket(directory: str) -> Ticket:
    path = os.path.join(directory, TICKET)
    with open(path, "rb") as file:
        text = file.read()
    try:
        return msgspec.json.decode(text, type=Ticket)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Damage(f"{path}: {error}") from error


def _check_log(directory: str) -> None:
    """See whether the exit record and the log of a run that is over can be read.

    Raises:
        RecordError, LogDamaged: they cannot.
        OSError: there is a record, but no log.
    """
    try:
        record.read_exit(directory)
    except FileNotFoundError:
        ended = False
    else:
        ended = True
    try:
        LogReader(directory).close()
    except FileNotFoundError:
        if ended:
            raise
