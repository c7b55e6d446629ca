"""``psync ps``: the runs of one target, or of all."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

import msgspec

from psync.api import target_spec
from psync.cli.arguments import Parser, add_target_option
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import say, show, size, span
from psync.cli.runs import command_line, configuration, nothing_local, outcome
from psync.cli.table import table, terminal_width
from psync.cli.times import utc
from psync.client.targets import LOCAL, TargetFiles, TargetSpec
from psync.config import ClientConfig, TargetConfig
from psync.errors import PsyncError
from psync.model import RunInfo, RunState
from psync.paths import ClientPaths

DESCRIPTION = """\
List the runs of a target, the newest first: those that go on, with -a finished ones too.

A daemon that is not running is not started for the target local unless it has runs to tell of; over
ssh one is. With --all-targets the exit status is 0 if any of them answered.
"""

EPILOG = """\
--json prints one list of objects: target, id, name, project, client, revision, command (a list),
state (starting, running, stopping, exited, lost), exit_code, signal, exit_status (as a shell has
it), reason, created, started, ended, output, oldest, viewers, disconnect_grace (seconds), overflow.
Times are RFC 3339 in UTC, sizes and offsets are bytes, what is not known is null; ended, of a lost
run, is when it was last known to live. Arguments are UTF-8; a byte that is none is written
\\udc80 to \\udcff, as Python's surrogateescape has it.
"""


class Answer(msgspec.Struct, frozen=True):
    """What asking one target came to.

    Attributes:
        target: its name.
        runs: the newest first.
        error: why there are none.
    """

    target: str
    runs: Sequence[RunInfo] = ()
    error: PsyncError | None = None


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    options = _parse(argv)
    config = configuration(options.on)
    paths = ClientPaths.from_environ(os.environ)
    specs = _all_targets(config, paths) if options.all_targets else [target_spec(config.find())]
    answers = _ask(specs, paths, finished=options.all)
    failed = [answer for answer in answers if answer.error is not None]
    for answer in failed:
        if not options.all_targets:
            raise answer.error or PsyncError("no answer")
        say(f"{answer.target}: {answer.error}")
    _print(answers, options)
    if failed and len(failed) == len(answers):
        return max(answer.error.exit_status for answer in failed if answer.error is not None)
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("ps", "[OPTIONS]", DESCRIPTION)
    parser.epilog = EPILOG
    parser.add_argument("-a", "--all", action="store_true", help="list finished runs too")
    which = parser.add_mutually_exclusive_group()
    add_target_option(which)
    which.add_argument(
        "--all-targets",
        action="store_true",
        help="ask every paired target, and local if it has a daemon or runs",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as a JSON list, with all there is")
    shape.add_argument("-q", "--quiet", action="store_true", help="print IDs only, one a line")
    return parser.parse_args(argv)


def _all_targets(config: ClientConfig, paths: ClientPaths) -> list[TargetSpec]:
    """Return the targets that are worth asking."""
    specs = [target_spec(config.targets[name]) for name in sorted(config.targets)]
    paired = [spec for spec in specs if os.path.lexists(TargetFiles(paths, spec.name).directory)]
    return [*paired, target_spec(TargetConfig(LOCAL, "", config.ssh))]


def _ask(specs: Sequence[TargetSpec], paths: ClientPaths, *, finished: bool) -> list[Answer]:
    """Ask all targets at once; those that cannot have an answer need no connection."""
    known = [
        Answer(spec.name) if spec.local and nothing_local(paths, finished=finished) else None
        for spec in specs
    ]
    if None not in known:
        return [answer for answer in known if answer is not None]

    answers: list[Answer] = []

    async def ask(_signals: Signals) -> int:
        import asyncio

        async def one(spec: TargetSpec, answer: Answer | None) -> Answer:
            return answer or await _ask_one(spec, paths, finished=finished)

        answers.extend(await asyncio.gather(*map(one, specs, known)))
        return 0

    run_loop(ask, lambda: "the runs were listed")
    return answers


async def _ask_one(spec: TargetSpec, paths: ClientPaths, *, finished: bool) -> Answer:
    import_picows()
    from psync.client.target import Target

    try:
        target = Target(spec, paths)
        try:
            return Answer(spec.name, await target.runs(active=not finished))
        finally:
            target.abandon()
    except PsyncError as error:
        return Answer(spec.name, error=error)


def _print(answers: Sequence[Answer], options: argparse.Namespace) -> None:
    found = [(answer.target, run) for answer in answers for run in answer.runs]
    found.sort(key=lambda pair: pair[1].created, reverse=True)
    if options.json:
        import json

        show(f"{json.dumps([as_json(target, run) for target, run in found], indent=2)}\n")
    elif options.quiet:
        show("".join(f"{run.id}\n" for _, run in found))
    else:
        show(as_table(found, several=options.all_targets, finished=options.all))


def as_table(
    found: Sequence[tuple[str, RunInfo]], *, several: bool, finished: bool, now: float | None = None
) -> str:
    """Return the table for people.

    Args:
        found: names of targets and their runs.
        several: whether the runs may be of more than one target.
        finished: whether finished runs are among them.
        now: seconds since the epoch, None for this moment.
    """
    now = time.time() if now is None else now
    where = "TARGET" if several else "PROJECT"
    titles = ["ID", "NAME", where, "COMMAND", "STATE", "DURATION", "OUTPUT", "VIEWERS"]
    rows = [
        [
            run.id,
            run.name or "-",
            target if several else run.project or "-",
            command_line(run) or "-",
            outcome(run),
            _duration(run, now),
            size(run.output),
            str(run.viewers),
        ]
        for target, run in found
    ]
    if finished:
        titles.insert(5, "AGE")
        for row, (_, run) in zip(rows, found, strict=True):
            row.insert(5, span(now - run.created))
    return table(
        titles,
        rows,
        width=terminal_width(os.environ),
        right=("AGE", "DURATION", "OUTPUT", "VIEWERS"),
        least={"COMMAND": 12, "NAME": 6, where: 7},
    )


def _duration(run: RunInfo, now: float) -> str:
    if run.started is None or (run.ended is None and run.state.final):
        return "-"
    lasted = span((now if run.ended is None else run.ended) - run.started)
    return f"~{lasted}" if run.state is RunState.LOST else lasted


def as_json(target: str, run: RunInfo) -> dict[str, object]:
    """Return what ``--json`` prints of a run; see ``EPILOG``."""
    status = run.status
    return {
        "target": target,
        "id": run.id,
        "name": run.name,
        "project": run.project,
        "client": run.client,
        "revision": run.revision,
        "command": [os.fsdecode(word) for word in run.command],
        "state": run.state.value,
        "exit_code": None if status is None else status.code,
        "signal": None if status is None else status.signal,
        "exit_status": None if status is None else status.returncode,
        "reason": run.reason or None,
        "created": utc(run.created),
        "started": utc(run.started),
        "ended": utc(run.ended),
        "output": run.output,
        "oldest": run.oldest,
        "viewers": run.viewers,
        "disconnect_grace": run.disconnect_grace,
        "overflow": run.overflow.value,
    }
