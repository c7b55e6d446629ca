"""``psync watch``: the run again whenever what it is made of changes."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import msgspec

from psync.cli.arguments import Parser
from psync.cli.events import is_json
from psync.cli.imports import import_picows
from psync.cli.loop import Routed, Signals, catch_signals, run as run_loop
from psync.cli.order import Order, add_program_options, parse, read_order
from psync.cli.output import say, say_now, size
from psync.cli.syncreport import SyncReport
from psync.client.revision import source_revision
from psync.client.syncing import SyncReports
from psync.config.values import parse_duration
from psync.errors import ConnectionLost, ExecError, Interrupted, ProgramNotFound, PsyncError
from psync.model import RunSpec
from psync.sync.machine import program_path
from psync.sync.program import resolve_program
from psync.text import printable

if TYPE_CHECKING:
    from psync.cli.foreground import Foreground
    from psync.client.run import RemoteRun
    from psync.client.syncer import Syncer
    from psync.client.target import Target
    from psync.sync.watch import Watcher

DESCRIPTION = """\
Do what psync run does, and do it again whenever PROGRAM, its assets or anything else that is sent
changes: sync while the old run goes on, stop it with all it started, start the new one. A sync that
fails, or a build that is broken, leaves the old run going on.

A run that ends by itself is started again by the next change. Ctrl-C ends the run as in psync run,
and psync watch with it. On a terminal stdin is the run's; else the runs have none.
"""

GRACE = 10.0
"""Seconds between SIGTERM and the kill of a run that is replaced, as in ``psync stop``."""

TOLD = 3
"""Names of what changed that are told."""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    parser = Parser("watch", "[OPTIONS] PROGRAM [ARGS…]", DESCRIPTION)
    parser.add_argument(
        "--grace",
        metavar="DURATION",
        type=parse_duration,
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
        self._current: _Current | None = None
        self._working: asyncio.Task[None] | None = None
        self._status: asyncio.Future[int] | None = None

    async def run(self, signals: Signals) -> int:
        """Do all of it; return the exit status."""
        import_picows()
        from psync.cli.foreground import tell_connection
        from psync.client.target import Target
        from psync.sync.watch import Watcher

        order, report = self._order, self._report
        self._status = asyncio.get_running_loop().create_future()
        target = Target(order.target, order.paths, on_connection=tell_connection)
        try:
            async with Watcher(order.plan, warn=say_now) as watcher:
                self.phase = "files were sent"
                reports = SyncReports(report.progress, report.warning, report.waiting)
                syncer = target.syncer(order.plan, reports)
                report.begin(order.target.name, order.plan.project.name)
                report.end(await syncer.sync())
                report.share_terminal()
                self.phase = "connecting"
                signals.route = self._take
                await self._start(target)
                return await self._watch(target, watcher, syncer)
        finally:
            target.abandon()

    # -- signals ------------------------------------------------------------------------------

    def _take(self, number: signal.Signals) -> None:
        """Have the run end, as in psync run, and leave when it has."""
        current, status = self._current, self._status
        assert status is not None
        leaving = Interrupted.exit_status if number is signal.SIGINT else 128 + number
        if self._working is not None:
            self._working.cancel()
        if current is None:
            if not status.done():
                status.set_result(leaving)
            return
        current.following.add_done_callback(
            lambda _task: None if status.done() else status.set_result(leaving)
        )
        current.signals.route(number)

    # -- watching -----------------------------------------------------------------------------

    async def _watch(self, target: Target, watcher: Watcher, syncer: Syncer) -> int:
        """Wait for changes and for the end of the run; return the exit status."""
        status = self._status
        assert status is not None
        batch = asyncio.ensure_future(watcher.batch())
        everything = False
        try:
            while not status.done():
                following = self._current.following if self._current is not None else None
                waited = [task for task in (status, batch, following) if task is not None]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                if following is not None and following.done():
                    self._ended(following)
                elif batch.done():
                    changed = None if everything else batch.result()
                    batch = asyncio.ensure_future(watcher.batch())
                    self._working = asyncio.ensure_future(self._renew(target, syncer, changed))
                    await asyncio.wait([self._working])
                    everything = self._renewed(self._working)
                    self._working = None
            return status.result()
        finally:
            batch.cancel()
            if self._current is not None:
                self._current.following.cancel()

    def _ended(self, following: asyncio.Future[int]) -> None:
        """The run has ended by itself, or was left."""
        current, self._current = self._current, None
        status = self._status
        assert current is not None and status is not None
        try:
            result = following.result()
        except (ExecError, ProgramNotFound) as error:
            say(f"{error}; waiting for changes")
            return
        if status.done():
            return
        if current.foreground.left:
            status.set_result(result)
        else:
            say(f"the run ended with status {result}; waiting for changes")

    def _renewed(self, work: asyncio.Task[None]) -> bool:
        """See how a change went; return whether the next one has to look at everything."""
        if work.cancelled():
            return True
        error = work.exception()
        if error is None:
            return False
        if not isinstance(error, PsyncError) or isinstance(error, Interrupted):
            raise error
        goes_on = "the old run goes on" if self._current is not None else "waiting for changes"
        say(f"{error}; {goes_on}")
        return True

    async def _renew(
        self, target: Target, syncer: Syncer, changed: frozenset[bytes] | None
    ) -> None:
        """Sync, and if anything was sent, start the run anew.

        Raises:
            PsyncError: the old run goes on, if there is one.
        """
        self._check_program()
        self._report.begin(self._order.target.name, self._order.plan.project.name)
        summary = await syncer.sync(changed)
        self._report.end(summary if is_json() else None)
        if summary.skipped:
            return
        await self._stop(target)
        sent = f"{size(summary.bytes_sent)} in {summary.seconds:.1f} s"
        say(f"{self._named(changed)} ({sent}); running again")
        await self._start(target)
        await syncer.note()

    def _check_program(self) -> None:
        """Raise unless the program is there and can be executed: a build may be going on."""
        if self._program is not None:
            resolve_program(self._word, self._here)

    async def _stop(self, target: Target) -> None:
        """End the old run with everything it started, and show the last of its output."""
        current = self._current
        if current is None:
            return
        while not current.following.done():
            try:
                current.run.stop(signal="SIGTERM", grace=self._grace)
                break
            except ConnectionLost:
                await target.open()
        await asyncio.wait([current.following])
        if self._current is current:
            self._current = None
        if not current.following.cancelled():
            current.following.exception()  # how it ended is of no interest

    async def _start(self, target: Target) -> None:
        from psync.cli.foreground import Foreground, Manner

        order = self._order
        run = await target.begin(self._spec())
        where = "on this machine" if order.target.local else f"on {order.target.name}"
        manner = Manner(
            where, on=order.on, escape=order.escape, keep=order.keep, stdin=os.isatty(0)
        )
        receiver = Routed()
        foreground = Foreground(target, run, receiver, manner)
        self._current = _Current(run, foreground, receiver)

    def _spec(self) -> RunSpec:
        revision = source_revision(self._order.plan.project.root)
        return msgspec.structs.replace(self._order.spec, revision=revision)

    def _named(self, changed: frozenset[bytes] | None) -> str:
        """Return what changed, for people."""
        if changed is None:
            return "files changed"
        names = [printable(os.path.relpath(path, self._here)) for path in sorted(changed)]
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        return f"{', '.join(names[:TOLD])}{more} changed"
