"""What the daemon itself keeps in a run's directory, and what it makes of one it finds.

    run.json             where the run comes from (``Ticket``)
    stdin.json           whose stdin is, where several clients wanted it (see ``stdin``)
    lost                 empty: the run is lost, and what its supervisor left was cleaned up
    <id>.new/            a directory that is being written; it gets its name when it is whole
    <id>.gone/           one that is being removed
    <id>.damaged/        one that could not be read; psync never looks into it again

Everything else there is the supervisor's, see ``psync.supervisor.record``.
"""

from __future__ import annotations

import logging
import os
import re
import stat

import msgspec

from psync.model import Overflow
from psync.paths import free_path, private
from psync.supervisor import record
from psync.supervisor.log import LogDamaged, LogNewer, LogReader
from psync.text import printable

FORMAT = 1
"""Version of ``run.json``. Fields are added to it with a default, which an earlier version does not
miss and does not look at; the number rises only where it would do harm with what it finds."""

TICKET = "run.json"
LOST = "lost"
NEW = ".new"
GONE = ".gone"
DAMAGED = ".damaged"

_ID = re.compile(r"[a-z0-9]{1,32}")

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
        client_name: the client's name at that time. This and what follows is new in 0.2.0.
        revision: revision of the project's source, for people.
        disconnect_grace: seconds it lives without any client, None for ever.
        overflow: what happens at the limit of unread output.
        boot: which start of the host it was asked for in; empty where the system does not say.
    """

    format: int
    client: str
    request: str
    project: str | None
    name: str
    argv: tuple[bytes, ...]
    created: float
    client_name: str = ""
    revision: str = ""
    disconnect_grace: float | None = None
    overflow: Overflow = Overflow.BLOCK
    boot: str = ""


class _Format(msgspec.Struct):
    format: int


class _Damage(Exception):
    """``run.json`` cannot be read."""


class _Newer(Exception):
    """``run.json`` is of a later format."""


def create(directory: str, ticket: Ticket, spec: record.Spec) -> None:
    """Make the directory of a run: it is there whole, or not at all.

    Raises:
        OSError: it cannot be made; the caller removes what was made of it, ``<id>.new``.
    """
    new = f"{directory}{NEW}"
    os.mkdir(new, 0o700)
    with open(os.path.join(new, TICKET), "wb", opener=private) as file:
        file.write(msgspec.json.encode(ticket))
    record.write_spec(new, spec)
    os.rename(new, directory)


def is_leftover(name: str) -> bool:
    """Whether a directory of that name is half made or half removed."""
    return name.endswith((NEW, GONE))


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


def never_began(directory: str, ticket: Ticket) -> bool:
    """Whether a run was asked for and its daemon killed before there was a supervisor.

    Its client never heard of it and asks again. After the host was started anew nobody knows: what
    a supervisor wrote may not have come to the disk.
    """
    traces = (record.EXIT, record.SUPERVISOR, "cursor", LOST)
    return bool(ticket.boot) and ticket.boot == boot() and not _has_any(directory, traces)


def boot() -> str:
    """Return what tells this start of the host from others; empty where the system does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def inspect(name: str, directory: str) -> Ticket | None:
    """Return where a run comes from, None for one that is not to be served.

    That is one that is damaged, which is set aside, and one that a later version of psync left,
    which is not touched: both are named in the log. So is what does not belong there.
    """
    if not _ID.fullmatch(name):
        if DAMAGED not in name:
            logger.warning("%s in the directory of runs is none; it is ignored", printable(name))
        return None
    try:
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise _Damage("it is no directory")
        _check_owner(directory)
        if has_supervisor(directory):
            return _ticket_of_the_living(name, directory)
        ticket = _read_ticket(directory)
        _check_log(directory)
    except (_Newer, record.RecordNewer, LogNewer) as error:
        logger.error(
            "run %s is of a later version of psync and left alone: %s",
            printable(name),
            printable(str(error)),
        )
        return None
    except (OSError, _Damage, record.RecordError, LogDamaged) as error:
        _set_aside(name, directory, error)
        return None
    return ticket


def _set_aside(name: str, directory: str, why: Exception) -> None:
    aside = free_path(f"{directory}{DAMAGED}")
    logger.error(
        "run %s is damaged and set aside as %s: %s",
        printable(name),
        printable(aside),
        printable(str(why)),
    )
    try:
        os.rename(directory, aside)
    except OSError as failure:
        logger.error("run %s cannot be set aside: %s", printable(name), failure)


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
        newest = msgspec.json.decode(text, type=_Format).format
        if newest > FORMAT:
            raise _Newer(f"{path} is of format {newest}")
        return msgspec.json.decode(text, type=Ticket)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Damage(f"{path}: {error}") from error


def _check_owner(directory: str) -> None:
    """See whether it is a later version's supervisor that owns the run.

    Raises:
        RecordNewer: it is.
    """
    try:
        record.read_owner(directory)
    except record.RecordNewer:
        raise
    except (OSError, record.RecordError):
        pass  # the record is of use only as long as the run goes on


def _check_log(directory: str) -> None:
    """See whether the exit record and the log of a run that is over can be read, and agree.

    Raises:
        RecordError, LogDamaged: they cannot, or do not.
        OSError: there is a record, but no log.
    """
    try:
        end = record.read_exit(directory).output_end
    except FileNotFoundError:
        end = None
    try:
        reader = LogReader(directory)
    except FileNotFoundError:
        if end is not None:
            raise
        return
    try:
        if end is not None and reader.end != end:
            raise LogDamaged(f"the log ends at {reader.end}, the exit record says at {end}")
    finally:
        reader.close()


def _has_any(directory: str, names: tuple[str, ...]) -> bool:
    return any(os.path.lexists(os.path.join(directory, name)) for name in names)
