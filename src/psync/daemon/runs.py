"""The registry of runs: starting new ones, adopting an earlier daemon's, forgetting old ones.

Each run is a directory below ``<state>/runs``. The registry holds only what the directories say, so
a daemon that was killed loses nothing: the next one reads them again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping

from psync.daemon.ending import mark_lost, modified
from psync.daemon.holders import Who
from psync.daemon.launcher import Launcher, LaunchError
from psync.daemon.listing import Entry, no_such_run, page, select
from psync.daemon.retention import Age, Now, Retention, size_on_disk, surplus
from psync.daemon.run import Run
from psync.daemon.rundir import (
    GONE,
    LOST,
    NEW,
    Ticket,
    create,
    has_supervisor,
    inspect,
    is_leftover,
    never_began,
)
from psync.daemon.spec import LogLimits as LogLimits, check, supervised, ticket
from psync.daemon.strays import clean_up
from psync.daemon.tasks import Tasks
from psync.errors import PsyncError, Refused
from psync.model import RunInfo, RunSpec, RunState, Stream
from psync.paths import private_directory
from psync.supervisor.log import LogDamaged
from psync.supervisor.search import locate
from psync.text import printable

RETENTION_INTERVAL = 60.0
"""Most seconds between two looks for runs that have become too old."""

PATIENCE = 1.0
"""Longest pause, in seconds, between two attempts to reach a supervisor that lives."""

logger = logging.getLogger("psync.runs")


class Runs:
    """All runs of one daemon.

    What is done for one run does not depend on how many there are, but for a list of them.

    Args:
        directory: absolute path; made when missing.
        launcher: forks supervisors.
        tasks: owner of what goes on in the background.
        limits: how much output of a run is kept.
        environ: the daemon's own environment.
        retention: which finished runs are kept.
    """

    def __init__(
        self,
        directory: str,
        launcher: Launcher,
        tasks: Tasks,
        limits: LogLimits,
        environ: Mapping[bytes, bytes],
        retention: Retention = Retention(),  # noqa: B008 - frozen
    ) -> None:
        self._directory = directory
        self._launcher = launcher
        self._tasks = tasks
        self._limits = limits
        self._environ = environ
        self._retention = retention
        self._entries: dict[str, Entry] = {}  # in the order in which they were asked for
        self._requests: dict[tuple[str, str], Entry] = {}
        self._active: dict[str, Run] = {}
        self._finished: dict[str, Entry] = {}  # in the order in which they ended
        self._size = 0  # on disk, of those
        self._untold: set[str] = set()  # over, and somebody is attached who may not know it yet
        self._refusing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._told = asyncio.Event()
        self._told.set()
        self.on_ended: Callable[[RunInfo], None] = lambda _run: None  # told of each run that ends

    # -- what clients ask for ----------------------------------------------------------

    def start(
        self,
        request: str,
        client: str,
        spec: RunSpec,
        *,
        executable: str | None,
        cwd: str | None,
        client_name: str = "",
    ) -> Run:
        """Start a run, or return the one that the same request has started already.

        Returns at once; the run is ``starting``, and tells its viewers how it goes on.

        Args:
            request: the client's request ID.
            client: the client's ID.
            spec: what to run.
            executable: absolute path of the program, None to look it up on the run's PATH.
            cwd: absolute working directory, None for the user's home.
            client_name: the client's name, for people.

        Raises:
            PsyncError: the run's directory cannot be made (disk full).
            Refused: the command is empty or holds a NUL byte, or the daemon is about to leave.
        """
        known = self._requests.get((client, request))
        if known is not None:
            return known.run
        if self._refusing:
            raise Refused(
                "the daemon is being stopped; it starts no run any more",
                hint="wait a moment, then try again",
            )
        check(spec)
        run_id = secrets.token_hex(5)
        run = Run(run_id, f"{self._directory}/{run_id}", self, grace=spec.disconnect_grace)
        origin = ticket(spec, client=client, client_name=client_name, request=request)
        told = supervised(
            spec,
            run_id=run_id,
            executable=executable,
            cwd=cwd,
            environ=self._environ,
            limits=self._limits,
        )
        try:
            create(run.directory, origin, told)
        except OSError as error:
            shutil.rmtree(f"{run.directory}{NEW}", ignore_errors=True)
            raise PsyncError(
                f"the run cannot be recorded on the daemon host: {error.strerror}",
                hint="free some space there" if error.errno == errno.ENOSPC else "",
            ) from error
        self._add(run, origin)
        self._tasks.start(f"launch run {run_id}", self._launch(run))
        return run

    def find(self, run_id: str) -> Run:
        """Return the run of that ID.

        Raises:
            Refused: there is none.
        """
        return self._entry(run_id).run

    def project(self, run_id: str) -> str | None:
        """Return the project that a run belongs to, None for one that belongs to none.

        Raises:
            Refused: there is no such run.
        """
        return self._entry(run_id).project

    def active(self, client: str | None = None) -> list[Run]:
        """Return the runs that have not ended, those of one client or all."""
        runs = self._active.values()
        return [r for r in runs if client in (None, self._entries[r.id].client)]

    def asked(self, client: str, request: str) -> bool:
        """Whether ``start`` was called with this request before."""
        return (client, request) in self._requests

    def listing(
        self, match: str, active: bool, before: str | None, visible: Callable[[str | None], bool]
    ) -> tuple[tuple[RunInfo, ...], bool]:
        """Return a page of the runs that a client asks for, and whether there are more.

        The newest come first.

        Args:
            match: see ``protocol.requests.ListRuns``.
            active: only those that have not ended.
            before: only those older than this one, which was the last of the page before.
            visible: whether the client may see the runs of a project (None: of none).

        Raises:
            Refused: ``before`` has been removed since; the list has to be asked for from the start.
        """
        entries = reversed(self._entries.values())
        if before is not None:
            if before not in self._entries:
                raise Refused(
                    f"run {printable(before)} is gone; the list is another one now",
                    hint="ask again",
                )
            for entry in entries:
                if entry.run.id == before:
                    break
        return page(select(entries, match, active, visible))

    async def locate(
        self, run_id: str, lines: int | None, since: float | None, stream: Stream | None
    ) -> tuple[int, int, int]:
        """Return a place in a run's output, the oldest byte that is there, and the end.

        See ``supervisor.search.locate``. Works in a thread, since an output may have gigabytes;
        cancelling it leaves the thread to its end.

        Raises:
            Refused: there is no such run.
            PsyncError: its output cannot be read.
        """
        run = self._entry(run_id).run
        try:
            return await asyncio.to_thread(
                locate, run.directory, lines, since, None if stream is None else int(stream)
            )
        except FileNotFoundError:
            return 0, 0, 0  # it has no output yet, or was lost before there was any
        except (OSError, LogDamaged) as error:
            logger.error("the output of run %s cannot be read: %s", run.id, error)
            raise PsyncError(
                "the output of this run cannot be read on the daemon host",
                hint="the daemon's log says more",
            ) from error

    def refuse(self) -> None:
        """Start no run any more."""
        self._refusing = True

    async def wait_idle(self) -> None:
        """Wait until no run is active."""
        await self._idle.wait()

    async def wait_told(self) -> None:
        """Wait until no run is active and every client attached to one was told how it ended."""
        await self._told.wait()

    # -- life --------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over the runs in the directory: those alive, those finished, those lost.

        A damaged run is set aside as ``<id>.damaged`` and named in the log; it touches no other.

        Raises:
            ConfigError: the directory cannot be used.
        """
        private_directory(self._directory)
        found: list[tuple[float, str, Ticket]] = []
        for name in sorted(os.listdir(self._directory)):
            directory = os.path.join(self._directory, name)
            if is_leftover(name):
                self._tasks.start(f"remove {name}", _remove(directory))
            elif (origin := inspect(name, directory)) is not None:
                found.append((origin.created, name, origin))
        for _, name, origin in sorted(found, key=lambda entry: entry[:2]):
            starter = Who(origin.client, origin.request)
            run = Run(name, f"{self._directory}/{name}", self, starter, origin.disconnect_grace)
            if never_began(run.directory, origin):
                logger.warning("run %s was never begun; its client asks again", name)
                self._remove(run)
                continue
            self._add(run, origin)
            if not await self._meet(run):
                self.on_gone(run)
        in_order = sorted(self._finished.items(), key=lambda item: item[1].age.ended)
        self._finished = dict(in_order)
        self._prune()
        if (age := self._retention.age) is not None:
            pause = min(RETENTION_INTERVAL, max(1.0, age / 10))
            self._tasks.start("remove old runs", self._keep_pruning(pause))

    def close(self) -> None:
        """Let go of every supervisor; the runs go on."""
        for entry in self._entries.values():
            entry.run.close()

    async def _launch(self, run: Run) -> None:
        try:
            await self._launcher.launch(run.directory)
        except Exception as error:
            if not isinstance(error, LaunchError):
                logger.exception("run %s could not be launched", run.id)
                error = LaunchError(
                    "the run could not be started on the daemon host",
                    hint="the daemon's log says more",
                )
            entry = self._entries[run.id]
            run.failed(error)
            self._forget(entry)
            self._note_idle()
            self._remove(run)
            return
        if not await self._meet(run):
            self.on_gone(run)

    async def _meet(self, run: Run) -> bool:
        """Connect to a run's supervisor, or learn how the run ended; False if neither can be now.

        Without a living supervisor the run has ended, which its record says, or is lost.
        """
        try:
            await run.connect()
        except OSError:
            try:
                if has_supervisor(run.directory):
                    return False
                run.finish()
            except OSError:  # out of descriptors, say: that must not cost anybody a run
                return False
        return True

    async def _keep_meeting(self, run: Run) -> None:
        pause = 0.01
        while not await self._meet(run):
            await asyncio.sleep(pause)
            if pause < PATIENCE <= 2 * pause:
                logger.warning("the supervisor of run %s lives and cannot be reached", run.id)
            pause = min(2 * pause, PATIENCE)

    # -- what runs say -----------------------------------------------------------------

    def on_gone(self, run: Run) -> None:
        """See ``run.Owner``."""
        self._tasks.start(f"meet the supervisor of run {run.id}", self._keep_meeting(run))

    def on_final(self, run: Run) -> None:
        """See ``run.Owner``."""
        entry = self._entries[run.id]
        assert run.ending is not None
        ended = run.ending.ended
        if run.state is RunState.LOST:
            ended = modified(os.path.join(run.directory, LOST))  # the first time that it is found
            if ended is None:
                logger.error("run %s is lost: its supervisor left no record", run.id)
                self._tasks.start(f"kill what run {run.id} left", _clean_up(run))
        now = Now(time.time(), time.monotonic())
        entry.finished(run.ending)
        self.on_ended(entry.info())
        entry.age = Age.of(now.wall if ended is None else ended, now)
        entry.size = size_on_disk(run.directory)
        self._active.pop(run.id, None)
        self._finished[run.id] = entry
        self._size += entry.size
        if run.watched:
            self._untold.add(run.id)
        self._note_idle()
        self._prune()

    def on_unwatched(self, run: Run) -> None:
        """See ``run.Owner``."""
        if run.state.final:
            self._untold.discard(run.id)
            self._note_idle()
            self._prune()

    def _note_idle(self) -> None:
        if self._active:
            return
        self._idle.set()
        if not self._untold:
            self._told.set()

    # -- the directory -----------------------------------------------------------------

    def _entry(self, run_id: str) -> Entry:
        entry = self._entries.get(run_id)
        if entry is None:
            raise no_such_run(run_id)
        return entry

    def _add(self, run: Run, origin: Ticket) -> None:
        entry = Entry(run, origin)
        self._entries[run.id] = entry
        self._requests[entry.client, entry.request] = entry
        self._active[run.id] = run
        self._idle.clear()
        self._told.clear()

    def _forget(self, entry: Entry) -> None:
        run_id = entry.run.id
        self._active.pop(run_id, None)
        self._untold.discard(run_id)
        if self._finished.pop(run_id, None) is not None:
            self._size -= entry.size
        del self._entries[run_id]
        key = (entry.client, entry.request)
        if self._requests.get(key) is entry:
            del self._requests[key]

    def _prune(self) -> None:
        """Forget the finished runs that are not to be kept any longer."""
        now = Now(time.time(), time.monotonic())
        for entry in surplus(
            self._finished.values(),
            self._retention,
            now,
            count=len(self._finished),
            size=self._size,
        ):
            self._forget(entry)
            self._remove(entry.run)

    async def _keep_pruning(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            self._prune()

    def _remove(self, run: Run) -> None:
        """Remove a run's directory, in the background: it may hold a gigabyte."""
        gone = f"{run.directory}{GONE}"
        try:
            os.rename(run.directory, gone)
        except OSError as error:
            logger.error("the directory of run %s cannot be removed: %s", run.id, error)
            return
        self._tasks.start(f"remove run {run.id}", _remove(gone))


async def _remove(directory: str) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _clean_up(run: Run) -> None:
    killed = await asyncio.to_thread(clean_up, run.id, run.directory)
    if killed:
        logger.warning("killed %d processes that the lost run %s left", killed, run.id)
    mark_lost(run.directory, None if run.ending is None else run.ending.ended)
