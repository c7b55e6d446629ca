"""One run on a daemon host, as its client sees it.

    start ──▶ Start ──▶ Attached ──▶ output, acknowledgements, stdin, signals ──▶ Exited
                │                        │
                └── connection lost ─────┴── Start again, or Attach at the next byte

The daemon knows a ``Start`` it has seen by its request ID, an attachment by its viewer ID, and a
byte by its offset. So the same words said again on a new connection start nothing twice and deliver
nothing twice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import msgspec

from psync.client.incoming import ACK_BYTES as ACK_BYTES, Incoming
from psync.client.lifeline import Lifeline
from psync.client.outgoing import Outgoing
from psync.client.pieces import Gap as Gap, Output as Output
from psync.errors import ConnectionLost, ProtocolError, PsyncError, Refused, UsageError, from_code
from psync.model import ExitStatus, RunSpec, RunState, Stream
from psync.protocol import messages as wire


class Existing(msgspec.Struct, frozen=True):
    """A run that is there already, and how to look at it.

    Attributes:
        id: the run's ID.
        offset: where in its output to begin.
        read_only: send it neither stdin nor signals.
        times: have the daemon say when output was written.
        grace: seconds the daemon keeps it without a client, None for ever, or where nobody knows.
    """

    id: str
    offset: int = 0
    read_only: bool = False
    times: bool = False
    grace: float | None = None


class RemoteRun:
    """A run and this client's attachment to it. Made by ``Target.start`` and ``Target.attach``.

    Belongs to one event loop. Losing the connection does not end it: it is made again, and output
    and stdin go on where they stopped, for as long as the daemon keeps the run without a client.

    Output must be consumed: once 4 MiB of it are waiting here, the daemon sends no more and the
    program, in the end, blocks, as it would on a pipe that nobody reads.

    Attributes:
        spec: what was asked for; None where the run was there already.
        id: the run's ID; empty until the daemon has answered.
        state: the run's state, as this client knows it.
        grace: seconds the daemon keeps the run without a client, None for ever.
        read_only: whether this attachment only looks.
        connected: whether there is a connection now.
        end_at_attach: length of the run's output when the daemon answered for the first time.
    """

    def __init__(self, lifeline: Lifeline, what: RunSpec | Existing) -> None:
        spec, existing = (None, what) if isinstance(what, Existing) else (what, None)
        self.spec = spec
        self.id = existing.id if existing else ""
        self.state = RunState.STARTING
        self.grace = what.grace if isinstance(what, Existing) else what.disconnect_grace
        self.read_only = existing is not None and existing.read_only
        self.connected = False
        self.end_at_attach = 0
        self._existing = existing
        self._lifeline = lifeline
        self._viewer = os.urandom(24).hex()
        self._channel = 0
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[ExitStatus] = loop.create_future()
        for future in (self._started, self._ended):
            future.add_done_callback(_mark_retrieved)
        self._output = Incoming(existing.offset if existing else 0, self._acknowledge)
        self._stdin = Outgoing(self._try_send, held=existing is None)
        if self.read_only:
            self._stdin.never()
        self._closed_outputs: list[Stream] = []

    # -- life -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send the request to start or to attach; everything sent afterwards stays behind it.

        Raises:
            ConnectionLost: there is no connection.
            UsageError: arguments and environment do not fit into one message.
            ProtocolError: the run needs something that the daemon's version cannot do.
        """
        if self.spec is not None:
            self._lifeline.understood(self.spec)
        self._channel = self._stdin.channel = self._lifeline.join(self)
        try:
            self._send_request()
        except ProtocolError as error:
            self._lifeline.leave(self._channel)
            raise UsageError(
                f"the program's arguments and environment are too long: {error.message}",
                hint="pass long lists in a file",
            ) from error
        except BaseException:
            self._lifeline.leave(self._channel)
            raise
        self.connected = True

    async def started(self) -> None:
        """Wait until the daemon has accepted the run or the attachment; ``id`` is known then.

        Raises:
            Refused: the daemon said no, and nothing was started.
            PsyncError: as ``wait``.
        """
        await asyncio.shield(self._started)

    async def wait(self) -> ExitStatus:
        """Wait for the end of the run. Does not read its output; somebody else must.

        Returns:
            How it ended. ``lost`` in it means that nobody knows.

        Raises:
            ProgramNotFound, ExecError: the program was not executed.
            Refused: the daemon said no, and nothing was started.
            ConnectionLost: no connection for longer than the run's grace, or closed by this side.
            TrustError, ProtocolError: the daemon does not talk to this client any more.

        Cancellation changes nothing; the run goes on and ``wait`` can be called again.
        """
        return await asyncio.shield(self._ended)

    def detach(self, *, keep: bool = False) -> None:
        """Leave the run to itself, on purpose: it goes on, and can be attached to again.

        Args:
            keep: from now on it needs no client, whatever its disconnect policy was. A daemon of an
                older version does not know that; ``grace`` says what holds.
        """
        if self._ended.done():
            return
        if self.connected:
            keep = keep and "keep" in self._lifeline.features
            if keep:
                self.grace = None
            self._try_send(wire.Detach(channel=self._channel, keep=keep))
        self._finish(ConnectionLost("this side left the run"))

    # -- output ---------------------------------------------------------------------------------

    async def output(self) -> AsyncIterator[Output | Gap]:
        """Yield the output as it arrives, up to its end.

        Asking for the next piece acknowledges the one before it: that means it has been dealt
        with for good. Only one iteration may be going on; a later one continues behind it.

        Raises:
            PsyncError: as ``wait``, where the run ends without a proper end of its output.

        Leaving the iteration loses nothing: pieces not yet yielded stay.
        """
        output = self._output
        while True:
            while output.waiting:
                piece = output.waiting.popleft()
                yield piece
                self.consumed(piece.end)
            if self._ended.done():
                self._ended.result()
                return
            output.news.clear()
            await output.news.wait()

    def deliver_to(self, sink: Callable[[Output | Gap], None]) -> None:
        """Have ``sink`` called with every piece the moment it arrives, instead of ``output``.

        For consumers that must not lose a turn of the event loop. The sink must not block, and
        ``consumed`` must be called as pieces have been dealt with.
        """
        self._output.deliver_to(sink)

    def consumed(self, offset: int) -> None:
        """Everything below ``offset`` has been dealt with and need never be sent again."""
        self._output.reader_at(offset)

    def close_output(self, stream: Stream) -> None:
        """Nobody reads ``stream`` any more: the program gets SIGPIPE when it writes to it.

        An attachment that only looks changes nothing by it.
        """
        if stream not in self._closed_outputs and not self.read_only:
            self._closed_outputs.append(stream)
            self._try_send(wire.CloseOutput(channel=self._channel, stream=stream))

    # -- stdin, signals -------------------------------------------------------------------------

    @property
    def stdin_room(self) -> int:
        """How many bytes of stdin may be sent now without waiting."""
        return self._stdin.room

    @property
    def stdin_closed(self) -> bool:
        """Whether the program closed its stdin; writing more is pointless."""
        return self._stdin.closed

    @property
    def holds_stdin(self) -> bool:
        """Whether stdin is this attachment's; one attachment to a run has it at a time."""
        return self._stdin.held

    @property
    def waits_for_stdin(self) -> bool:
        """Whether it is not known yet who holds stdin."""
        return not self._stdin.begun

    @property
    def holder(self) -> str | None:
        """Who holds stdin where it is another attachment, for people."""
        return self._stdin.holder

    def on_stdin_room(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever ``stdin_room`` has grown, and when stdin was closed."""
        self._stdin.on_room = call

    def on_stdin_holder(self, call: Callable[[int], None]) -> None:
        """Have ``call`` called when stdin changed hands, and when it turns out to be another's.

        It is given how many bytes sent from here the program perhaps did not get; they are dropped.
        """
        self._stdin.on_holder = call

    def send_stdin(self, data: bytes) -> None:
        """Send at most ``stdin_room`` bytes of stdin; returns at once.

        Without a connection they are kept and sent on the next one.

        Raises:
            ValueError: more than ``stdin_room``.
        """
        self._stdin.send(data)

    async def write_stdin(self, data: bytes) -> None:
        """Send ``data`` to the program's stdin, waiting while the program is slow to read.

        Raises:
            BrokenPipeError: the program closed its stdin, or the run is over.
            Refused: another attachment holds stdin, or this one only looks.

        Cancellation may leave the first part of ``data`` sent.
        """
        await self._stdin.write(data)

    def close_stdin(self) -> None:
        """End the program's stdin after what was sent, if this attachment holds it."""
        self._stdin.end()

    def signal(self, name: str) -> None:
        """Send the signal called ``name``, such as ``"SIGINT"``, to the run's process group.

        Raises:
            ConnectionLost: there is no connection now. One that is lost right afterwards may take
                the signal with it.
            Refused: this attachment only looks.
        """
        self._send(wire.Signal(channel=self._channel, name=name))

    def stop(
        self, *, kill: bool = False, signal: str | None = None, grace: float | None = None
    ) -> None:
        """End the run with everything it started.

        Args:
            kill: False sends SIGTERM to every process of the run, which a program may take its
                time to act on; True kills until none is left.
            signal: climb down the ladder instead: this signal to the process group, SIGTERM to
                every process after ``grace``, then the kill.
            grace: seconds for each step of it; the daemon's default is ten.

        Raises:
            ConnectionLost: there is no connection now.
            Refused: this attachment only looks.
            ProtocolError: the daemon's version cannot climb down the ladder.
        """
        if signal is None and grace is None:
            self._send(wire.Stop(channel=self._channel, kill=kill))
            return
        self._lifeline.need("ladder", "stop a run step by step")
        message = wire.Stop(channel=self._channel, kill=kill, signal=signal or "SIGTERM")
        self._send(message if grace is None else msgspec.structs.replace(message, grace=grace))

    # -- what the lifeline tells ----------------------------------------------------------------

    def on_message(self, message: wire.Message) -> None:
        """Act on what the daemon says about this run."""
        match message:
            case wire.Data():
                self._output.on_data(message)
            case wire.Ack():
                self._stdin.on_ack(message.offset)
            case wire.Attached():
                self._on_attached(message)
            case wire.Exited():
                self._on_exited(message)
            case wire.Refused():
                self._finish(from_code(message.code, message.message, message.hint))
            case wire.StdinClosed():
                self._stdin.on_closed()
            case wire.StdinHolder():
                if not self.read_only:
                    self._stdin.on_holder_changed(message.offset, message.holder)
            case wire.Times():
                self._output.on_times(message)
            case wire.Gap():
                self._output.on_gap(message)

    def on_lost(self, _error: PsyncError) -> None:
        """Keep everything until there is another connection."""
        self.connected = False

    def on_connected(self) -> None:
        """Say on a new connection what the daemon has to know."""
        self.connected = True
        self._stdin.pause()
        try:
            self._send_request()
        except ConnectionLost:
            return  # it is said again on the next one
        except ProtocolError as error:  # another daemon than the one before, an older one
            self._finish(error)
            return
        for stream in self._closed_outputs:
            self._try_send(wire.CloseOutput(channel=self._channel, stream=stream))

    def on_failed(self, error: PsyncError) -> None:
        """Nothing more will come."""
        self._finish(error)

    # -- inside ---------------------------------------------------------------------------------

    def _send_request(self) -> None:
        if not self.id and self.spec is not None:
            spec = self._lifeline.understood(self.spec)
            start = wire.Start(channel=self._channel, request_id=self._viewer, spec=spec)
            self._lifeline.send(start)
            return
        existing = self._existing
        self._lifeline.send(
            wire.Attach(
                channel=self._channel,
                run=self.id,
                offset=self._output.resume(),
                # an older daemon knows neither this nor what an ``Existing`` may ask for
                viewer=self._viewer if "viewers" in self._lifeline.features else None,
                read_only=self.read_only,
                times=existing is not None and existing.times,
            )
        )

    def _on_attached(self, message: wire.Attached) -> None:
        first = not self._started.done()
        again = bool(self.id)
        self.id = message.run
        self.state = message.state
        if first:
            self.end_at_attach = message.end
            self._started.set_result(None)
        if self.read_only or message.state.final:
            return
        if again or self._stdin.paused or message.holder is not None:
            self._stdin.on_attached(message.stdin, message.holder)

    def _on_exited(self, message: wire.Exited) -> None:
        if message.end != self._output.end:
            raise ProtocolError(
                f"the run's output ends at {message.end}, and {self._output.end} bytes came"
            )
        self.state = RunState.LOST if message.status.lost else RunState.EXITED
        self._try_send(wire.Detach(channel=self._channel))  # the daemon may forget the channel
        if message.error is not None:
            self._finish(from_code(message.error, message.message))
        else:
            self._finish(message.status)

    def _finish(self, outcome: ExitStatus | PsyncError) -> None:
        if self._ended.done():
            return
        self.connected = False
        self._lifeline.leave(self._channel)
        if isinstance(outcome, ExitStatus):
            self._ended.set_result(outcome)
        else:
            self._ended.set_exception(outcome)
        if not self._started.done():
            if isinstance(outcome, ExitStatus):
                self._started.set_result(None)
            else:
                self._started.set_exception(outcome)
        self._output.close()
        self._stdin.on_closed()

    def _acknowledge(self, offset: int) -> None:
        self._try_send(wire.Ack(self._channel, offset))

    def _send(self, message: wire.Message) -> None:
        if self.read_only:
            raise Refused("this attachment to the run only looks at it")
        if self._ended.done():
            return
        if not self.connected:
            raise ConnectionLost("there is no connection to the daemon now")
        self._lifeline.send(message)

    def _try_send(self, message: wire.Message) -> None:
        """Send what is said again anyway, should there be no connection now."""
        if not self.connected:
            return
        try:
            self._lifeline.send(message)
        except ConnectionLost:
            pass


def _mark_retrieved(future: asyncio.Future[None] | asyncio.Future[ExitStatus]) -> None:
    """Keep asyncio from complaining about an outcome that nobody asked for."""
    if not future.cancelled():
        future.exception()
