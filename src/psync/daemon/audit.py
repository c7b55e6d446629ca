"""The audit log: who came, what was asked for and what became of it; one JSON object a line.

    <state>/audit.jsonl          mode 0600, appended to by the daemon and by psync-server's commands
    <state>/audit.jsonl.1 … .4   earlier ones, the newest first
    <state>/audit.jsonl.lock     held while they are renamed

    {"time":"2026-11-22T10:00:00.123Z","event":"started","client":"desk","fingerprint":"sha256:…",
     "address":"192.0.2.7","run":"0a1b2c3d4e","project":"game-…","command":"./game --level 3"}

Environments never stand in it; arguments do, shortened, as they do in a list of processes. A line
is one write, so those of several processes do not mix. What cannot be written is lost, and one line
in the log of the daemon says so: a full disk stops nobody.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from psync.daemon.clientlist import ClientRecord
from psync.daemon.few import Few
from psync.errors import TrustError
from psync.model import RunInfo
from psync.text import printable
from psync.transport.filelock import FileLock
from psync.transport.quiet import Note

LARGEST = 8 * 1024 * 1024
"""Bytes of a file at which a new one is begun."""

KEPT = 4
"""Earlier files that are kept."""

COMMAND = 300
"""Characters of a command that are written."""

TEXT = 500
"""Characters of anything else."""

REFUSALS = 30
"""Refusals of one client that are written in a minute; more are counted."""

Event = Literal[
    "daemon-started",
    "daemon-left",
    "invited",
    "withdrawn",
    "paired",
    "renewed",
    "revoked",
    "renamed",
    "limited",
    "connected",
    "left",
    "refused",
    "opened",
    "transferred",
    "started",
    "attached",
    "stopped",
    "exited",
]

logger = logging.getLogger("psync.audit")


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line.

    Attributes:
        time: when it was written, RFC 3339 in UTC.
        event: what happened.
        client: the client's name.
        fingerprint: of its certificate.
        address: where it is, or was.
        run: ID of the run.
        project: ID of the project.
        command: the command, shortened and printable.
        reason: why, or how, in words.
        more: how many events like this one were left out before it.
    """

    time: str
    event: Event
    client: str = ""
    fingerprint: str = ""
    address: str = ""
    run: str = ""
    project: str = ""
    command: str = ""
    reason: str = ""
    more: int = 0


class Audit:
    """Appends to the audit log at ``path``. Its directory is made when it is missing.

    Args:
        path: absolute path of the file.
        largest: see ``LARGEST``.
        kept: see ``KEPT``.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        path: str,
        *,
        largest: int = LARGEST,
        kept: int = KEPT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._largest = largest
        self._kept = kept
        self._clock = clock
        self._trouble = ""
        self._refusals = Few(REFUSALS)

    def write(
        self,
        event: Event,
        client: ClientRecord | None = None,
        *,
        name: str = "",
        address: str = "",
        run: str = "",
        project: str | None = None,
        command: Sequence[bytes] = (),
        reason: str = "",
        more: int = 0,
    ) -> None:
        """Append one line; never raises what the disk does.

        Args:
            event: what happened.
            client: who it is about.
            name: of the client, where it is in no list.
            address: where the client is.
            run: ID of a run.
            project: ID of a project.
            command: program and arguments.
            reason: why, or how.
            more: how many like it were left out.
        """
        line = Line(
            time=rfc3339(self._clock()),
            event=event,
            client=_short(name if client is None else client.name),
            fingerprint="" if client is None else client.fingerprint,
            address=_short(address),
            run=_short(run),
            project=_short(project or ""),
            command=shown_command(command),
            reason=_short(reason),
            more=more,
        )
        try:
            self._append(msgspec.json.encode(line) + b"\n")
            self._trouble = ""
        except OSError as error:
            if self._trouble != str(error):  # once, and not for every line
                self._trouble = str(error)
                logger.error("cannot write %s: %s", printable(self._path), error.strerror)

    def refused(self, client: ClientRecord, address: str, reason: str, run: str = "") -> None:
        """Write that a client was refused something; many in a short time become one line."""
        more = self._refusals.left_out(client.client_id)
        if more is not None:
            self.write("refused", client, address=address, run=run, reason=reason, more=more)

    def exited(self, run: RunInfo) -> None:
        """Write that a run has ended. What ended while no daemon ran, ``psync ps -a`` knows."""
        status = run.status
        how = "lost"
        if status is not None and status.signal is not None:
            how = status.signal
        elif status is not None and status.code is not None:
            how = f"exit status {status.code}"
        self.write(
            "exited",
            name=run.client,
            run=run.id,
            project=run.project,
            reason=how if run.reason in ("", "exited") else f"{how} ({run.reason})",
        )

    def note(self, note: Note) -> None:
        """Write that strangers were refused; a ``write`` for ``QuietLog``, which keeps it few."""
        self.write("refused", address=note.address, reason=note.text, more=note.more)

    # -- inside ------------------------------------------------------------------------

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            fd = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            if os.write(fd, line) < len(line):
                os.write(fd, b"\n")  # the disk is full; what comes later begins a line of its own
        finally:
            os.close(fd)
        if size + len(line) > self._largest:
            self._rotate()

    def _rotate(self) -> None:
        """Begin a new file; who appends meanwhile still has the old one open, and loses nothing."""
        try:
            with FileLock(f"{self._path}.lock", timeout=0.0):
                if os.stat(self._path).st_size < self._largest:
                    return  # another process was faster
                for number in range(self._kept - 1, 0, -1):
                    _rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
                _rename(self._path, f"{self._path}.1")
        except TrustError:
            return  # another process is at it


def rfc3339(seconds: float) -> str:
    """Return a time in UTC, with milliseconds."""
    thousandths = int(seconds * 1000)
    shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(thousandths // 1000))
    return f"{shown}.{thousandths % 1000:03}Z"


def shown_command(words: Sequence[bytes]) -> str:
    """Return a command on one line, shortened; it is for people and is not to be executed."""
    shown: list[str] = []
    room = COMMAND
    for word in words:
        text = printable(word[: 4 * COMMAND])
        if not text or set(text) & set(" \t\"'"):
            text = "'" + text.replace("'", "'\\''") + "'"
        shown.append(text[: room + 1])
        room -= len(text) + 1
        if room < 0:
            break
    return _short(" ".join(shown), COMMAND)


def _short(text: str, room: int = TEXT) -> str:
    text = printable(text[: 2 * room])
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        return
