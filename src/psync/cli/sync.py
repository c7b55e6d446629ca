"""``psync sync``: bring the mirror up to date and run nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from psync.api import target_spec
from psync.cli import events
from psync.cli.arguments import Parser, add_sync_options, add_target_option, path
from psync.cli.ask import confirm
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import say, show, size
from psync.cli.syncreport import SyncReport
from psync.client.place import find_place
from psync.client.syncing import SyncReports, new_sync
from psync.config import load_client
from psync.paths import ClientPaths
from psync.sync.plan import SyncPlan
from psync.sync.rsync import Summary
from psync.text import printable

if TYPE_CHECKING:
    from psync.sync.clean import Surplus

SHOWN = 5
"""Paths that a question names."""

DESCRIPTION = """\
Send what the project's psync.toml and --assets name, else the whole project, to a target.

--json prints one object a line, each with its "event": sync-started (target, project), waiting (pid
and command of another sync of the project), progress about once a second (bytes, total, rate, left
in seconds, files, file; null for what is not known), warning, sync-ended (files, bytes, removed,
seconds, skipped), error (code, message, hint, exit_status), and message for anything else. On
stderr psync run and psync watch print them, and run-started (run), run-ended (run, status, signal),
connection-lost and connected. A path that is not printable UTF-8 is in file_base64 as well.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    parser = Parser("sync", "[OPTIONS]", DESCRIPTION)
    add_target_option(parser)
    add_sync_options(parser)
    parser.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="list what would be sent and removed, and change nothing",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="then remove from the mirror what is not sent, also what programs wrote; asks first",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="with --clean: do not ask")
    parser.add_argument(
        "--json",
        action="store_true",
        help="say how it goes as JSON, one event a line; with --dry-run: one JSON object",
    )
    parser.add_argument(
        "--why",
        metavar="PATH",
        action="append",
        default=[],
        type=path,
        help="say whether this file would be sent and what decides that; send nothing (repeatable)",
    )
    options = parser.parse_args(argv)
    if options.json and not options.dry_run:
        events.use_json(1)
    if options.clean and not (options.yes or options.dry_run or os.isatty(0)):
        parser.error("--clean asks on a terminal, and stdin is none; say --yes, or --dry-run")
    paths = ClientPaths.from_environ(os.environ)
    place = find_place(None, paths, root=options.project)
    config = load_client(
        project_root=place.project.root,
        environ=os.environ,
        flags={"--on": options.on, "--strip": options.strip},
    )
    spec = target_spec(config.find())
    plan = place.plan(
        assets=options.assets,
        include=(*config.include, *config.assets),
        exclude=config.exclude,
        strip=config.strip == "debug",
        checksum=options.checksum,
    )
    if options.why:
        return _explain(plan, [os.path.join(place.here, name) for name in options.why])
    report = SyncReport(verbose=True)
    reports = SyncReports(report.progress, report.warning, report.waiting)
    phase, outcome = "files were sent", "psync sync again sends the rest"

    def wanted(surplus: Surplus) -> bool:
        nonlocal phase, outcome
        report.end()
        if not options.yes:
            phase, outcome = "psync asked", "nothing was removed"
            if not confirm(_question(surplus), lambda: ahead.cancelled):
                say("nothing was removed")
                return False
        phase, outcome = "files were removed", "psync sync --clean again removes the rest"
        return True

    ahead = new_sync(
        plan, paths, reports, dry=options.dry_run, clean=wanted if options.clean else None
    )
    ahead.begin_looking()

    async def sync(_signals: Signals) -> int:
        import_picows()
        from psync.client.target import Target

        target = Target(spec, paths)
        report.begin(spec.name, plan.project.name)
        try:
            summary = await target.transfer(plan, ahead=ahead)
            if options.dry_run:
                show(_listed(summary, json=options.json))
                if not (options.json or summary.sent_names or summary.removed_names):
                    say("there is nothing to send or to remove")
            else:
                report.end(summary)
        finally:
            target.abandon()
        return 0

    try:
        return run_loop(sync, lambda: phase, lambda: outcome)
    finally:
        report.end()
        ahead.close()


def _explain(plan: SyncPlan, paths: list[bytes]) -> int:
    """Say what becomes of each path; return 0 if all of them would be sent, else 1."""
    from psync.sync.why import why

    reasons = [(name, why(plan, name, os.environ)) for name in paths]
    for name, reason in reasons:
        show(f"{printable(name)}: {'sent' if reason.sent else 'not sent'}: {reason.text}\n")
    return 0 if all(reason.sent for _, reason in reasons) else 1


def _question(surplus: Surplus) -> str:
    """Return what is to be removed, as a question."""
    names = [printable(name) for name in surplus.outermost[:SHOWN]]
    more = len(surplus.outermost) - len(names)
    shown = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    files = f"{surplus.files} file{'' if surplus.files == 1 else 's'}"
    return f"psync: remove {files} ({size(surplus.size)}) from the mirror: {shown}?"


def _listed(summary: Summary, *, json: bool) -> str:
    """Return what would be sent and removed: a line for each path, or JSON with the same."""
    sent, removed = sorted(summary.sent_names), sorted(summary.removed_names)
    if json:
        import msgspec

        text = {"send": [*map(printable, sent)], "remove": [*map(printable, removed)]}
        return msgspec.json.encode(text).decode() + "\n"
    lines = [f"send {printable(name)}\n" for name in sent]
    lines += [f"remove {printable(name)}\n" for name in removed]
    return "".join(lines)
