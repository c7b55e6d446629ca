"""``psync pull``: bring files of the mirror back."""

from __future__ import annotations

import os

from psync.api import target_spec
from psync.cli.arguments import Parser, add_target_option, path
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import say, show, size
from psync.cli.syncreport import SyncReport
from psync.client.place import find_place
from psync.client.syncing import SyncReports
from psync.config import load_client
from psync.paths import ClientPaths
from psync.sync.pull import Pulled
from psync.sync.pullplan import check_destination, plan_pull
from psync.text import printable

DESCRIPTION = """\
Bring files and directories of the project's mirror back: saves, screenshots, profiles, cores.

A PATH is what the run would call it, relative to the mirror of this directory, or an absolute path
of this machine. Wildcards (* ? [...], quoted) are the daemon host's to expand. The files keep their
paths below ./pulled, which neither git nor psync sync looks into; files that are there already are
brought up to date, none is deleted.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    parser = Parser("pull", "[OPTIONS] PATH...", DESCRIPTION)
    parser.add_argument("paths", metavar="PATH", nargs="+", type=path, help="what to bring")
    add_target_option(parser)
    parser.add_argument(
        "-o",
        "--into",
        metavar="DIR",
        type=path,
        help="put the files into this directory (default: pulled)",
    )
    parser.add_argument(
        "--overwrite-source",
        action="store_true",
        help="let them take the place of files that psync sync sends; without --into each goes "
        "where it belongs in the project",
    )
    parser.add_argument(
        "--project",
        metavar="DIR",
        type=path,
        help="the project's root (default: nearest psync.toml, VCS root, this directory)",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="list what would be brought, and bring nothing"
    )
    parser.add_argument(
        "--json", action="store_true", help="say on stdout what was brought, as one JSON object"
    )
    options = parser.parse_args(argv)
    paths = ClientPaths.from_environ(os.environ)
    place = find_place(None, paths, root=options.project)
    config = load_client(
        project_root=place.project.root, environ=os.environ, flags={"--on": options.on}
    )
    spec = target_spec(config.find())
    plan = plan_pull(
        place.project,
        place.here,
        options.paths,
        into=options.into,
        over_source=options.overwrite_source,
    )
    named = (os.path.join(place.project.root, name) for name in (*config.include, *config.assets))
    sources = [os.path.normpath(name) for name in named]
    check_destination(
        plan,
        # what lies in the project is a matter of what is left out there
        sources=[name for name in sources if not _is_in(place.project.root, name)],
        exclude=config.exclude,
        environ=os.environ,
    )
    report = SyncReport(verbose=True)
    reports = SyncReports(report.progress, lambda text: say(f"warning: {text}"))

    async def bring(_signals: Signals) -> int:
        import_picows()
        from psync.client.pull import pull
        from psync.client.target import Target

        target = Target(spec, paths)
        try:
            pulled = await pull(target, plan, paths, dry=options.dry_run, reports=reports)
        finally:
            target.abandon()
        report.end()
        if options.json:
            show(_as_json(pulled, plan.into))
        elif options.dry_run:
            show("".join(f"pull {printable(one.name)}\n" for one in pulled.placed))
        if not options.dry_run or not (options.json or pulled.placed):
            say(_told(pulled, plan.into, place.here))
        return 0

    try:
        kept = "what had arrived whole by then is kept"
        return run_loop(bring, lambda: "files were pulled", lambda: kept)
    finally:
        report.end()


def _told(pulled: Pulled, into: bytes, here: bytes) -> str:
    """Return what was done, for people."""
    relative = os.path.relpath(into, here)
    where = printable(into if relative.startswith(b"../..") else relative)
    count = len(pulled.placed)
    if not count:
        if pulled.same:
            return f"nothing new: {_files(pulled.same)} in {where} the same already"
        return "there were no files to pull"
    same = f", {pulled.same} the same already" if pulled.same else ""
    took = f"{size(pulled.size)} in {pulled.seconds:.1f} s"
    return f"pulled {_files(count)} into {where}, {took}{same}"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _as_json(pulled: Pulled, into: bytes) -> str:
    import msgspec

    said = {
        "into": printable(into),
        "pulled": [{"path": printable(one.name), "size": one.size} for one in pulled.placed],
        "same": pulled.same,
        "left": [{"path": printable(name), "reason": why} for name, why in pulled.left],
        "bytes": pulled.size,
        "seconds": round(pulled.seconds, 3),
    }
    return msgspec.json.encode(said).decode() + "\n"


def _is_in(root: bytes, name: bytes) -> bool:
    return name == root or name.startswith(root.rstrip(b"/") + b"/")
