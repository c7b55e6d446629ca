"""Which runs there are, as clients are told: the newest first, in pages.

What is told of a run that is over is read once and kept, a few hundred bytes each, so that a list
of thousands opens no file. For an active run the cursor of its log is read, which is 64 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from psync.daemon.ending import Ending, log_extent, started_at
from psync.daemon.retention import Age
from psync.daemon.run import Run
from psync.daemon.rundir import Ticket
from psync.errors import Refused
from psync.model import RunInfo, RunState
from psync.protocol.requests import PAGE_RUNS
from psync.text import printable

COMMAND = 2048
"""Bytes of a command that are told, all its words together."""

WORD_COST = 8
"""What a word counts besides its bytes; a command may consist of thousands of empty ones."""

NAME = 200
"""Characters of any name that are told."""

PAGE_BYTES = 160 * 1024
"""JSON of a page, which has to fit into one message together with what surrounds it."""

CUT = "…".encode()

NEWEST = "-1"
"""What a client says for the newest run."""


class Entry:
    """A run in the registry, and what lists tell of it.

    Attributes:
        run: the run.
        client: ID of the client that started it.
        request: that client's request ID.
        project: the project it belongs to.
        size: bytes that it takes on disk; known once it is over.
        age: how long it has been over.
    """

    __slots__ = ("_fixed", "age", "client", "project", "request", "run", "size")

    def __init__(self, run: Run, ticket: Ticket) -> None:
        self.run = run
        self.client = ticket.client
        self.request = ticket.request
        self.project = ticket.project
        self.size = 0
        self.age = Age(0.0, 0.0, 0.0)
        self._fixed = RunInfo(
            id=run.id,
            command=shorten(ticket.argv),
            state=RunState.STARTING,
            created=ticket.created,
            name=ticket.name[:NAME],
            project=ticket.project,
            client=ticket.client_name[:NAME],
            revision=ticket.revision[:NAME],
            disconnect_grace=ticket.disconnect_grace,
            overflow=ticket.overflow,
        )

    @property
    def name(self) -> str:
        """The run's name for people."""
        return self._fixed.name

    @property
    def created(self) -> float:
        """When it was asked for, in seconds since the epoch."""
        return self._fixed.created

    @property
    def watched(self) -> bool:
        """Whether a client looks at it."""
        return self.run.watched

    def finished(self, ending: Ending) -> None:
        """Take note of how it ended."""
        self._fixed = msgspec.structs.replace(
            self._fixed,
            started=ending.started,
            ended=ending.ended,
            status=ending.status,
            reason=ending.reason,
            output=ending.end,
            oldest=ending.oldest,
        )

    def info(self) -> RunInfo:
        """Return what clients are told now."""
        run = self.run
        if run.state.final:
            return msgspec.structs.replace(self._fixed, state=run.state, viewers=run.viewers)
        try:
            end, oldest = log_extent(run.directory)
        except OSError:  # out of descriptors, say; the list is of use without it
            end = oldest = 0
        if self._fixed.started is None and run.state is not RunState.STARTING:
            self._fixed = msgspec.structs.replace(self._fixed, started=started_at(run.directory))
        info = msgspec.structs.replace(
            self._fixed, state=run.state, viewers=run.viewers, output=end, oldest=oldest
        )
        return msgspec.structs.replace(info, disconnect_grace=None) if run.kept else info


def no_such_run(run_id: str) -> Refused:
    """Return what is said of a run that is not there, or not for this client."""
    return Refused(f"there is no run {printable(run_id)} on this daemon")


def select(
    entries: Iterable[Entry],
    match: str,
    active: bool,
    visible: Callable[[str | None], bool],
) -> Iterator[Entry]:
    """Yield those of ``entries``, which are the newest first, that a client asks for.

    Args:
        entries: runs.
        match: the beginning of an ID, a whole name, ``-1`` for the newest; empty for all.
        active: only those that have not ended.
        visible: whether the client may see runs of a project (None: of none).
    """
    for entry in entries:
        if active and entry.run.state.final:
            continue
        if match not in ("", NEWEST) and not (
            entry.run.id.startswith(match) or entry.name == match
        ):
            continue
        if not visible(entry.project):
            continue
        yield entry
        if match == NEWEST:
            return


def page(entries: Iterator[Entry]) -> tuple[tuple[RunInfo, ...], bool]:
    """Return the first of ``entries``, as many as fit into a message, and whether there are more.

    At least one if there is any.
    """
    infos: list[RunInfo] = []
    size = 0
    for entry in entries:
        if len(infos) == PAGE_RUNS:
            return tuple(infos), True
        info = entry.info()
        size += len(msgspec.json.encode(info))
        if infos and size > PAGE_BYTES:
            return tuple(infos), True
        infos.append(info)
    return tuple(infos), False


def shorten(argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return a command of at most some ``COMMAND`` bytes; ``…`` stands for what was cut."""
    words = []
    left = COMMAND
    for word in argv:
        left -= WORD_COST
        if left <= 0:
            words.append(CUT)
            break
        if len(word) > left:
            words.append(word[:left] + CUT)
            break
        words.append(word)
        left -= len(word)
    return tuple(words)
