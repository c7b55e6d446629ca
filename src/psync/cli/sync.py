"""``psync sync``: bring the mirror up to date and run nothing."""

from __future__ import annotations

import os

from psync.api import target_spec
from psync.cli.arguments import Parser, add_sync_options, add_target_option
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import SyncReport
from psync.client.early import SyncReports, begin
from psync.client.place import find_place
from psync.config import load_client
from psync.paths import ClientPaths

DESCRIPTION = """\
Send what the project's psync.toml and --assets name, else the whole project, to a target.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    parser = Parser("sync", "[OPTIONS]", DESCRIPTION)
    add_target_option(parser)
    add_sync_options(parser)
    options = parser.parse_args(argv)
    paths = ClientPaths.from_environ(os.environ)
    place = find_place(None, paths, root=options.project)
    config = load_client(
        project_root=place.project.root, environ=os.environ, flags={"--on": options.on}
    )
    spec = target_spec(config.find())
    plan = place.plan(
        assets=options.assets, include=(*config.include, *config.assets), exclude=config.exclude
    )
    report = SyncReport(verbose=True)
    reports = SyncReports(report.progress, report.warning, report.waiting)
    early = begin(plan, spec, paths, reports)

    async def sync(_signals: Signals) -> int:
        import_picows()
        from psync.client.target import Target

        target = Target(spec, paths)
        try:
            report.end(await target.transfer(plan, early=early, reports=reports))
        finally:
            target.abandon()
        return 0

    try:
        return run_loop(sync, lambda: "files were sent")
    finally:
        report.end()
        if early is not None:
            early.sync.cancel()
            early.sync.close()
