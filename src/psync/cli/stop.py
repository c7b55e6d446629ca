"""``psync stop``: end runs with everything they started, and say how they ended.

The daemon climbs down the ladder by itself: the signal to the program's process group, after the
grace SIGTERM to every process, then the kill. So a stop that has arrived needs no client any more.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psync.api import target_spec
from psync.cli.arguments import Parser, add_target_option
from psync.cli.imports import import_picows
from psync.cli.loop import Signals, catch_signals, run as run_loop
from psync.cli.output import say, say_now
from psync.cli.runs import (
    REFERENCE,
    configuration,
    find_run,
    no_run,
    nothing_local,
    outcome,
    reference,
)
from psync.cli.times import duration
from psync.errors import ConnectionLost, ExecError, Interrupted, ProgramNotFound, PsyncError
from psync.model import ExitStatus, RunInfo
from psync.paths import ClientPaths

if TYPE_CHECKING:
    from psync.client.run import RemoteRun
    from psync.client.target import Target

DESCRIPTION = f"""\
Stop runs: SIGTERM to the program, after the grace SIGTERM to everything it started, then SIGKILL
until none of it is left. Returns when they are over, and says how each of them ended.

{REFERENCE[0].upper()}{REFERENCE[1:]}.
One that is over already is no failure.
"""

GRACE = 10.0
"""Seconds between the signal and what follows, unless it is said otherwise."""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    options = _parse(argv)
    stopper = _Stopper(options)
    try:
        return run_loop(stopper.run, lambda: "runs were looked for")
    except Interrupted as error:
        if not stopper.told:
            raise
        raise Interrupted(
            "interrupted; what was told to stop goes on stopping", hint="psync ps shows it"
        ) from error


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("stop", "[OPTIONS] RUN…", DESCRIPTION)
    add_target_option(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "-s",
        "--signal",
        metavar="SIG",
        type=signal_name,
        default="SIGTERM",
        help="begin with this signal: INT, SIGINT or 2 (default: SIGTERM)",
    )
    how.add_argument("--kill", action="store_true", help="kill at once")
    parser.add_argument(
        "--grace",
        metavar="DURATION",
        type=duration,
        default=GRACE,
        help="time between the signal and what follows, such as 30s (default: 10s)",
    )
    parser.add_argument("-a", "--all", action="store_true", help="stop every run of the target")
    parser.add_argument("runs", metavar="RUN", nargs="*", type=reference, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.all and options.runs:
        parser.error("--all stops every run; RUN must not be given with it")
    if not options.all and not options.runs:
        parser.error("RUN is missing")
    return options


def signal_name(word: str) -> str:
    """Return the name of a signal that is written as ``SIGINT``, ``int`` or ``2``."""
    try:
        if word.isascii() and word.isdigit():
            return signal.Signals(int(word)).name
        name = word.upper()
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"there is no signal {word!r}") from None


class _Stopper:
    """One ``psync stop``.

    Attributes:
        told: whether any run was told to stop.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.told = False
        self._options = options
        self._stopping: list[RemoteRun] = []

    async def run(self, _signals: Signals) -> int:
        config = configuration(self._options.on)
        paths = ClientPaths.from_environ(os.environ)
        spec = target_spec(config.find())
        others = bool(config.targets)
        if spec.local and nothing_local(paths, finished=not self._options.all):
            if self._options.all:
                return self._none(spec.name)
            raise no_run(self._options.runs[0], spec.name, others=others)
        import_picows()
        from psync.client.target import Target

        target = Target(spec, paths, on_connection=self._on_connection)
        try:
            runs = await self._find(target, others=others)
            if not runs:
                return self._none(spec.name)
            return await self._stop_all(target, runs)
        finally:
            target.abandon()

    def _none(self, name: str) -> int:
        say(f"nothing is running on {name}")
        return 0

    async def _find(self, target: Target, *, others: bool) -> Sequence[RunInfo]:
        """Return the runs to stop, each once; nothing is stopped unless all can be found."""
        if self._options.all:
            return await target.runs(active=True)
        found = [await find_run(target, word, others=others) for word in self._options.runs]
        return list({run.id: run for run in found}.values())

    async def _stop_all(self, target: Target, runs: Sequence[RunInfo]) -> int:
        import asyncio

        outcomes = await asyncio.gather(
            *(self._stop(target, run) for run in runs), return_exceptions=True
        )
        status = 0
        for run, failure in zip(runs, outcomes, strict=True):
            if isinstance(failure, PsyncError):
                say(f"run {run.id} was not stopped: {failure}")
                status = status or failure.exit_status
            elif failure is not None:
                raise failure
        return status

    async def _stop(self, target: Target, info: RunInfo) -> None:
        if info.state.final:
            say(f"{info.id} is over already ({outcome(info)})")
            return
        run = await target.attach(info.id, offset=info.output)
        self._stopping.append(run)
        try:
            self._tell(run)
            async for _ in run.output():
                pass  # the end comes after it
            status = await run.wait()
        except (ProgramNotFound, ExecError):
            say(f"{info.id} is over already (not executed)")
        else:
            say(f"stopped {info.id} ({_words(status)})")
        finally:
            self._stopping.remove(run)
            run.detach()

    def _tell(self, run: RemoteRun) -> None:
        options = self._options
        try:
            if options.kill:
                run.stop(kill=True)
            else:
                run.stop(signal=options.signal, grace=options.grace)
        except ConnectionLost:
            return  # it is told as soon as there is another connection
        self.told = True

    def _on_connection(self, error: PsyncError | None) -> None:
        """Say it again on a new connection: the old one may have taken it along."""
        if error is not None:
            say_now(f"connection lost ({error.message}); reconnecting")
            return
        import asyncio

        for run in self._stopping:  # which say first that they are there again
            asyncio.get_running_loop().call_soon(self._tell, run)


def _words(status: ExitStatus) -> str:
    if status.lost:
        return "lost: nobody knows how it ended"
    return status.signal if status.signal is not None else f"exit status {status.code}"
