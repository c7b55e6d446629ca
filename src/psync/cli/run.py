"""``psync run``: sync, run there, stream here, exit with the program's status.

Where an earlier run has prepared the ground, rsync is started before anything else is imported, and
works while this process imports asyncio and connects.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

import msgspec

from psync.api import target_spec
from psync.cli.arguments import Parser, add_sync_options, add_target_option, path
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import SyncReport, say, say_now, size
from psync.client.early import EarlySync, SyncReports, begin
from psync.client.place import find_place
from psync.client.targets import TargetSpec
from psync.config import load_client
from psync.errors import ExecError, Interrupted, ProgramNotFound, PsyncError, UsageError
from psync.model import ExitStatus, RunSpec
from psync.paths import ClientPaths
from psync.sync.plan import SyncPlan
from psync.text import printable

if TYPE_CHECKING:
    import asyncio
    import signal

    from psync.client.run import RemoteRun
    from psync.client.stdout import OutputWriter

DESCRIPTION = """\
Sync PROGRAM and what it needs to a target, run it there, stream its output here, and exit with its
status. Everything after PROGRAM belongs to the program.

A PROGRAM with a slash, or that names a file, is sent; any other is looked up on the target's PATH.
"""


class Order(msgspec.Struct, frozen=True):
    """All that one ``psync run`` is to do.

    Attributes:
        target: where.
        paths: the client's directories.
        plan: what to send.
        sync: send it; False with ``--no-sync``.
        spec: what to run.
        verbose: say more.
    """

    target: TargetSpec
    paths: ClientPaths
    plan: SyncPlan
    sync: bool
    spec: RunSpec
    verbose: bool


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    order = _order(_parse(argv))
    report = SyncReport(verbose=order.verbose)
    reports = SyncReports(report.progress, report.warning, report.waiting)
    early = None
    try:
        if order.sync:
            early = begin(order.plan, order.target, order.paths, reports)
        foreground = Foreground(order, report, reports, early)
        return run_loop(foreground.run, lambda: foreground.phase)
    finally:
        report.end()
        if early is not None:
            early.sync.cancel()
            early.sync.close()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("run", "[OPTIONS] PROGRAM [ARGS…]", DESCRIPTION)
    add_target_option(parser)
    add_sync_options(parser)
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        type=os.fsencode,
        help="set a variable for the program, or pass this one's value (repeatable)",
    )
    parser.add_argument(
        "--cwd",
        metavar="DIR",
        type=path,
        help="run in the mirror of this directory (default: of the working directory)",
    )
    parser.add_argument("--name", default="", help="a name for the run")
    parser.add_argument(
        "--no-sync", action="store_true", help="run what is there already; send nothing"
    )
    parser.add_argument(
        "--on-disconnect",
        metavar="keep|stop:DURATION",
        help="what becomes of the run without a client (default: stop:5m)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("PROGRAM is missing")
    return options


def _order(options: argparse.Namespace) -> Order:
    paths = ClientPaths.from_environ(os.environ)
    command = tuple(os.fsencode(word) for word in options.command)
    place = find_place(command[0], paths, cwd=options.cwd, root=options.project)
    config = load_client(
        project_root=place.project.root,
        environ=os.environ,
        flags={"--on": options.on, "--on-disconnect": options.on_disconnect},
    )
    target = target_spec(config.find())
    include = (*config.include, *config.assets)
    # with --no-sync only its paths matter, and those of a whole home directory are as good
    plan = place.plan(
        assets=options.assets, include=(*include, b".") if options.no_sync else include
    )
    spec = RunSpec(
        argv=command,
        program=plan.program,
        env=_environment(config.env, options.env),
        cwd=plan.cwd,
        project=place.project.id,
        name=printable(options.name)[:200],
        disconnect_grace=config.disconnect_grace(detached=False),
    )
    if target.local and config.origin("target") == "default":
        say("running on this machine, the target local; psync pair HOST adds another")
    return Order(target, paths, plan, not options.no_sync, spec, options.verbose)


def _environment(
    configured: tuple[tuple[bytes, bytes], ...], given: list[bytes]
) -> tuple[tuple[bytes, bytes], ...]:
    """Return the configuration's variables with those of ``-e``; the last word counts."""
    found = dict(configured)
    for word in given:
        name, equals, value = word.partition(b"=")
        if not name:
            raise UsageError(
                f"-e {printable(word)!r} names no variable", hint="write -e NAME=VALUE or -e NAME"
            )
        if equals:
            found[name] = value
        elif name in os.environb:
            found[name] = os.environb[name]
    return tuple(found.items())


class Foreground:
    """One run with this process's own stdin, stdout, stderr and signals.

    Attributes:
        phase: what is going on, in words.
    """

    def __init__(
        self, order: Order, report: SyncReport, reports: SyncReports, early: EarlySync | None
    ) -> None:
        self.phase = "connecting"
        self._order = order
        self._report = report
        self._reports = reports
        self._early = early

    async def run(self, signals: Signals) -> int:
        """Do all of it; return the exit status."""
        import_picows()
        from psync.client.target import Target

        order = self._order
        target = Target(order.target, order.paths, on_connection=_tell_connection)
        try:
            if order.sync:
                self.phase = "files were sent"
                summary = await target.transfer(
                    order.plan, early=self._early, reports=self._reports
                )
                self._report.end(summary)
            else:  # a command of the other host's needs a directory to run in, and no files
                await target.make_mirror(order.plan.project)
            self.phase = "connecting"
            return await self._attached(await target.begin(order.spec), signals)
        finally:
            target.abandon()

    async def _attached(self, run: RemoteRun, signals: Signals) -> int:
        import asyncio

        from psync.client.interrupts import Ladder
        from psync.client.stdin import StdinPump
        from psync.client.stdout import OutputWriter

        writer = OutputWriter(run, on_gap=_tell_gap)
        ladder = Ladder(run, say_now, writer.discard)
        signals.route = ladder.handle
        pump = StdinPump(run)
        pump.start()
        ending = asyncio.ensure_future(run.wait())
        try:
            await asyncio.wait((ending, ladder.leaving), return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                ladder.leaving.result()
            status = self._status(ending)
            signals.route = _leave_at_once
            await writer.drain()
        finally:
            ending.cancel()
            pump.stop()
            ladder.close()
            writer.close()
        complete = _tell_failure(writer)
        if status.lost:
            say("the run was lost: nobody knows how it ended; its supervisor left no record")
        # a success of which a part is missing here is none: `psync run ./make > list && use list`
        return status.returncode if complete else status.returncode or PsyncError.exit_status

    def _status(self, ending: asyncio.Future[ExitStatus]) -> ExitStatus:
        """Return how the run ended; say what to do about a program that could not be executed."""
        where = "on this machine" if self._order.target.local else f"on {self._order.target.name}"
        try:
            return ending.result()
        except ProgramNotFound as error:
            hint = f"install it {where}, or send one from here by its path, such as ./program"
            raise ProgramNotFound(f"{error.message} {where}", hint=hint) from error
        except ExecError as error:
            hint = f"build it for that host, or install what it needs {where}"
            raise ExecError(error.message, hint=error.hint or hint) from error


def _leave_at_once(_number: signal.Signals) -> None:
    """The run is over, and nobody takes what is left of its output: Ctrl-C ends the wait."""
    os._exit(Interrupted.exit_status)


def _tell_connection(error: PsyncError | None) -> None:
    if error is None:
        say_now("connected again; nothing of the output is lost")
    else:
        say_now(f"connection lost ({error.message}); reconnecting, Ctrl-C leaves")


def _tell_gap(count: int) -> None:
    say_now(f"{size(count)} of output were dropped there")


def _tell_failure(writer: OutputWriter) -> bool:
    """Say what of the output is missing; return whether all of it could be written."""
    if writer.discarded:
        say(f"{size(writer.discarded)} of output were dropped with the kill")
    failure = writer.failure()
    if failure is not None:
        say(f"output could not be written: {failure.strerror}")
    return failure is None
