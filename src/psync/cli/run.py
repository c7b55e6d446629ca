"""``psync run``: sync, run there, stream here, exit with the program's status.

The files are looked at in a thread while this process imports asyncio and connects.
"""

from __future__ import annotations

from psync.cli.arguments import Parser
from psync.cli.events import emit
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.order import Order, add_program_options, parse, read_order
from psync.cli.output import say, show
from psync.cli.syncreport import SyncReport
from psync.client.syncing import SyncReports, new_sync
from psync.errors import PsyncError
from psync.sync.engine import Sync
from psync.sync.machine import program_path

DESCRIPTION = """\
Sync PROGRAM and what it needs to a target, run it there, stream its output here, and exit with its
status. Everything after PROGRAM belongs to the program.

On a terminal, ~d and Enter at the beginning of a line detach and leave the run going on, ~. ends
the connection, ~? says more.

A PROGRAM with a slash, or that names a file, is sent; any other is looked up on the target's PATH.
Shared libraries that it finds through LD_LIBRARY_PATH, RPATH or RUNPATH are sent with it, but for
the system's.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    order = parse_order(argv)
    report = SyncReport(verbose=order.verbose)
    reports = SyncReports(report.progress, report.warning, report.waiting)
    ahead = None
    try:
        if order.sync:
            ahead = new_sync(order.plan, order.paths, reports)
            ahead.begin_looking()
        command = _Command(order, report, ahead)
        return run_loop(command.run, lambda: command.phase)
    finally:
        report.end()
        if ahead is not None:
            ahead.close()


def parse_order(argv: list[str]) -> Order:
    """Return what a command line and the configuration amount to; raises as ``read_order``."""
    parser = Parser("run", "[OPTIONS] PROGRAM [ARGS…]", DESCRIPTION)
    parser.add_argument(
        "-d",
        "--detach",
        action="store_true",
        help="start it, print its ID and leave it going on; psync attach, logs, stop take the ID",
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="run what is there already; send nothing"
    )
    add_program_options(parser)
    options = parse(parser, argv)
    return read_order(options, sync=not options.no_sync, detach=options.detach)


class _Command:
    """One ``psync run``.

    Attributes:
        phase: what is going on, in words.
    """

    def __init__(self, order: Order, report: SyncReport, ahead: Sync | None) -> None:
        self.phase = "connecting"
        self._order = order
        self._report = report
        self._ahead = ahead

    async def run(self, signals: Signals) -> int:
        """Do all of it; return the exit status."""
        import_picows()
        from psync.client.target import Target

        order = self._order
        target = Target(order.target, order.paths, on_connection=_tell_connection)
        try:
            if order.sync:
                self.phase = "files were sent"
                self._report.begin(order.target.name, order.plan.project.name)
                summary = await target.transfer(order.plan, ahead=self._ahead)
                self._report.end(summary)
                if summary.files and not order.plan.strip:
                    self._hint()
            else:  # a command of the other host's needs a directory to run in, and no files
                await target.make_mirror(order.plan.project)
            self.phase = "connecting"
            run = await target.begin(order.spec)
            # only now, while the daemon starts the program, is there time to import it
            from psync.cli.foreground import Foreground, Manner, detach

            where = "on this machine" if order.target.local else f"on {order.target.name}"
            if order.detach:
                run_id = await detach(target, run, signals, where)
                emit("run-started", run=run_id)
                show(f"{run_id}\n")
                return 0
            manner = Manner(where, on=order.on, escape=order.escape, keep=order.keep)
            return await Foreground(target, run, signals, manner).follow()
        finally:
            target.abandon()

    def _hint(self) -> None:
        """Tell of a way to send less, where that is much less; once for each program."""
        program = program_path(self._order.plan)
        if program is not None and not self._order.target.local:
            from psync.sync.strip import strip_hint

            text = strip_hint(program, self._order.paths.state)
            if text:
                say(text)


def _tell_connection(error: PsyncError | None) -> None:
    from psync.cli.foreground import tell_connection

    tell_connection(error)
