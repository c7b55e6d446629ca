"""``psync watch``: the run again whenever what it is made of changes."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import msgspec

from psync.cli.arguments import Parser
from psync.cli.events import is_json
from psync.cli.imports import import_picows
from psync.cli.loop import Routed, Signals, catch_signals, run as run_loop
from psync.cli.order import Order, add_program_options, parse, read_order
from psync.cli.output import say, say_now, size, span
from psync.cli.syncreport import SyncReport
from psync.cli.times import duration
from psync.client.revision import source_revision
from psync.client.syncing import SyncReports
from psync.errors import (
    ConnectionLost,
    ExecError,
    Interrupted,
    ProgramNotFound,
    PsyncError,
    Refused,
)
from psync.model import RunSpec
from psync.sync.listing import look_at
from psync.sync.machine import program_path
from psync.sync.program import resolve_program
from psync.sync.project import CONFIG_NAME
from psync.text import printable

if TYPE_CHECKING:
    from psync.cli.foreground import Foreground
    from psync.client.run import RemoteRun

DESCRIPTION = """\
Do what psync run does, and do it again whenever PROGRAM, its assets or anything else that is sent
changes: sync while the old run goes on, stop it with all it started, start the new one. A sync that
fails, or a build that is broken, leaves the old run going on.

A run that ends by itself is started again by the next change. Ctrl-C ends the run as in psync run,
and psync watch with it. On a terminal stdin is that of the run that goes on; else the runs have
none.

Directories that are left out are not watched, the program is, wherever it lies. On file systems of
other machines, which tell of no changes, WATCHFILES_FORCE_POLLING=1 has psync look for them.

What psync.toml says counts from the beginning to the end; that it has changed is only told.
"""

GRACE = 10.0
"""Seconds between SIGTERM and the kill of a run that is replaced, as in ``psync stop``."""

IDLE = 1.0
"""Seconds without an event after which there is time for what can wait."""

TOLD = 3
"""Names of what changed that are told."""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    parser = Parser("watch", "[OPTIONS] PROGRAM [ARGS…]", DESCRIPTION)
    parser.add_argument(
        "--grace",
        metavar="DURATION",
        type=duration,
        default=GRACE,
        help="time that a run has to end before it is killed for the next (default: 10s)",
    )
    add_program_options(parser)
    options = parse(parser, argv)
    order = read_order(options)
    report = SyncReport(verbose=order.verbose)
    word = os.fsencode(options.command[0])
    try:
        command = _Command(order, word, report, options.grace)
        return run_loop(command.run, lambda: command.phase)
    finally:
        report.end()


class _Current:
    """The run that goes on, and the task that follows it."""

    def __init__(self, run: RemoteRun, foreground: Foreground, signals: Routed) -> None:
        self.run = run
        self.foreground = foreground
        self.signals = signals
        self.following = asyncio.ensure_future(foreground.follow())


class _Command:
    """One ``psync watch``.

    Attributes:
        phase: what is going on, in words.
    """

    def __init__(self, order: Order, word: bytes, report: SyncReport, grace: float) -> None:
        self.phase = "connecting"
        self._order = order
        self._word = word
        self._here = os.getcwdb()
        self._report = report
        self._grace = grace
        self._program = program_path(order.plan)
        self._settings = os.path.join(order.plan.project.root, CONFIG_NAME)
        self._seen = look_at(self._settings)
        self._current: _Current | None = None
        self._outdated = False  # what runs, or does not, is older than what was sent
        self._working: asyncio.Task[None] | None = None
        self._ready: asyncio.Task[None] | None = None
        self._leaving: int | None = None

    async def run(self, signals: Signals) -> int:
        """Do all of it; return the exit status."""
        import_picows()
        from psync.client.target import Target
        from psync.sync.watch import Watcher

        order, report = self._order, self._report
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._connected = asyncio.Event()
        self._target = Target(order.target, order.paths, on_connection=self._on_connection)
        try:
            async with Watcher(order.plan, warn=say_now) as self._watcher:
                self.phase = "files were sent"
                reports = SyncReports(report.progress, report.warning, report.waiting)
                self._syncer = self._target.syncer(order.plan, reports)
                report.begin(order.target.name, order.plan.project.name)
                report.end(await self._syncer.sync())
                report.share_terminal()
                self.phase = "connecting"
                signals.route = self._take
                return await self._watch()
        finally:
            self._target.abandon()

    def _on_connection(self, error: PsyncError | None) -> None:
        from psync.cli.foreground import tell_connection

        tell_connection(error)
        if error is None:
            self._connected.set()

    # -- signals ------------------------------------------------------------------------------

    def _take(self, number: signal.Signals) -> None:
        """Have the run end, as in psync run, and leave when it has."""
        if self._leaving is None:
            self._leaving = Interrupted.exit_status if number is signal.SIGINT else 128 + number
            if self._working is not None:
                self._working.cancel()
        current = self._current
        if current is not None and not current.following.done():
            current.signals.route(number)
        elif not self._status.done():
            self._status.set_result(self._leaving)

    # -- watching -----------------------------------------------------------------------------

    async def _watch(self) -> int:
        """Wait for changes and for the end of the run; return the exit status."""
        watcher, syncer, status = self._watcher, self._syncer, self._status
        batch = asyncio.ensure_future(watcher.batch())
        watcher.on_first = self._get_ready
        try:
            await self._work(self._start())
            while not status.done():
                following = self._current.following if self._current is not None else None
                waited = [status, following, batch if self._leaving is None else None]
                done, _ = await asyncio.wait(
                    [one for one in waited if one is not None],
                    timeout=IDLE,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:  # there is time for what can wait
                    self._see_settings()
                    await self._note()
                elif following is not None and following.done():
                    self._ended()
                elif batch in done and self._leaving is None:
                    changed = batch.result()
                    batch = asyncio.ensure_future(watcher.batch())
                    await self._work(self._renew(changed))
            return status.result()
        finally:
            batch.cancel()
            if self._ready is not None:
                self._ready.cancel()
                await asyncio.wait([self._ready])
            await syncer.close()
            await self._note()
            if self._current is not None:
                self._current.following.cancel()

    def _get_ready(self, changed: frozenset[bytes]) -> None:
        """Something changes: have everything there that it will take."""
        if self._working is None and self._ready is None and self._leaving is None:
            self._ready = asyncio.ensure_future(self._syncer.get_ready(changed))

    async def _note(self) -> None:
        try:
            await self._syncer.note()
        except PsyncError as error:  # the next psync compares everything
            say(str(error), wait=False)

    def _see_settings(self) -> None:
        """Say once that the project's configuration is not the one that counts here any more."""
        before, self._seen = self._seen, look_at(self._settings)
        if before != self._seen:
            say("psync.toml has changed; that counts once psync watch is started again")

    def _ended(self) -> None:
        """The run has ended by itself, or was left."""
        current, self._current = self._current, None
        assert current is not None
        try:
            result = current.following.result()
        except (ExecError, ProgramNotFound, Refused) as error:
            self._outdated = True
            self._wait_for_changes(str(error))
            return
        if self._status.done():
            return
        if self._leaving is not None:
            self._status.set_result(self._leaving)
        elif current.foreground.left or _is_unread(1):
            self._status.set_result(result)
        else:
            self._wait_for_changes(f"the run ended with status {result}")

    def _wait_for_changes(self, reason: str) -> None:
        if self._leaving is None:
            say(f"{reason}; waiting for changes", wait=False)
        elif not self._status.done():
            self._status.set_result(self._leaving)

    async def _work(self, work: Coroutine[object, object, None]) -> None:
        """Do what a signal may cut short, and say what failed."""
        self._working = asyncio.ensure_future(work)
        await asyncio.wait([self._working])
        work_, self._working = self._working, None
        self._report.end()
        if work_.cancelled():
            return
        error = work_.exception()
        if error is None:
            return
        if not isinstance(error, PsyncError):
            raise error
        if self._current is None:
            self._wait_for_changes(str(error))
        elif self._leaving is None:
            say(f"{error}; the old run goes on", wait=False)

    async def _renew(self, changed: frozenset[bytes] | None) -> None:
        """Sync, and if anything was sent, start the run anew.

        Raises:
            PsyncError: the old run goes on, if there is one.
        """
        ready, self._ready = self._ready, None
        if ready is not None:
            try:
                await asyncio.wait([ready])
            finally:
                ready.cancel()
        if self._program is not None:
            resolve_program(self._word, self._here)  # a build may be going on
        report, order = self._report, self._order
        report.begin(order.target.name, order.plan.project.name)
        summary = await self._syncer.sync(changed)
        report.end(summary if is_json() else None)
        if summary.skipped and not self._outdated:
            return
        self._outdated = True
        if not await self._stop():
            return
        passed = asyncio.get_running_loop().time() - self._watcher.began
        say(
            f"{self._named(changed)} ({size(summary.bytes_sent)} sent); "
            f"running again after {span(passed)}",
            wait=False,
        )
        await self._start()

    async def _stop(self) -> bool:
        """End the old run with everything it started, and show the last of its output.

        Returns:
            False if somebody has left it meanwhile, and it goes on.
        """
        current = self._current
        if current is None:
            return True
        while not current.following.done():
            self._connected.clear()
            try:
                current.run.stop(signal="SIGTERM", grace=self._grace)
            except ConnectionLost:
                pass  # it is said, as it is again where the connection is lost now, on the next one
            again = asyncio.ensure_future(self._connected.wait())
            try:
                await asyncio.wait((current.following, again), return_when=asyncio.FIRST_COMPLETED)
            finally:
                again.cancel()
        if current.foreground.left:
            return False
        self._current = None
        current.following.exception()  # how it ended is of no interest
        return True

    async def _start(self) -> None:
        from psync.cli.foreground import Foreground, Manner

        order = self._order
        run = await self._target.begin(self._spec())
        where = "on this machine" if order.target.local else f"on {order.target.name}"
        manner = Manner(
            where, on=order.on, escape=order.escape, keep=order.keep, stdin=os.isatty(0)
        )
        receiver = Routed()
        foreground = Foreground(self._target, run, receiver, manner)
        self._current = _Current(run, foreground, receiver)
        self._outdated = False

    def _spec(self) -> RunSpec:
        revision = source_revision(self._order.plan.project.root)
        return msgspec.structs.replace(self._order.spec, revision=revision)

    def _named(self, changed: frozenset[bytes] | None) -> str:
        """Return what changed, for people."""
        found = self._syncer.sent(changed or ())
        names = [printable(os.path.relpath(path, self._here)) for path in sorted(found)]
        if not names:
            return "files changed"
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        return f"{', '.join(names[:TOLD])}{more} changed"


def _is_unread(fd: int) -> bool:
    """Whether nobody reads what is written to a descriptor any more."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
