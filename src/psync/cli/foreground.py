"""A run in the foreground: this process's own stdin, stdout, stderr and signals are the run's.

Shared by ``run`` and ``attach``. It ends with the run's exit status, or before that when somebody
leaves: with an escape key, with Ctrl-C while there is no connection, or, where the run is another
client's as well, by closing stdout.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import msgspec

from psync.cli.events import emit, is_json
from psync.cli.output import report, say, say_now, size
from psync.client.escape import Escapes, Key, help_text
from psync.client.interrupts import Ladder, fate
from psync.client.stdin import StdinPump
from psync.client.stdout import OutputWriter
from psync.errors import ExecError, Interrupted, ProgramNotFound, PsyncError
from psync.model import ExitStatus, Stream
from psync.text import printable

if TYPE_CHECKING:
    from psync.cli.loop import Routed
    from psync.client.run import RemoteRun
    from psync.client.target import Target

BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit status of who leaves because nobody reads stdout any more, as a shell shows it."""

EXECUTED = 0.1
"""Seconds for which a detached run is watched: by then it is known whether the program could be
executed, which is told within milliseconds. One that writes output before that was."""


class Manner(msgspec.Struct, frozen=True):
    """How a run is looked at.

    Attributes:
        where: the daemon host in words: ``on handheld``.
        on: what to add to a command to reach the same target: `` --on handheld``, or nothing.
        escape: the escape character where stdin is a terminal, None for none.
        joined: the run is not this command's own: whoever leaves it leaves it alone.
        keep: a run that is detached from needs no client any more; False where its disconnect
            policy was chosen.
        stdin: this process's stdin is the run's; else the run has none.
    """

    where: str
    on: str = ""
    escape: bytes | None = None
    joined: bool = False
    keep: bool = False
    stdin: bool = True


class Foreground:
    """One run in the foreground.

    Args:
        target: where it runs; closed when somebody detaches, so that the daemon knows of it.
        run: has begun.
        signals: routed to the run.
        manner: see there.
    """

    def __init__(self, target: Target, run: RemoteRun, signals: Routed, manner: Manner) -> None:
        self._target = target
        self._run = run
        self._signals = signals
        self._manner = manner
        self._staying = False  # attached, as far as the daemon knows
        self._left: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> bool:
        """Whether somebody has left the run with an escape key."""
        return self._left.done()

    async def follow(self) -> int:
        """Take part in the run until it is over or left; return the exit status.

        Raises:
            Interrupted: Ctrl-C while there was no connection.
            ExecError, ProgramNotFound: the program could not be executed.
            PsyncError: as ``RemoteRun.wait``.
        """
        run = self._run
        closed = self._on_unread if self._manner.joined else None
        writer = OutputWriter(run, on_gap=_tell_gap, on_closed=closed)
        ladder = Ladder(run, say_now, writer.discard, self._again)
        self._signals.route = self._leave if run.read_only else ladder.handle
        run.on_stdin_holder(self._tell_holder)
        pump = self._pump()
        if pump is not None:
            pump.start()
        ending = asyncio.ensure_future(run.wait())
        starting = asyncio.ensure_future(_tell_start(run)) if is_json() else None
        try:
            await asyncio.wait(
                (ending, ladder.leaving, self._left), return_when=asyncio.FIRST_COMPLETED
            )
            if not ending.done():
                return await self._depart(ladder.leaving)
            status = run_status(ending, self._manner.where)
            self._signals.route = _leave_at_once
            await writer.drain()
            if starting is not None:
                await starting  # a run that has ended had begun
        finally:
            ending.cancel()
            if starting is not None:
                starting.cancel()
            if pump is not None:
                pump.stop()
            ladder.close()
            writer.close()
        complete = _tell_failure(writer)
        if status.lost:
            say("the run was lost: nobody knows how it ended; its supervisor left no record")
        emit("run-ended", run=run.id, status=status.returncode, signal=status.signal)
        # a success of which a part is missing here is none: `psync run ./make > list && use list`
        return status.returncode if complete else status.returncode or PsyncError.exit_status

    # -- stdin ----------------------------------------------------------------------------------

    def _pump(self) -> StdinPump | None:
        if not self._manner.stdin:
            self._run.close_stdin()
            return None
        char = self._manner.escape
        if char is not None and os.isatty(0):
            return StdinPump(self._run, escapes=Escapes(char), on_key=self._on_key)
        if self._run.read_only or (self._manner.joined and _is_null(0)):
            return None  # of no use, or no reason to end the program's stdin
        return StdinPump(self._run)

    def _on_key(self, key: Key) -> None:
        if self._left.done():
            return
        if key is Key.HELP and self._manner.escape is not None:
            say_now(help_text(self._manner.escape))
        elif key is Key.DETACH and self._run.connected and self._run.id:
            self._left.set_result(0)
        elif key is not Key.HELP:
            say_now(f"left; {fate(self._run)}; {self._again()}")
            self._staying = True
            self._left.set_result(Interrupted.exit_status)

    def _tell_holder(self, dropped: int) -> None:
        run = self._run
        lost = (
            f"; {size(dropped)} from here may not have arrived and are dropped" if dropped else ""
        )
        if run.read_only:
            return
        if run.holder is not None:
            say_now(f"stdin of the run is held by {printable(run.holder)}{lost}")
        elif run.holds_stdin:
            say_now(f"stdin of the run comes from here again{lost}")

    # -- leaving --------------------------------------------------------------------------------

    def _again(self) -> str:
        """Return what to type to go on with the run."""
        on = self._manner.on
        if not self._run.id:
            return f"psync ps -a{on} shows it"
        return f"psync attach {self._run.id}{on} goes on with it"

    def _leave(self, _number: signal.Signals) -> None:
        """Leave a run that is only looked at."""
        if not self._left.done():
            self._left.set_result(Interrupted.exit_status)

    def _on_unread(self, stream: Stream) -> None:
        if stream is Stream.STDOUT and not self._left.done():
            self._left.set_result(BROKEN_PIPE)

    async def _depart(self, leaving: asyncio.Future[None]) -> int:
        """End this side of it; return the exit status, or raise what ``leaving`` holds."""
        run = self._run
        error = leaving.exception() if leaving.done() else None
        if not run.connected:  # what still tries to connect may take its time to end
            os._exit(report(error) if isinstance(error, PsyncError) else self._left.result())
        if error is not None:
            raise error
        status = self._left.result()
        if not self._staying:
            run.detach(keep=status == 0 and self._manner.keep)
            await self._target.close()  # so that the daemon has been told
        if status == 0:
            say(f"detached; {fate(run)}; {self._again()}")
        return status


async def detach(target: Target, run: RemoteRun, signals: Routed, where: str) -> str:
    """Leave a run that has just begun to itself; return its ID.

    A program that cannot be executed is an error, as far as that is known at once.

    Raises:
        Interrupted: a signal came before the daemon had answered; the run may be there or not.
        ExecError, ProgramNotFound: the program could not be executed.
        PsyncError: as ``RemoteRun.started``.
    """
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[None] = loop.create_future()

    def interrupt(number: signal.Signals) -> None:
        if not interrupted.done():
            interrupted.set_result(None)

    signals.route = interrupt
    starting = asyncio.ensure_future(run.started())
    await asyncio.wait((starting, interrupted), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        raise Interrupted(f"interrupted; {fate(run)}", hint="psync ps shows whether it does")
    starting.result()
    writes: asyncio.Future[None] = loop.create_future()
    run.deliver_to(lambda _piece: None if writes.done() else writes.set_result(None))
    ending = asyncio.ensure_future(run.wait())
    await asyncio.wait(
        (ending, writes, interrupted), timeout=EXECUTED, return_when=asyncio.FIRST_COMPLETED
    )
    if ending.done():
        run_status(ending, where)
    ending.cancel()
    run.detach()
    await target.close()
    return run.id


def run_status(ending: asyncio.Future[ExitStatus], where: str) -> ExitStatus:
    """Return how a run ended; say what to do about a program that could not be executed."""
    try:
        return ending.result()
    except ProgramNotFound as error:
        hint = f"install it {where}, or send one from here by its path, such as ./program"
        raise ProgramNotFound(f"{error.message} {where}", hint=hint) from error
    except ExecError as error:
        hint = f"build it for that host, or install what it needs {where}"
        raise ExecError(error.message, hint=error.hint or hint) from error


def tell_connection(error: PsyncError | None) -> None:
    """Say that the connection is gone, or there again."""
    if error is None:
        say_now("connected again; nothing of the output is lost", event="connected")
    else:
        lost = f"connection lost ({error.message}); reconnecting, Ctrl-C leaves"
        say_now(lost, event="connection-lost")


async def _tell_start(run: RemoteRun) -> None:
    """Say, as an event, that the daemon has accepted a run."""
    try:
        await run.started()
    except PsyncError:
        return  # it is told as an error
    emit("run-started", run=run.id)


def _leave_at_once(_number: signal.Signals) -> None:
    """The run is over, and nobody takes what is left of its output: Ctrl-C ends the wait."""
    os._exit(Interrupted.exit_status)


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


def _is_null(fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(os.devnull))
    except OSError:
        return False
