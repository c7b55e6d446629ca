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

from psync.daemon.environment import run_environment
from psync.daemon.launcher import Launcher, LaunchError
from psync.daemon.run import Run
from psync.daemon.strays import clean_up
from psync.daemon.tasks import Tasks
from psync.errors import PsyncError, Refused
from psync.model import RunSpec, RunState
from psync.paths import private_directory
from psync.supervisor import record
from psync.text import printable

FORMAT = 1
"""Version of ``run.json``."""

KEPT_RUNS = 200
"""Finished runs whose output and exit record are kept; the oldest go first."""

logger = logging.getLogger("psync.runs")


class LogLimits(msgspec.Struct, frozen=True):
    """How much output of a run is held on disk, in bytes.

    Attributes:
        unread: output that no client has taken yet; a run that reaches it blocks.
        kept: output that was delivered and stays readable.
    """

    unread: int = record.LOG_LIMIT
    kept: int = record.LOG_KEEP


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
        self._idle = asyncio.Event()
        self._idle.set()

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
            Refused: the command is empty or holds a NUL byte.
        """
        known = self._requests.get((client, request))
        if known is not None:
            return self._runs[known]
        _check(spec)
        run_id = secrets.token_hex(5)
        run = Run(run_id, os.path.join(self._directory, run_id), self._on_final)
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

    async def wait_idle(self) -> None:
        """Wait until no run is active."""
        await self._idle.wait()

    # -- life --------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over the runs in the directory: those alive, those finished, those lost.

        A damaged run is set aside as ``<id>.damaged`` and named in the log; it touches no other.
        """
        private_directory(self._directory)
        tickets: list[tuple[float, str, Ticket]] = []
        for name in sorted(os.listdir(self._directory)):
            if not name.isalnum():
                continue
            directory = os.path.join(self._directory, name)
            try:
                ticket = _read_ticket(directory)
            except (OSError, msgspec.MsgspecError) as error:
                logger.error("run %s is damaged (%s); set aside", printable(name), error)
                os.rename(directory, f"{directory}.damaged")
                continue
            tickets.append((ticket.created, name, ticket))
        for _, name, ticket in sorted(tickets, key=lambda entry: entry[:2]):
            run = Run(name, os.path.join(self._directory, name), self._on_final)
            self._add(run, ticket.client, ticket.request)
            try:
                await run.connect()
            except OSError:
                run.finish()  # it has ended, or it is lost
        self._prune()

    def close(self) -> None:
        """Let go of every supervisor; the runs go on."""
        for run in self._runs.values():
            run.close()

    async def _launch(self, run: Run) -> None:
        try:
            await self._launcher.launch(run.directory)
            await run.connect()
        except LaunchError as error:
            self._forget(run)
            run.failed(error)
            self._note_idle()
            shutil.rmtree(run.directory, ignore_errors=True)
        except OSError:
            # the supervisor came up and is gone already; its record says why, or nothing does
            run.finish()

    def _on_final(self, run: Run) -> None:
        if run.state is RunState.LOST:
            logger.error("run %s is lost: its supervisor left no record", run.id)
            self._tasks.start(f"kill what run {run.id} left", _clean_up(run))
        self._finished.append(run.id)
        self._note_idle()
        self._prune()

    def _note_idle(self) -> None:
        if not self.active():
            self._idle.set()

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
        with open(os.path.join(run.directory, "run.json"), "wb") as file:
            file.write(msgspec.json.encode(ticket))
        record.write_spec(
            run.directory,
            record.Spec(
                argv=list(spec.argv),
                env=list(environment.items()),
                cwd=os.fsencode(cwd) if cwd is not None else environment[b"HOME"],
                executable=None if executable is None else os.fsencode(executable),
                run_id=run.id,
                name=spec.name,
                disconnect_grace=spec.disconnect_grace,
                log_limit=self._limits.unread,
                log_keep=self._limits.kept,
            ),
        )

    def _add(self, run: Run, client: str, request: str) -> None:
        self._runs[run.id] = run
        self._requests[client, request] = run.id
        self._idle.clear()

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
            shutil.rmtree(run.directory, ignore_errors=True)


async def _clean_up(run: Run) -> None:
    killed = await asyncio.to_thread(clean_up, run.id, run.directory)
    if killed:
        logger.warning("killed %d processes that the lost run %s left", killed, run.id)


def _read_ticket(directory: str) -> Ticket:
    with open(os.path.join(directory, "run.json"), "rb") as file:
        return msgspec.json.decode(file.read(), type=Ticket)


def _check(spec: RunSpec) -> None:
    if not spec.argv:
        raise Refused("the command is empty")
    for word in (*spec.argv, *(part for pair in spec.env for part in pair)):
        if b"\0" in word:
            raise Refused("arguments and environment cannot hold a NUL byte")
    for name, _ in spec.env:
        if not name or b"=" in name:
            raise Refused(f"{printable(name)} is not the name of an environment variable")
