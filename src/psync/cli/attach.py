"""``psync attach``: continue a run that goes on without this terminal, or watch it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from psync.api import target_spec
from psync.cli.arguments import Parser, add_escape_option, add_target_option
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.runs import REFERENCE, configuration, find_run, reference
from psync.errors import UsageError
from psync.model import RunInfo
from psync.paths import ClientPaths

if TYPE_CHECKING:
    from psync.client.target import Target

TAIL = 10
"""Lines of earlier output that are shown first: enough to see where things stand."""

DESCRIPTION = f"""\
Continue a run: its output from now on, its stdin unless another client holds it, Ctrl-C, and its
exit status at the end. Without RUN it is the newest run that goes on;
{REFERENCE}.

Several clients may be attached at once. On a terminal, ~d and Enter at the beginning of a
line detach again, ~. ends the connection, ~? says more.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    options = _parse(argv)
    return run_loop(_Attach(options).run, lambda: "looking for the run")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("attach", "[OPTIONS] [RUN]", DESCRIPTION)
    add_target_option(parser)
    parser.add_argument(
        "-r",
        "--read-only",
        action="store_true",
        help="only watch: no stdin, and Ctrl-C just leaves",
    )
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "-n",
        "--lines",
        metavar="N",
        type=_count,
        default=TAIL,
        help=f"show the last N lines of earlier output first (default: {TAIL})",
    )
    begin.add_argument("--all", action="store_true", help="show all earlier output first")
    add_escape_option(parser)
    parser.add_argument("run", metavar="RUN", nargs="?", type=reference)
    return parser.parse_args(argv)


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 15:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of lines")
    return int(word)


class _Attach:
    """One ``psync attach``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    async def run(self, signals: Signals) -> int:
        import_picows()
        from psync.cli.foreground import Foreground, Manner, tell_connection
        from psync.client.run import Existing
        from psync.client.target import Target

        options = self._options
        config = configuration(options.on)
        spec = target_spec(config.find())
        paths = ClientPaths.from_environ(os.environ)
        target = Target(spec, paths, on_connection=tell_connection)
        try:
            info = await self._find(target, others=bool(config.targets))
            located = await target.locate(info.id, lines=None if options.all else options.lines)
            run = await target.join(
                Existing(
                    info.id,
                    offset=located.oldest if options.all else located.offset,
                    read_only=options.read_only,
                    # who only looks is nobody the run waits for
                    grace=None if options.read_only else info.disconnect_grace,
                )
            )
            manner = Manner(
                where="on this machine" if spec.local else f"on {spec.name}",
                on=f" --on {spec.name}" if options.on else "",
                escape=options.escape,
                joined=True,
            )
            return await Foreground(target, run, signals, manner).follow()
        finally:
            target.abandon()

    async def _find(self, target: Target, *, others: bool) -> RunInfo:
        word = self._options.run
        if word is not None:
            return await find_run(target, word, others=others)
        for run in await target.runs(active=True):
            return run
        raise UsageError(
            f"no run goes on on {target.name}",
            hint="psync ps -a lists those that are over, psync logs RUN shows their output",
        )
