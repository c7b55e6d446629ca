"""A target that is connected: sync to it, start runs on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from psync.client.connect import Connector
from psync.client.endpoints import endpoint_of
from psync.client.keeper import MirrorKeeper, open_project
from psync.client.lifeline import Lifeline
from psync.client.place import find_place
from psync.client.run import Existing, RemoteRun
from psync.client.syncer import Syncer
from psync.client.syncing import SyncReports, new_sync
from psync.client.targets import TargetSpec
from psync.client.threads import in_thread
from psync.client.transfers import Transfers
from psync.errors import ConnectionLost, ProtocolError, PsyncError
from psync.model import HostFacts, RunInfo, RunSpec, Stream
from psync.paths import ClientPaths
from psync.protocol.messages import ListRuns, Locate, Located, RunList
from psync.sync.endpoint import Endpoint
from psync.sync.engine import Sync
from psync.sync.machine import check_program
from psync.sync.plan import SyncPlan
from psync.sync.project import Project
from psync.sync.rsync import Summary

if TYPE_CHECKING:
    import asyncio

RENEW_BEFORE = 365 * 86400.0 / 3
"""Seconds before its end from which on a certificate is renewed: a third of its life."""

DEFAULT_GRACE = 300.0
"""Seconds a run is kept without a client unless it is said otherwise."""


MOST_RUNS = 100_000
"""Runs that a list is followed to."""

MOST_WORDS = 64 * 1024 * 1024
"""Bytes of names and commands that a list may have; a daemon tells two kilobytes of a run."""


class Target:
    """A daemon and the way to it. Belongs to one event loop; made by ``psync.connect``.

    Use it as an asynchronous context manager, or call ``open`` and ``close``. Leaving it closes the
    connection; runs that are still going on stay on the daemon host for their grace.

    Args:
        spec: how the target is to be reached.
        paths: the client's directories.
        include: what every sync sends besides what is named, relative to the project's root.
        exclude: patterns of what every sync leaves out of directories, as in ``.gitignore``.
        strip: every sync sends a copy of the program without what only debuggers need.
        on_connection: called with the error when the connection was lost while runs were attached,
            and with None when it is there again.
    """

    def __init__(
        self,
        spec: TargetSpec,
        paths: ClientPaths,
        *,
        include: Sequence[bytes] = (),
        exclude: Sequence[bytes] = (),
        strip: bool = False,
        on_connection: Callable[[PsyncError | None], None] = lambda _error: None,
    ) -> None:
        self._spec = spec
        self._paths = paths
        self._include = tuple(include)
        self._exclude = tuple(exclude)
        self._strip = strip
        self._connector = Connector(spec, paths)
        self._lifeline = Lifeline(self._connector.dial, on_connection, spec.name)
        self._renewal: asyncio.Task[bool] | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The target's name."""
        return self._spec.name

    @property
    def facts(self) -> HostFacts:
        """What the daemon says about its host.

        Raises:
            ConnectionLost: there was no connection yet.
        """
        if self._connector.record is None:
            raise ConnectionLost("there was no connection to the daemon yet")
        return self._connector.record.facts

    async def open(self) -> None:
        """Connect, unless there is a connection; starts a daemon that is not running.

        Raises:
            NotPaired: the target was never paired, or the daemon does not know this client.
            WrongDaemon: another daemon than the paired one answers.
            SSHError: ssh failed before psync came into play.
            DaemonNotRunning, ConnectError: nobody answers, and none could be started.
            ProtocolError: something else than a psync daemon answers, or another version.

        Cancellation leaves no connection and no process.
        """
        await self._lifeline.ensure()
        self._look_after_certificate()

    async def close(self) -> None:
        """Close the connection. Takes at most a few seconds, whatever the network does."""
        self._end_renewal()
        await self._lifeline.close()

    def abandon(self) -> None:
        """Close the connection without waiting for the other side to take note."""
        self._end_renewal()
        self._lifeline.abandon()

    # -- for programs ---------------------------------------------------------------------------

    async def sync(
        self,
        program: bytes | None = None,
        *,
        assets: Sequence[bytes] = (),
        cwd: bytes | None = None,
        project: bytes | None = None,
    ) -> Summary:
        """Bring the mirror of a project up to date.

        Args:
            program: the program to send, as it would be typed; None sends what is named, or else
                the whole project.
            assets: files and directories to send, relative to this process's directory.
            cwd: the directory the program will run in, None for this process's own.
            project: the project's root; None finds it as ``psync run`` does.

        Returns:
            Files and bytes sent, seconds taken.

        Raises:
            SyncError: not everything arrived (``ToolMissing``, ``DestinationError`` and
                ``ProjectBusy`` say why where that is known).
            ProgramNotFound, ExecError: the program is not there, or is none that the daemon host
                can execute.
            UsageError: a directory that was named is none.
            PsyncError: as ``open``.

        Cancellation ends rsync. Then, as after an error, every file in the mirror is the old one or
        the whole new one.
        """
        place = find_place(program, self._paths, cwd=cwd, root=project)
        plan = place.plan(
            assets=(*assets, *place.libraries().files),
            include=self._include,
            exclude=self._exclude,
            strip=self._strip,
        )
        return await self.transfer(plan)

    async def start(
        self,
        argv: Sequence[bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: bytes | None = None,
        project: bytes | None = None,
        name: str = "",
        disconnect_grace: float | None = DEFAULT_GRACE,
    ) -> RemoteRun:
        """Start a program whose files are there already.

        Args:
            argv: the program, as it would be typed here, and its arguments.
            env: variables to set on top of the daemon's login-like environment.
            cwd: a directory of this machine in whose mirror to run, None for this process's own.
            project: the project's root; None finds it as ``psync run`` does.
            name: a name for people.
            disconnect_grace: seconds the run may go on without a connection, None for ever.

        Returns:
            The run, accepted by the daemon. Whether the program could be executed, ``wait`` tells.

        Raises:
            Refused: the daemon said no; nothing was started.
            ProgramNotFound, ExecError: the program is not here, or is none.
            UsageError: ``argv`` is empty or too long, or a directory that was named is none.
            PsyncError: as ``open``.

        Cancellation may leave the run going on, for its grace, without this client.
        """
        place = find_place(argv[0] if argv else b"", self._paths, cwd=cwd, root=project)
        plan = place.plan(include=self._include or (b".",))  # only its paths matter here
        run = await self.begin(
            RunSpec(
                argv=tuple(argv),
                program=plan.program,
                env=tuple((os.fsencode(k), os.fsencode(v)) for k, v in (env or {}).items()),
                cwd=plan.cwd,
                project=place.project.id,
                name=name,
                disconnect_grace=disconnect_grace,
                library_path=place.libraries().library_path(place.project.root),
            )
        )
        try:
            await run.started()
        except BaseException:
            run.detach()
            raise
        return run

    async def runs(self, match: str = "", *, active: bool = False) -> list[RunInfo]:
        """Return runs of the daemon, the newest first.

        Args:
            match: only these: the beginning of an ID, a run's whole name, or ``-1`` for the newest
                run; empty for all.
            active: only runs that have not ended.

        Raises:
            ProtocolError: the daemon's version cannot list runs, or its list has no end.
            PsyncError: as ``open``.
        """
        await self.open()
        self._lifeline.need("list", "list its runs")
        found: dict[str, RunInfo] = {}
        last, more, words = None, True, 0
        while more and len(found) < MOST_RUNS:
            page = await self._page(match[:200], active, last)
            known = len(found)
            found.update({run.id: run for run in page.runs})
            words += sum(map(_words_of, page.runs))
            if words > MOST_WORDS or len(found) < known + len(page.runs):
                raise ProtocolError(f"the list of runs on {self.name} does not end")
            more = page.more and bool(page.runs)
            last = page.runs[-1].id if page.runs else None
        return list(found.values())

    async def locate(
        self,
        run_id: str,
        *,
        lines: int | None = None,
        since: float | None = None,
        stream: Stream | None = None,
    ) -> Located:
        """Return where in a run's output something is; of two places the later one.

        Args:
            run_id: the run's whole ID.
            lines: the beginning of the last so many lines.
            since: the first output at or after this time, in seconds since the epoch.
            stream: count only lines of this stream.

        Returns:
            ``offset``, and with it ``oldest`` and ``end``: what of the output there is.

        Raises:
            Refused: there is no such run.
            ProtocolError: the daemon's version cannot tell.
            PsyncError: as ``open``.
        """
        await self.open()
        self._lifeline.need("locate", "find a place in a run's output")
        return await self._lifeline.request(
            lambda number: Locate(
                request=number, run=run_id, lines=lines, since=since, stream=stream
            )
        )

    async def attach(
        self,
        run_id: str,
        *,
        offset: int = 0,
        read_only: bool = False,
        times: bool = False,
        grace: float | None = None,
    ) -> RemoteRun:
        """Join a run that is there already, or look at one that has ended.

        Args:
            run_id: the run's whole ID; see ``runs``.
            offset: where in its output to begin. What is gone by then is announced as a ``Gap``.
            read_only: only look: send neither stdin nor signals, and do not count as its client.
            times: have every ``Output`` say when it was written.
            grace: seconds for which the daemon keeps the run without a client, where that is known
                (``RunInfo.disconnect_grace``); a lost connection is given up after them.

        Returns:
            The run, once the daemon has answered.

        Raises:
            Refused: there is no such run, or its output ends before ``offset``.
            ProtocolError: the daemon's version cannot let several clients join a run.
            PsyncError: as ``open``.

        Cancellation leaves the run as it was.
        """
        run = await self.join(Existing(run_id, offset, read_only, times, grace))
        try:
            await run.started()
        except BaseException:
            run.detach()
            raise
        return run

    # -- for the command line -------------------------------------------------------------------

    async def transfer(
        self,
        plan: SyncPlan,
        *,
        ahead: Sync | None = None,
        reports: SyncReports | None = None,
        dry: bool = False,
    ) -> Summary:
        """Carry a plan out, connecting first if need be; see ``sync``.

        Args:
            plan: what to send.
            ahead: a sync of it that has begun to look at the files. Owned by this call from now on.
            reports: who is told how it goes.
            dry: only find out what would be sent and removed, and change nothing.
        """
        sync = ahead
        if sync is None:
            sync = new_sync(plan, self._paths, reports or SyncReports(), dry=dry)
            sync.begin_looking()
        try:
            await self._aim(sync)
            return await in_thread(sync.wait, sync.cancel)
        finally:
            sync.close()

    def syncer(self, plan: SyncPlan, reports: SyncReports | None = None) -> Syncer:
        """Return what carries a plan out again and again, looking only at what changed.

        Args:
            plan: what to send.
            reports: who is told how it goes.
        """
        return Syncer(plan, self._paths, reports or SyncReports(), self._aim)

    async def make_mirror(self, project: Project) -> None:
        """Have the daemon make the project's mirror, with nothing in it yet, unless it is there."""
        await self.open()
        await open_project(self._lifeline, project)

    async def endpoint(self) -> Endpoint:
        """Connect, and return where the mirrors are."""
        await self.open()
        return endpoint_of(self._spec, self._paths, self.facts, Transfers(self._lifeline))

    async def _aim(self, sync: Sync) -> None:
        """Connect, and tell a sync where its mirror is."""
        endpoint = await self.endpoint()
        check_program(sync.plan, self.facts)
        sync.to(
            endpoint,
            MirrorKeeper(self._lifeline, sync.plan.project),
            folds_case=self.facts.system == "Darwin",
        )

    async def begin(self, spec: RunSpec) -> RemoteRun:
        """Send a start request and return the run without waiting for the answer."""
        await self.open()
        run = RemoteRun(self._lifeline, spec)
        run.begin()
        return run

    async def join(self, existing: Existing) -> RemoteRun:
        """Send a request to attach and return the run without waiting for the answer."""
        await self.open()
        self._lifeline.need("viewers", "let a client attach to a run")
        if existing.times:
            self._lifeline.need("times", "say when output was written")
        run = RemoteRun(self._lifeline, existing)
        run.begin()
        return run

    def _look_after_certificate(self) -> None:
        """Have this client's certificate renewed in the background, once, if it ends soon."""
        link, record = self._lifeline.link, self._connector.record
        if self._renewal is not None or link is None or record is None:
            return
        expires = link.peer.certificate_expires
        if expires is None or "renew" not in self._lifeline.features:
            return
        if expires - time.time() >= RENEW_BEFORE:
            return
        import asyncio

        from psync.client.renewal import renew

        self._renewal = asyncio.get_running_loop().create_task(
            renew(self._lifeline.request, self._paths, self.name, record, expires)
        )

    def _end_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()

    async def _page(self, match: str, active: bool, before: str | None) -> RunList:
        return await self._lifeline.request(
            lambda number: ListRuns(request=number, match=match, active=active, before=before)
        )


def _words_of(run: RunInfo) -> int:
    """Return how many bytes what is told of a run takes, more or less."""
    names = (run.name, run.client, run.revision, run.reason, run.project or "")
    return 256 + sum(map(len, names)) + sum(len(word) + 32 for word in run.command)
