"""``psync run``: sync, run there, stream here, exit with the program's status.

The files are looked at in a thread while this process imports asyncio and connects.
"""

from __future__ import annotations

import argparse
import os

import msgspec

from psync.api import target_spec
from psync.cli.arguments import (
    Parser,
    add_escape_option,
    add_sync_options,
    add_target_option,
    path,
)
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import SyncReport, say, show
from psync.client.place import find_place
from psync.client.revision import source_revision
from psync.client.syncing import SyncReports, new_sync
from psync.client.targets import TargetSpec
from psync.config import load_client
from psync.errors import PsyncError, UsageError
from psync.model import Overflow, RunSpec
from psync.paths import ClientPaths
from psync.sync.engine import Sync
from psync.sync.machine import program_path
from psync.sync.plan import SyncPlan
from psync.text import printable

DESCRIPTION = """\
Sync PROGRAM and what it needs to a target, run it there, stream its output here, and exit with its
status. Everything after PROGRAM belongs to the program.

On a terminal, ~d and Enter at the beginning of a line detach and leave the run going on, ~. ends
the connection, ~? says more.

A PROGRAM with a slash, or that names a file, is sent; any other is looked up on the target's PATH.
Shared libraries that it finds through LD_LIBRARY_PATH, RPATH or RUNPATH are sent with it, but for
the system's.
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
        detach: leave the run to itself.
        escape: the escape character where stdin is a terminal, None for none.
        on: what to add to a command to reach the same target.
        keep: who detaches with ~d keeps the run; False where its disconnect policy was chosen.
    """

    target: TargetSpec
    paths: ClientPaths
    plan: SyncPlan
    sync: bool
    spec: RunSpec
    verbose: bool
    detach: bool
    escape: bytes | None
    on: str
    keep: bool


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    order = _order(_parse(argv))
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
        "-d",
        "--detach",
        action="store_true",
        help="start it, print its ID and leave it going on; psync attach, logs, stop take the ID",
    )
    parser.add_argument(
        "--no-sync", action="store_true", help="run what is there already; send nothing"
    )
    parser.add_argument(
        "--on-disconnect",
        metavar="keep|stop:DURATION",
        help="what becomes of the run without a client (default: stop:5m; with --detach: keep)",
    )
    parser.add_argument(
        "--overflow",
        metavar="block|drop",
        help="at the limit of unread output the program waits, or the oldest goes (default: block)",
    )
    parser.add_argument(
        "--strip",
        metavar="debug|none",
        help="send a copy of the program without what only debuggers need (default: none)",
    )
    add_escape_option(parser)
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
        flags={
            "--on": options.on,
            "--on-disconnect": options.on_disconnect,
            "--overflow": options.overflow,
            "--strip": options.strip,
        },
    )
    target = target_spec(config.find())
    include = (*config.include, *config.assets)
    # with --no-sync only its paths matter, and those of a whole home directory are as good
    libraries = place.libraries()
    plan = place.plan(
        assets=(*options.assets, *libraries.files),
        include=(*include, b".") if options.no_sync else include,
        exclude=config.exclude,
        strip=config.strip == "debug",
    )
    spec = RunSpec(
        argv=command,
        program=plan.program,
        env=_environment(config.env, options.env),
        cwd=plan.cwd,
        project=place.project.id,
        name=printable(options.name)[:200],
        disconnect_grace=config.disconnect_grace(detached=options.detach),
        overflow=Overflow(config.overflow),
        # with --no-sync nobody knows which revision it is that lies there
        revision="" if options.no_sync else source_revision(place.project.root),
        library_path=libraries.library_path(place.project.root),
    )
    if target.local and config.origin("target") == "default":
        say("running on this machine, the target local; psync pair HOST adds another")
    return Order(
        target=target,
        paths=paths,
        plan=plan,
        sync=not options.no_sync,
        spec=spec,
        verbose=options.verbose,
        detach=options.detach,
        keep=config.origin("run.on_disconnect") == "default",
        escape=options.escape,
        on=f" --on {target.name}" if options.on else "",
    )


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
                show(f"{await detach(target, run, signals, where)}\n")
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
