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
from collections.abc import Mapping

import msgspec

from psync.daemon.environment import home_directory, run_environment
from psync.daemon.launcher import Launcher, LaunchError
from psync.daemon.run import FLOOR_STEP, Run
from psync.daemon.rundir import FORMAT, GONE, LOST, TICKET, Ticket, has_supervisor, inspect
from psync.daemon.strays import clean_up
from psync.daemon.tasks import Tasks
from psync.errors import PsyncError, Refused
from psync.model import RunSpec, RunState
from psync.paths import private_directory
from psync.supervisor import record
from psync.text import printable

KEPT_RUNS = 200
"""Finished runs whose output and exit record are kept; the oldest go first."""

LOWEST_LIMIT = 4 * FLOOR_STEP
"""Least output a run may hold unread; with less it would wait for news that comes in steps."""

PATIENCE = 1.0
"""Longest pause, in seconds, between two attempts to reach a supervisor that lives."""

logger = logging.getLogger("psync.runs")


class LogLimits(msgspec.Struct, frozen=True):
    """How much output of a run is held on disk, in bytes.

    Attributes:
        unread: output that no client has taken yet; a run that reaches it blocks. Not below
            ``LOWEST_LIMIT``.
        kept: output that was delivered and stays readable.
    """

    unread: int = record.LOG_LIMIT
    kept: int = record.LOG_KEEP


class Runs:
    """All runs of one daemon.

    Args:
        directory: absolute path; made when missing.
        launcher: forks supervisors.
        tasks: owner of what goes on in the background.
        limits: how much output of a run is kept.
        environ: the daemon's own environment.
    """

    def __init__(
        self,
        directory: str,
        launcher: Launcher,
        tasks: Tasks,
        limits: LogLimits,
        environ: Mapping[bytes, bytes],
    ) -> None:
        self._directory = directory
        self._launcher = launcher
        self._tasks = tasks
        self._limits = limits
        self._environ = environ
        self._runs: dict[str, Run] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._finished: list[str] = []
        self._refusing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._told = asyncio.Event()
        self._told.set()

    # -- what clients ask for ----------------------------------------------------------

    def start(
        self,
        request: str,
        client: str,
        spec: RunSpec,
        *,
        executable: str | None,
        cwd: str | None,
    ) -> Run:
        """Start a run, or return the one that the same request has started already.

        Returns at once; the run is ``starting``, and tells its viewers how it goes on.

        Args:
            request: the client's request ID.
            client: the client's ID.
            spec: what to run.
            executable: absolute path of the program, None to look it up on the run's PATH.
            cwd: absolute working directory, None for the user's home.

        Raises:
            PsyncError: the run's directory cannot be made (disk full).
            Refused: the command is empty or holds a NUL byte, or the daemon is about to leave.
        """
        known = self._requests.get((client, request))
        if known is not None:
            return self._runs[known]
        if self._refusing:
            raise Refused(
                "the daemon is being stopped; it starts no run any more",
                hint="wait a moment, then try again",
            )
        _check(spec)
        run_id = secrets.token_hex(5)
        run = Run(run_id, os.path.join(self._directory, run_id), self)
        try:
            self._write(run, request, client, spec, executable, cwd)
        except OSError as error:
            shutil.rmtree(run.directory, ignore_errors=True)
            raise PsyncError(
                f"the run cannot be recorded on the daemon host: {error.strerror}",
                hint="free some space there" if error.errno == errno.ENOSPC else "",
            ) from error
        self._add(run, client, request)
        self._tasks.start(f"launch run {run_id}", self._launch(run))
        return run

    def find(self, run_id: str) -> Run:
        """Return the run of that ID.

        Raises:
            Refused: there is none.
        """
        run = self._runs.get(run_id)
        if run is None:
            raise Refused(f"there is no run {printable(run_id)} on this daemon")
        return run

    def active(self) -> list[Run]:
        """Return the runs that have not ended."""
        return [run for run in self._runs.values() if not run.state.final]

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
        tickets: list[tuple[float, str, Ticket]] = []
        for name in sorted(os.listdir(self._directory)):
            directory = os.path.join(self._directory, name)
            if name.endswith(GONE):
                self._tasks.start(f"remove {name}", _remove(directory))
            elif name.isalnum() and (ticket := inspect(name, directory)) is not None:
                tickets.append((ticket.created, name, ticket))
        for _, name, ticket in sorted(tickets, key=lambda entry: entry[:2]):
            run = Run(name, os.path.join(self._directory, name), self)
            self._add(run, ticket.client, ticket.request)
            if not await self._meet(run):
                self.on_gone(run)
        self._prune()

    def close(self) -> None:
        """Let go of every supervisor; the runs go on."""
        for run in self._runs.values():
            run.close()

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
            self._forget(run)
            run.failed(error)
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
        mark = os.path.join(run.directory, LOST)
        if run.state is RunState.LOST and not os.path.exists(mark):
            logger.error("run %s is lost: its supervisor left no record", run.id)
            self._tasks.start(f"kill what run {run.id} left", _clean_up(run, mark))
        self._finished.append(run.id)
        self._note_idle()
        self._prune()

    def on_unwatched(self, run: Run) -> None:
        """See ``run.Owner``."""
        if run.state.final:
            self._note_idle()
            self._prune()

    def _note_idle(self) -> None:
        if self.active():
            return
        self._idle.set()
        if not any(run.watched for run in self._runs.values()):
            self._told.set()

    # -- the directory -----------------------------------------------------------------

    def _write(
        self,
        run: Run,
        request: str,
        client: str,
        spec: RunSpec,
        executable: str | None,
        cwd: str | None,
    ) -> None:
        environment = run_environment(self._environ, run.id, spec.env)
        os.mkdir(run.directory, 0o700)
        ticket = Ticket(FORMAT, client, request, spec.project, spec.name, spec.argv, time.time())
        with open(os.path.join(run.directory, TICKET), "wb") as file:
            file.write(msgspec.json.encode(ticket))
        record.write_spec(
            run.directory,
            record.Spec(
                argv=list(spec.argv),
                env=list(environment.items()),
                cwd=os.fsencode(cwd) if cwd is not None else home_directory(self._environ),
                executable=None if executable is None else os.fsencode(executable),
                run_id=run.id,
                name=spec.name,
                disconnect_grace=spec.disconnect_grace,
                log_limit=max(self._limits.unread, LOWEST_LIMIT),
                log_keep=self._limits.kept,
            ),
        )

    def _add(self, run: Run, client: str, request: str) -> None:
        self._runs[run.id] = run
        self._requests[client, request] = run.id
        self._idle.clear()
        self._told.clear()

    def _forget(self, run: Run) -> None:
        self._runs.pop(run.id, None)
        self._requests = {key: value for key, value in self._requests.items() if value != run.id}

    def _prune(self) -> None:
        """Forget the oldest finished runs beyond ``KEPT_RUNS`` that nobody looks at."""
        for run_id in self._finished[: max(0, len(self._finished) - KEPT_RUNS)]:
            run = self._runs.get(run_id)
            if run is None or run.watched:
                continue
            self._finished.remove(run_id)
            self._forget(run)
            self._remove(run)

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


async def _clean_up(run: Run, mark: str) -> None:
    killed = await asyncio.to_thread(clean_up, run.id, run.directory)
    if killed:
        logger.warning("killed %d processes that the lost run %s left", killed, run.id)
    with open(mark, "wb"):
        pass  # the next daemon need not look for them again


def _check(spec: RunSpec) -> None:
    if not spec.argv:
        raise Refused("the command is empty")
    for word in (*spec.argv, *(part for pair in spec.env for part in pair)):
        if b"\0" in word:
            raise Refused("arguments and environment cannot hold a NUL byte")
    if spec.disconnect_grace is not None and spec.disconnect_grace < 0:
        raise Refused("the time a run waits for its client cannot be negative")
    for name, _ in spec.env:
        if not name or b"=" in name:
            raise Refused(f"{printable(name)} is not the name of an environment variable")
