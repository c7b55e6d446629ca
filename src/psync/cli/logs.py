"""``psync logs``: the output of a run, from wherever it is asked for, as ``docker logs`` shows it.

It is looked at and nothing else: the run neither waits for this client nor notices it.

    pieces ──▶ of that stream? ──▶ times of lines ──▶ made harmless ──▶ stdout or stderr
                                   (--timestamps)     (on a terminal)
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from psync.api import target_spec
from psync.cli.arguments import Parser, add_target_option
from psync.cli.imports import import_picows
from psync.cli.loop import catch_signals, run as run_loop
from psync.cli.output import say, say_now, size
from psync.cli.runs import (
    NEWEST,
    REFERENCE,
    configuration,
    find_run,
    no_run,
    nothing_local,
    reference,
)
from psync.cli.times import LineStamper, moment
from psync.client.pieces import Output
from psync.errors import ConnectionLost, ExecError, Interrupted, ProgramNotFound, PsyncError
from psync.model import RunState, Stream
from psync.paths import ClientPaths
from psync.terminal import TerminalFilter

if TYPE_CHECKING:
    from psync.client.run import RemoteRun
    from psync.client.stdout import DescriptorWriter
    from psync.client.target import Target

DESCRIPTION = f"""\
Print the output of a run that goes on or is over: its stdout on stdout, its stderr on stderr.
Without --follow it ends where the output ends now. RUN is the newest run unless it is named;
{REFERENCE}.

A terminal gets text and colours; other control sequences are made visible, so that no output can
do anything to it. Pipes and files, and with --raw terminals too, get the bytes as they are.
"""

_STREAMS = {
    "stdout": (Stream.STDOUT,),
    "stderr": (Stream.STDERR,),
    "both": (Stream.STDOUT, Stream.STDERR),
}

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # the reader or the terminal is gone

BROKEN_PIPE = 128 + signal.SIGPIPE
"""Exit status where nobody reads stdout any more, as a shell shows it of any program."""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    catch_signals()
    options = _parse(argv)
    try:
        return run_loop(lambda _signals: _Logs(options).run(), lambda: "output was shown")
    except Interrupted:  # the usual way to leave -f; there is nothing to say about it
        return Interrupted.exit_status


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser("logs", "[OPTIONS] [RUN]", DESCRIPTION)
    add_target_option(parser)
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on until the run is over, or Ctrl-C"
    )
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_count, help="begin with the last N lines; 0: none"
    )
    parser.add_argument(
        "--since",
        metavar="TIME|DURATION",
        type=moment,
        help="begin there: 10m ago, 2026-11-22T10:00 (local time), or with an offset or Z",
    )
    parser.add_argument(
        "-t",
        "--timestamps",
        action="store_true",
        help="write the local time before every line, as RFC 3339 has it",
    )
    parser.add_argument(
        "--stream", choices=_STREAMS, default="both", help="only this one (default: both)"
    )
    parser.add_argument("--raw", action="store_true", help="a terminal gets the bytes as they are")
    parser.add_argument(
        "run", metavar="RUN", nargs="?", type=reference, default=NEWEST, help=argparse.SUPPRESS
    )
    return parser.parse_args(argv)


def _count(word: str) -> int:
    if not (word.isascii() and word.isdigit()) or len(word) > 15:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of lines")
    return int(word)


class _Logs:
    """One ``psync logs``."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._streams = _STREAMS[options.stream]

    async def run(self) -> int:
        options = self._options
        config = configuration(options.on)
        spec = target_spec(config.find())
        paths = ClientPaths.from_environ(os.environ)
        others = bool(config.targets)
        if spec.local and nothing_local(paths, finished=True):
            raise no_run(options.run, spec.name, others=others)
        import_picows()
        from psync.client.target import Target

        target = Target(spec, paths, on_connection=_tell_connection)
        try:
            info = await find_run(target, options.run, others=others)
            offset = await self._beginning(target, info.id)
            run = await target.attach(
                info.id, offset=offset, read_only=True, times=options.timestamps
            )
            return await self._show(run, offset)
        finally:
            target.abandon()

    async def _beginning(self, target: Target, run_id: str) -> int:
        options = self._options
        if options.lines is None and options.since is None:
            return 0
        located = await target.locate(
            run_id,
            lines=options.lines,
            since=options.since,
            stream=self._streams[0] if len(self._streams) == 1 else None,
        )
        return located.offset

    async def _show(self, run: RemoteRun, offset: int) -> int:
        screen = Screen(raw=self._options.raw, timestamps=self._options.timestamps)
        end = None if self._options.follow else run.end_at_attach
        try:
            if end is None or offset < end:
                screen.watch(run.detach)
                await self._copy(run, screen, end)
            await screen.finish()
            if run.state is RunState.LOST:
                say("the run was lost: nobody knows how it ended")
        except (ProgramNotFound, ExecError) as error:  # then that is all there is to show
            say(error.message)
        except ConnectionLost:
            if not screen.unread:
                raise
        finally:
            screen.close()
            run.detach()
        return screen.result()

    async def _copy(self, run: RemoteRun, screen: Screen, end: int | None) -> None:
        async for piece in run.output():
            if not isinstance(piece, Output):
                say_now(f"{size(piece.end - piece.offset)} of output are gone there")
            elif piece.stream in self._streams and not await screen.show(piece, end):
                return
            if end is not None and piece.end >= end:
                return
        await run.wait()


class Screen:
    """This process's stdout and stderr, as a run's output goes to them.

    Where both lead to the same file one writer keeps the run's own order.

    Args:
        raw: a terminal gets the bytes as they are.
        timestamps: lines get the time at which they were written.

    Attributes:
        unread: whether ``watch`` has found that nobody reads stdout.
    """

    def __init__(self, *, raw: bool = False, timestamps: bool = False) -> None:
        import asyncio

        from psync.client.stdout import descriptor_writer

        self.unread = False
        self._loop = asyncio.get_running_loop()
        self._progress = asyncio.Event()
        self._written = 0
        out = descriptor_writer(1, self._progress.set)
        err = out if _same_file(1, 2) else descriptor_writer(2, self._progress.set)
        self._writers: dict[Stream, DescriptorWriter] = {Stream.STDOUT: out, Stream.STDERR: err}
        self._stampers = {stream: LineStamper() for stream in self._writers if timestamps}
        self._filters = {
            stream: TerminalFilter()
            for stream, fd in ((Stream.STDOUT, 1), (Stream.STDERR, 2))
            if not raw and os.isatty(fd)
        }

    async def show(self, piece: Output, end: int | None = None) -> bool:
        """Write a piece; return whether any more can be written, once it is.

        Args:
            piece: of the output.
            end: offset at which to stop.
        """
        data = piece.data if end is None else piece.data[: max(end - piece.offset, 0)]
        stamper = self._stampers.get(piece.stream)
        if stamper is not None:
            data = stamper.feed(data, piece.time)
        terminal = self._filters.get(piece.stream)
        if terminal is not None:
            data = terminal.feed(data)
        await self._write(piece.stream, data)
        return self._writers[Stream.STDOUT].failure is None

    def watch(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once nobody reads stdout any more, where it is a pipe.

        Otherwise only the next write would tell, and there may never be one.
        """
        if stat.S_ISFIFO(os.fstat(1).st_mode):
            self._loop.add_reader(1, self._look, call)  # epoll tells of errors as well

    async def finish(self) -> None:
        """Leave terminals as they were; return once everything is written."""
        for stream, terminal in self._filters.items():
            await self._write(stream, terminal.finish())

    def close(self) -> None:
        """Let go of everything, and leave terminals as they were as far as that needs no wait."""
        for stream, terminal in self._filters.items():
            rest = terminal.finish()
            if rest:
                self._writers[stream].write(self._written, rest)
        for writer in self._writers.values():
            writer.close()
        self._loop.remove_reader(1)

    async def _write(self, stream: Stream, data: bytes) -> None:
        writer = self._writers[stream]
        if data and not writer.write(self._written, data):
            self._written += len(data)
            while writer.first_waiting is not None and writer.failure is None:
                self._progress.clear()  # set in this loop only, so nothing is missed
                await self._progress.wait()

    def _look(self, call: Callable[[], None]) -> None:
        self._loop.remove_reader(1)
        poll = select.poll()
        poll.register(1, 0)
        if poll.poll(0):
            self.unread = True
            call()

    def result(self) -> int:
        """Return the exit status that the writing stands for.

        Raises:
            PsyncError: something could not be written, for another reason than a missing reader.
        """
        for writer in self._writers.values():
            if writer.failure is not None and writer.failure.errno not in _GONE:
                raise PsyncError(f"output could not be written: {writer.failure.strerror}")
        unread = self.unread or self._writers[Stream.STDOUT].failure is not None
        return BROKEN_PIPE if unread else 0


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def _tell_connection(error: PsyncError | None) -> None:
    if error is None:
        say_now("connected again; nothing of the output is lost")
    else:
        say_now(f"connection lost ({error.message}); reconnecting, Ctrl-C leaves")
