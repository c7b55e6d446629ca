"""What ``psync run`` and ``psync watch`` are told: a program, where, with what."""

from __future__ import annotations

import argparse
import os

import msgspec

from psync.api import target_spec
from psync.cli import events
from psync.cli.arguments import Parser, add_escape_option, add_sync_options, add_target_option, path
from psync.cli.output import say
from psync.client.place import find_place
from psync.client.revision import source_revision
from psync.client.targets import TargetSpec
from psync.config import load_client
from psync.errors import UsageError
from psync.model import Overflow, RunSpec
from psync.paths import ClientPaths
from psync.sync.plan import SyncPlan
from psync.text import printable


class Order(msgspec.Struct, frozen=True):
    """All that one command is to do.

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


def add_program_options(parser: Parser) -> None:
    """Add what says where a program runs, with what, and the program itself."""
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
        "--on-disconnect",
        metavar="keep|stop:DURATION",
        help="what becomes of the run without a client (default: stop:5m; detached: keep)",
    )
    parser.add_argument(
        "--overflow",
        metavar="block|drop",
        help="at the limit of unread output the program waits, or the oldest goes (default: block)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="psync's own words on stderr as JSON, one event a line; see psync sync --help",
    )
    add_escape_option(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """Parse a command line that ends with a program and its arguments."""
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("PROGRAM is missing")
    if options.json:
        events.use_json(2)
    return options


def read_order(options: argparse.Namespace, *, sync: bool = True, detach: bool = False) -> Order:
    """Return what a command line and the configuration amount to.

    Args:
        options: from ``parse``.
        sync: files are sent.
        detach: the run is left to itself.

    Raises:
        PsyncError: the program is not there, or something of this is wrong.
    """
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
        include=include if sync else (*include, b"."),
        exclude=config.exclude,
        strip=config.strip == "debug",
        checksum=options.checksum,
    )
    spec = RunSpec(
        argv=command,
        program=plan.program,
        env=environment(config.env, options.env),
        cwd=plan.cwd,
        project=place.project.id,
        name=printable(options.name)[:200],
        disconnect_grace=config.disconnect_grace(detached=detach),
        overflow=Overflow(config.overflow),
        # with --no-sync nobody knows which revision it is that lies there
        revision=source_revision(place.project.root) if sync else "",
        library_path=libraries.library_path(place.project.root),
    )
    if target.local and config.origin("target") == "default":
        say("running on this machine, the target local; psync pair HOST adds another")
    return Order(
        target=target,
        paths=paths,
        plan=plan,
        sync=sync,
        spec=spec,
        verbose=options.verbose,
        detach=detach,
        keep=config.origin("run.on_disconnect") == "default",
        escape=options.escape,
        on=f" --on {target.name}" if options.on else "",
    )


def environment(
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
