"""One transfer over the connection to the daemon: rsync's two ends here, a channel there.

    rsync ──▶ (arguments) OpenTransfer, Data stdin ──▶ daemon
    rsync ◀── Data stdout ◀── daemon        its stderr is kept, for messages

Everything is driven by the event loop: rsync has written something or takes more, the connection
does, the daemon has said something. What rsync writes is read only when the connection takes it and
the daemon's window has room, so that nothing is held here but what waits for rsync to read it, and
that is a window at most.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from psync.client.ends import Ends
from psync.client.lifeline import Lifeline
from psync.errors import ConnectionLost, ProtocolError, PsyncError, SyncError, from_code
from psync.model import Stream
from psync.protocol import messages as m
from psync.sync.carrier import Carried
from psync.sync.process import Tail
from psync.transport.link import FRONT

if TYPE_CHECKING:
    from psync.transport.link import Link

PIECE = m.MAX_PIECE - 64
"""Bytes of a transfer in a message, where the daemon takes as much. With all its headers it fills
eight TLS records of 16 KiB; a full message would need a ninth one for the last few bytes."""

SMALL_PIECE = 4096
"""Bytes of room in the window that are worth a message."""

BURST = 4
"""Pieces that are sent before others have their turn."""

ACK_EARLY = m.WINDOW_TRANSFER // 8
"""Bytes that rsync took of which the daemon is told. It need not know of fewer: its window is many
times that."""

END_TIMEOUT = 8.0
"""Seconds to wait for the end of the rsync on the other side, which its daemon kills after five."""


class Carriage:
    """Carries one transfer; see ``psync.sync.carrier.Carriage`` for what its user does with it.

    ``fd``, ``started`` and ``end`` are for the thread that runs the transfer. All else happens in
    the event loop, from ``started`` until ``end`` returns.

    Args:
        lifeline: the connection to the daemon.
        loop: its event loop.
        on_loss: called in the loop if the connection went away before the transfer was over.
        meeting: both ends of the socket over which rsync's remote shell hands over its own; this
            object's from now on.

    Attributes:
        grace: a transfer does not outlive its connection.
    """

    grace: float | None = 0.0

    def __init__(
        self,
        lifeline: Lifeline,
        loop: asyncio.AbstractEventLoop,
        on_loss: Callable[[], None],
        meeting: tuple[socket.socket, socket.socket],
    ) -> None:
        self._ours, self._theirs = meeting
        self._ours.setblocking(False)
        self._lifeline = lifeline
        self._loop = loop
        self._on_loss = on_loss
        self._link: Link | None = None
        self._channel: int | None = None  # while there is something on the other side
        self._error: PsyncError | None = None
        self._said = Tail()
        self._status: int | None = None
        self._given_up = False
        self._over = asyncio.Event()
        # to the daemon
        self._piece = PIECE
        self._buffer = memoryview(b"")
        self._window = m.WINDOW_TRANSFER
        self._sent = 0
        self._sent_acked = 0
        # from the daemon
        self._received = 0
        self._acked = 0
        self._ends = Ends(
            loop,
            on_request=self._open,
            on_readable=self._send,
            on_taken=self._on_taken,
            on_gone=self._give_up,
            on_failed=self._fail,
        )

    def __del__(self) -> None:
        # of one that nobody has used
        self._ours.close()
        self._theirs.close()

    # -- for the thread of the transfer ---------------------------------------------------------

    @property
    def fd(self) -> int:
        """The socket that rsync has to inherit."""
        return self._theirs.fileno()

    def started(self) -> None:
        """rsync was started, or could not be: its remote shell is waited for."""
        if self._theirs.fileno() != -1:
            self._theirs.close()
            self._loop.call_soon_threadsafe(self._ends.begin, self._ours)

    def end(self) -> Carried:
        """rsync here has ended: have the one there end as well, and say how it went."""
        return asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()

    async def _finish(self) -> Carried:
        self._give_up()
        try:
            async with asyncio.timeout(END_TIMEOUT):
                await self._over.wait()
        except TimeoutError:  # its daemon does not answer, or cannot end it and logs that
            self._leave()
        return Carried(self._error, self._said.value())

    # -- what the lifeline tells ------------------------------------------------------------------

    def on_message(self, message: m.Message) -> None:
        """Take what the daemon says; raises ``ProtocolError`` where that is not its to say."""
        if isinstance(message, m.Data):
            self._on_data(message)
        elif isinstance(message, m.Ack):
            if message.offset > self._sent:
                raise ProtocolError(f"offset {message.offset} acknowledged, only {self._sent} sent")
            self._sent_acked = max(self._sent_acked, message.offset)
            self._pump()
        elif isinstance(message, m.TransferEnded):
            self._on_ended(message.status)
        elif isinstance(message, m.Refused):
            self._fail(from_code(message.code, message.message, message.hint))
        else:
            raise ProtocolError(f"{type(message).__name__} is no part of a transfer")

    def on_lost(self, error: PsyncError) -> None:
        """The connection is gone, and the transfer with it."""
        self._on_loss()
        self._fail(
            ConnectionLost(
                f"the connection to {self._lifeline.name} was lost while files were sent: "
                f"{error.message}",
                hint="run it again; what arrived is kept and not sent twice",
            )
        )

    def on_connected(self) -> None:
        """Does not come: a transfer leaves with its connection."""

    def on_failed(self, error: PsyncError) -> None:
        """There will be no other connection."""
        self._fail(error)

    # -- to the daemon ----------------------------------------------------------------------------

    def _open(self, command: tuple[bytes, ...], arguments: bytes, rest: bytes) -> None:
        """Have rsync started on the other side."""
        link = self._lifeline.link
        try:
            if link is None:
                raise ConnectionLost("it is being made again")
            limits = link.peer.limits
            self._piece = min(limits.data, PIECE)
            self._buffer = memoryview(bytearray(FRONT + self._piece))
            self._window = min(limits.window, m.WINDOW_TRANSFER)
            self._channel, self._link = self._lifeline.join(self), link
            link.send(m.OpenTransfer(channel=self._channel, command=command, arguments=arguments))
            if rest:  # a greeting: nothing near any limit
                link.send(m.Data(self._channel, Stream.STDIN, 0, rest))
                self._sent = len(rest)
        except ConnectionLost as error:
            self.on_lost(error)
        except PsyncError as error:
            self._fail(error)
        else:
            self._lifeline.writers.add(self._pump)
            self._send()

    def _pump(self) -> None:
        """Go on, if there was no room before."""
        if self._ends.paused:
            self._send()

    def _send(self) -> None:
        """Send a burst of what rsync has written; wait for what is in the way of more."""
        link, channel = self._link, self._channel
        if link is None or channel is None:
            return
        try:
            for _ in range(BURST):
                room = self._room(link)
                if room == 0:
                    self._ends.read(False)
                    return
                count = self._ends.read_into(self._buffer[FRONT : FRONT + room])
                if count is None:
                    break
                if count == 0:
                    self._ends.close_input()
                    link.send(m.StdinEnd(channel, self._sent))
                    return
                message = self._buffer[: FRONT + count]
                link.send_piece(channel, Stream.STDIN, self._sent, message)
                self._sent += count
        except ConnectionLost as error:
            self.on_lost(error)
        else:
            self._ends.read(True)

    def _room(self, link: Link) -> int:
        """Return how much may be sent now; nothing rather than a crumb."""
        if not link.writable:
            return 0
        room = min(self._window - (self._sent - self._sent_acked), self._piece)
        return room if room >= min(SMALL_PIECE, self._piece, self._window) else 0

    # -- from the daemon --------------------------------------------------------------------------

    def _on_data(self, message: m.Data) -> None:
        if message.stream is Stream.STDERR:
            self._said.feed(message.data)
            return
        if message.offset != self._received:
            raise ProtocolError(
                f"output of a transfer at {message.offset}, which goes on at {self._received}"
            )
        self._received += len(message.data)
        if self._received - self._acked > m.WINDOW_TRANSFER:
            raise ProtocolError("the daemon sends more of a transfer than was asked for")
        if message.data and not self._given_up:  # else nobody wants it any more
            self._ends.write(message.data)

    def _on_taken(self) -> None:
        if self._ends.taken - self._acked >= ACK_EARLY and self._channel is not None:
            self._acked = self._ends.taken
            self._tell(m.Ack(self._channel, self._acked))
        self._answer()

    # -- the end ----------------------------------------------------------------------------------

    def _on_ended(self, status: int) -> None:
        """The rsync over there is gone, and all it wrote is here."""
        self._leave()
        self._ends.read(False)  # nobody is left for whom this one could still write something
        if status < 0 and not self._given_up:
            self._error = SyncError(
                f"rsync on {self._lifeline.name} was ended by {_signal_name(-status)}",
                hint="run it again; what arrived is kept and not sent twice",
            )
        self._status = status
        self._answer()

    def _answer(self) -> None:
        """Tell rsync the exit status, once it has got all that was for it."""
        if self._status is not None and not self._ends.waiting:
            self._ends.close(self._status)
            self._over.set()

    def _fail(self, error: PsyncError) -> None:
        """Nothing more comes from the daemon: have rsync here end."""
        self._leave()
        if self._error is None:
            self._error = error
        self._give_up()

    def _give_up(self) -> None:
        """Let go of rsync here, and have the one there end unless it has."""
        self._ends.close()
        if self._channel is None:
            self._over.set()
        elif not self._given_up:
            self._tell(m.CancelTransfer(channel=self._channel))
        self._given_up = True

    def _tell(self, message: m.Message) -> None:
        try:
            if self._link is not None:
                self._link.send(message)
        except ConnectionLost:
            pass  # ``on_lost`` comes

    def _leave(self) -> None:
        """There is nothing on the other side any more."""
        self._lifeline.writers.discard(self._pump)
        channel, self._channel = self._channel, None
        if channel is not None:
            self._lifeline.leave(channel)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
