"""One run on a daemon host, as its client sees it.

    start ──▶ Start ──▶ Attached ──▶ output, acknowledgements, stdin, signals ──▶ Exited
                │                        │
                └── connection lost ─────┴── Start again, or Attach at the next byte

The daemon knows a ``Start`` it has seen by its request ID, and a byte by its offset. So the same
words said again on a new connection start nothing twice and deliver nothing twice.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from psync.client.lifeline import Lifeline
from psync.errors import ConnectionLost, ProtocolError, PsyncError, UsageError, from_code
from psync.model import ExitStatus, RunSpec, Stream
from psync.protocol import messages as wire
from psync.protocol.flow import Inbound, Outbound

ACK_BYTES = 256 * 1024
"""So many bytes written out are acknowledged at once; a sixteenth of the window."""

ACK_DELAY = 0.05
"""Seconds after which fewer bytes are acknowledged as well."""


class Output(msgspec.Struct, frozen=True):
    """A piece of a run's output.

    Attributes:
        stream: ``STDOUT`` or ``STDERR``.
        offset: position of its first byte in the run's output, both streams counted together.
        data: the bytes as the program wrote them; pieces do not follow lines.
    """

    stream: Stream
    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """Position after its last byte."""
        return self.offset + len(self.data)


class Gap(msgspec.Struct, frozen=True):
    """Output from ``offset`` to ``end`` was dropped on the daemon host, by the overflow policy."""

    offset: int
    end: int


class RemoteRun:
    """A run and this client's attachment to it. Made by ``Target.start``.

    Belongs to one event loop. Losing the connection does not end it: it is made again, and output
    and stdin go on where they stopped, for as long as the daemon keeps the run without a client.

    Output must be consumed: once 4 MiB of it are waiting here, the daemon sends no more and the
    program, in the end, blocks, as it would on a pipe that nobody reads.

    Attributes:
        spec: what was asked for.
        id: the run's ID; empty until the daemon has answered.
        grace: seconds the daemon keeps the run without a client, None for ever.
        connected: whether there is a connection now.
        stdin_closed: whether the program closed its stdin; writing more is pointless.
    """

    def __init__(self, lifeline: Lifeline, spec: RunSpec) -> None:
        self.spec = spec
        self.id = ""
        self.grace = spec.disconnect_grace
        self.connected = False
        self.stdin_closed = False
        self._lifeline = lifeline
        self._request_id = os.urandom(24).hex()
        self._channel = 0
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._started: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[ExitStatus] = loop.create_future()
        for future in (self._started, self._ended):
            future.add_done_callback(_mark_retrieved)
        self._output = Inbound()
        self._sink: Callable[[Output | Gap], None] | None = None
        self._waiting: deque[Output | Gap] = deque()
        self._news = asyncio.Event()
        self._consumed = 0
        self._dropped = 0
        self._acked = 0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._stdin = Outbound(wire.WINDOW_STDIN)
        self._stdin_ended = False
        self._room = asyncio.Event()
        self._on_room: Callable[[], None] = lambda: None
        self._closed_outputs: list[Stream] = []

    # -- life -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send the start request; everything sent afterwards stays behind it.

        Raises:
            ConnectionLost: there is no connection.
            UsageError: arguments and environment do not fit into one message.
        """
        self._channel = self._lifeline.join(self)
        try:
            self._send_start()
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
        """Wait until the daemon has accepted the run; ``id`` is known then.

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

    def detach(self) -> None:
        """Leave the run to itself. It goes on, and is stopped after its grace like any other."""
        if self._ended.done():
            return
        if self.connected:
            self._try_send(wire.Detach(channel=self._channel))
        self._finish(ConnectionLost("this side left the run"))

    # -- output ---------------------------------------------------------------------------------

    async def output(self) -> AsyncIterator[Output | Gap]:
        """Yield the output as it arrives, from its beginning to its end.

        Asking for the next piece acknowledges the one before it: that means it has been dealt
        with for good. Only one iteration may be going on; a later one continues behind it.

        Raises:
            PsyncError: as ``wait``, where the run ends without a proper end of its output.

        Leaving the iteration loses nothing: pieces not yet yielded stay.
        """
        while True:
            while self._waiting:
                piece = self._waiting.popleft()
                yield piece
                self.consumed(piece.end)
            if self._ended.done():
                self._ended.result()
                return
            self._news.clear()
            await self._news.wait()

    def deliver_to(self, sink: Callable[[Output | Gap], None]) -> None:
        """Have ``sink`` called with every piece the moment it arrives, instead of ``output``.

        For consumers that must not lose a turn of the event loop. The sink must not block, and
        ``consumed`` must be called as pieces have been dealt with.
        """
        self._sink = sink
        while self._waiting:
            sink(self._waiting.popleft())

    def consumed(self, offset: int) -> None:
        """Everything below ``offset`` has been dealt with and need never be sent again."""
        if offset <= self._consumed:
            return
        self._consumed = offset
        if offset >= self._output.offset:
            self._dropped = 0
        if offset - self._acked >= ACK_BYTES:
            self._send_ack()
        elif self._ack_timer is None:
            self._ack_timer = self._loop.call_later(ACK_DELAY, self._send_ack)

    def close_output(self, stream: Stream) -> None:
        """Nobody reads ``stream`` any more: the program gets SIGPIPE when it writes to it."""
        if stream not in self._closed_outputs:
            self._closed_outputs.append(stream)
            if self.connected:
                self._try_send(wire.CloseOutput(channel=self._channel, stream=stream))

    # -- stdin, signals -------------------------------------------------------------------------

    @property
    def stdin_room(self) -> int:
        """How many bytes of stdin may be sent now without waiting."""
        return 0 if self.stdin_closed or self._stdin_ended else self._stdin.room

    def on_stdin_room(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever ``stdin_room`` has grown, and when stdin was closed."""
        self._on_room = call

    def send_stdin(self, data: bytes) -> None:
        """Send at most ``stdin_room`` bytes of stdin; returns at once.

        Without a connection they are kept and sent on the next one.

        Raises:
            ValueError: more than ``stdin_room``.
        """
        for start in range(0, len(data), wire.MAX_DATA):
            piece = data[start : start + wire.MAX_DATA]
            offset = self._stdin.push(piece)
            if self.connected:
                self._try_send(wire.Data(self._channel, Stream.STDIN, offset, piece))

    async def write_stdin(self, data: bytes) -> None:
        """Send ``data`` to the program's stdin, waiting while the program is slow to read.

        Raises:
            BrokenPipeError: the program closed its stdin, or the run is over.

        Cancellation may leave the first part of ``data`` sent.
        """
        rest = memoryview(data)
        while len(rest):
            if self.stdin_closed or self._stdin_ended or self._ended.done():
                raise BrokenPipeError(32, "the program does not read its stdin any more")
            room = self._stdin.room
            if room:
                self.send_stdin(bytes(rest[:room]))
                rest = rest[room:]
            else:
                self._room.clear()
                await self._room.wait()

    def close_stdin(self) -> None:
        """End the program's stdin after what was sent."""
        if self._stdin_ended:
            return
        self._stdin_ended = True
        if self.connected:
            self._try_send(wire.StdinEnd(self._channel, self._stdin.offset))

    def signal(self, name: str) -> None:
        """Send the signal called ``name``, such as ``"SIGINT"``, to the run's process group.

        Raises:
            ConnectionLost: there is no connection now. One that is lost right afterwards may take
                the signal with it.
        """
        self._send(wire.Signal(channel=self._channel, name=name))

    def stop(self, *, kill: bool = False) -> None:
        """End the run with everything it started.

        Args:
            kill: False sends SIGTERM to every process of the run, which a program may take its
                time to act on; True kills until none is left.

        Raises:
            ConnectionLost: there is no connection now.
        """
        self._send(wire.Stop(channel=self._channel, kill=kill))

    # -- what the lifeline tells ----------------------------------------------------------------

    def on_message(self, message: wire.Message) -> None:
        """Act on what the daemon says about this run."""
        if isinstance(message, wire.Data):
            self._on_data(message)
        elif isinstance(message, wire.Ack):
            self._stdin.ack(message.offset)
            self._more_room()
        elif isinstance(message, wire.Attached):
            self._on_attached(message)
        elif isinstance(message, wire.Exited):
            self._on_exited(message)
        elif isinstance(message, wire.Refused):
            self._finish(from_code(message.code, message.message, message.hint))
        elif isinstance(message, wire.StdinClosed):
            self.stdin_closed = True
            self._more_room()
        elif isinstance(message, wire.Gap):
            lost = self._output.skip(message.start, message.end)
            if lost:
                self._dropped += lost
                self._emit(Gap(message.end - lost, message.end))

    def on_lost(self, _error: PsyncError) -> None:
        """Keep everything until there is another connection."""
        self.connected = False

    def on_connected(self) -> None:
        """Say on a new connection what the daemon has to know."""
        self.connected = True
        if self.id:
            # What waits here unconsumed is sent once more and dropped. Asking for what follows it
            # would save that, and let the daemon send a whole window on top at every reconnection.
            self._acked = self._consumed
            self._try_send(wire.Attach(channel=self._channel, run=self.id, offset=self._consumed))
        else:
            self._send_start()
            self._send_stdin_again()
        for stream in self._closed_outputs:
            self._try_send(wire.CloseOutput(channel=self._channel, stream=stream))

    def on_failed(self, error: PsyncError) -> None:
        """Nothing more will come."""
        self._finish(error)

    # -- inside ---------------------------------------------------------------------------------

    def _send_start(self) -> None:
        self._lifeline.send(
            wire.Start(channel=self._channel, request_id=self._request_id, spec=self.spec)
        )

    def _on_attached(self, message: wire.Attached) -> None:
        again = bool(self.id)
        self.id = message.run
        if not self._started.done():
            self._started.set_result(None)
        if again and not message.state.final:
            self._stdin.ack(message.stdin)
            self._send_stdin_again()
            self._more_room()

    def _send_stdin_again(self) -> None:
        for offset, data in self._stdin.unacknowledged():
            self._try_send(wire.Data(self._channel, Stream.STDIN, offset, data))
        if self._stdin_ended:
            self._try_send(wire.StdinEnd(self._channel, self._stdin.offset))

    def _on_data(self, message: wire.Data) -> None:
        data = self._output.accept(message.offset, message.data)
        if not data:
            return
        end = self._output.offset
        if end - self._consumed - self._dropped > wire.WINDOW_OUTPUT:
            raise ProtocolError("the daemon sends more output than was asked for")
        self._emit(Output(message.stream, end - len(data), data))

    def _emit(self, piece: Output | Gap) -> None:
        if self._sink is not None:
            self._sink(piece)
        else:
            self._waiting.append(piece)
            self._news.set()

    def _on_exited(self, message: wire.Exited) -> None:
        if message.end != self._output.offset:
            raise ProtocolError(
                f"the run's output ends at {message.end}, and {self._output.offset} bytes came"
            )
        self._try_send(wire.Detach(channel=self._channel))  # the daemon may forget the channel
        if message.error is not None:
            self._finish(from_code(message.error, message.message))
        else:
            self._finish(message.status)

    def _finish(self, outcome: ExitStatus | PsyncError) -> None:
        if self._ended.done():
            return
        self.connected = False
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
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
        self._news.set()
        self._more_room()

    def _more_room(self) -> None:
        self._room.set()
        self._on_room()

    def _send_ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self.connected and self._consumed > self._acked:
            self._acked = self._consumed
            self._try_send(wire.Ack(self._channel, self._consumed))

    def _send(self, message: wire.Message) -> None:
        if self._ended.done():
            return
        if not self.connected:
            raise ConnectionLost("there is no connection to the daemon now")
        self._lifeline.send(message)

    def _try_send(self, message: wire.Message) -> None:
        """Send what is said again anyway, should the connection just have ended."""
        try:
            self._lifeline.send(message)
        except ConnectionLost:
            pass


def _mark_retrieved(future: asyncio.Future[None] | asyncio.Future[ExitStatus]) -> None:
    """Keep asyncio from complaining about an outcome that nobody asked for."""
    if not future.cancelled():
        future.exception()
