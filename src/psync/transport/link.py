"""The shell around the protocol machine: one TLS websocket, its clock and its buffers.

A ``Link`` owns everything that is I/O about a connection (the socket, the heartbeat timer, flow
control, the closing ladder) and decides nothing about the protocol: it pumps messages between
picows and ``psync.protocol.connection.Connection``.

picows was chosen over websockets because this is the path of all output: on the machine where
psync was first measured it moved 2.5 GB/s in 64 KiB messages with TLS against 0.94 GB/s, and its
echo round trip was 95 µs against 210 µs. Both were measured in one run, both ends in Python.

Everything here runs in the event loop's thread. Callbacks are called from the loop and must not
block; what they raise closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import picows

from psync.errors import ConnectionLost, ProtocolError, PsyncError
from psync.protocol.codec import HEADER, MAX_MESSAGE
from psync.protocol.connection import Connection, Side, State
from psync.protocol.messages import MAX_CONTROL, Data, Hello, Message

WRITE_HIGH_WATER = 512 * 1024
"""Bytes in the transport's buffer above which ``writable`` turns False. Large enough for eight full
messages in flight, small enough that a control message never waits behind more than that."""

MOST_UNSENT = 8 * 1024 * 1024
"""Bytes that may wait to be sent. Data waits for ``writable``, so these are answers to a peer that
goes on asking and does not read; more of them end the connection."""

UNSENT = 128 * 1024
"""Bytes that the kernel holds of a connection before it sends them. What it was given cannot be
overtaken any more, and left to itself it takes megabytes."""

_WEBSOCKET_HEADER = 14  # bytes that picows wants in front of a message (RFC 6455, 5.2)

HEADROOM = _WEBSOCKET_HEADER + HEADER.size
"""Bytes that ``send_data`` needs in front of a piece."""

FRONT = HEADER.size
"""Bytes that ``send_piece`` needs in front of a piece."""

CLOSE_TIMEOUT = 2.0
"""Seconds the peer has to answer a closing handshake before the socket is dropped."""

logger = logging.getLogger("psync.link")
logger.setLevel(logging.WARNING)  # picows logs every connection twice; the daemon says it in words


def _ignore(*_arguments: object) -> None:
    return None


class Link(picows.WSListener):
    """One open connection. Made by ``connect`` and by the daemon's listener, never directly.

    Attributes:
        on_message: called with every message that is not dealt with by the protocol machine.
        on_closed: called exactly once when the connection is over; None when this side closed it
            without an error, else why it ended.
        on_writable: called when ``writable`` has become True again.
        on_open: called once when the peer's hello has come; ``peer`` is set then.
        writable: False while more than ``WRITE_HIGH_WATER`` bytes wait to be sent. Senders of data
            respect it; control messages may be sent all the same.
        address: the peer's address, for people; empty for a unix socket.
        certificate: the peer's certificate (DER).

    Args:
        side: which end this is.
        hello: what this end says first.
        message: largest control message taken, in bytes. The protocol's own limit stays.
    """

    def __init__(self, side: Side, hello: Hello, *, message: int = MAX_CONTROL) -> None:
        self.on_message: Callable[[Message], None] = _ignore
        self.on_closed: Callable[[PsyncError | None], None] = _ignore
        self.on_writable: Callable[[], None] = _ignore
        self.on_open: Callable[[], None] = _ignore
        self.writable = True
        self.address = ""
        self.certificate = b""
        self._end = "the connection to the other side was cut"
        self._largest = message
        self._side = side
        self._loop = asyncio.get_running_loop()
        self._machine = Connection(side, hello, self._loop.time())
        self._transport: picows.WSTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # -- what the owner calls ----------------------------------------------------------

    @property
    def peer(self) -> Hello:
        """The peer's hello.

        Raises:
            ConnectionLost: the connection was never open.
        """
        if self._machine.peer is None:
            raise self._machine.failure or ConnectionLost("the peer has not said hello")
        return self._machine.peer

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._machine.state is State.OPEN

    @property
    def heard_at(self) -> float:
        """When the peer was heard last, on the event loop's clock."""
        return self._machine.heard_at

    def send(self, message: Message) -> None:
        """Send ``message``; returns at once, whatever the network does.

        Raises:
            ConnectionLost: the connection is not open.
            ProtocolError: the message is too large.
        """
        self._write(self._machine.send(message))
        self._check_unsent()

    def send_data(self, channel: int, stream: int, offset: int, buffer: bytearray) -> None:
        """Send a piece of a stream without copying it.

        Args:
            channel: the attachment.
            stream: the stream's number.
            offset: where the piece stands in it.
            buffer: ``HEADROOM`` bytes for headers, then the piece, no more than the peer takes. It
                is handed over: it may not be used again.

        Raises:
            ConnectionLost: as ``send``.
        """
        self._machine.check_open()
        HEADER.pack_into(buffer, _WEBSOCKET_HEADER, Data.TYPE, stream, channel, offset)
        if self._transport is not None:
            self._transport.send_reuse_external_bytearray(
                picows.WSMsgType.BINARY, buffer, _WEBSOCKET_HEADER
            )

    def send_piece(self, channel: int, stream: int, offset: int, buffer: memoryview) -> None:
        """Send a piece of a stream; the buffer may be used again at once.

        For a client's pieces, which are masked on their way into a buffer of picows' that is used
        again as well. A daemon's would be copied for nothing: see ``send_data``.

        Args:
            channel, stream, offset: as for ``send_data``.
            buffer: ``FRONT`` bytes for a header, then the piece, no more than the peer takes.

        Raises:
            ConnectionLost: as ``send``.
        """
        self._machine.check_open()
        HEADER.pack_into(buffer, 0, Data.TYPE, stream, channel, offset)
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.BINARY, buffer)

    def close(self, error: PsyncError | None = None) -> None:
        """Close the connection; an ``error`` is told to the peer. Calling it again does nothing."""
        self._machine.close(error)
        self._wind_down()

    async def wait_closed(self) -> None:
        """Wait until the socket is gone; bounded by ``CLOSE_TIMEOUT`` once ``close`` was called."""
        await asyncio.shield(self._gone)

    # -- what picows calls -------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Take the transport over; the client's hello goes out."""
        self._transport = transport
        under = transport.underlying_transport
        under.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        limit_unsent(under.get_extra_info("socket"))
        peer = under.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        tls = under.get_extra_info("ssl_object")
        self.certificate = tls.getpeercert(binary_form=True) or b""
        self._pump()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Hand one websocket message to the machine and its meaning to the owner."""
        kind = frame.msg_type
        if kind == picows.WSMsgType.BINARY and frame.fin:
            was_open = self._machine.state is State.OPEN
            payload = frame.get_payload_as_memoryview()  # valid until this returns
            if frame.payload_size > HEADER.size + self._largest and payload[0] != Data.TYPE:
                self.close(
                    ProtocolError(
                        f"a message of {frame.payload_size - HEADER.size} bytes is over the "
                        f"other side's limit of {self._largest}",
                        hint="raise message in [limits] of the daemon's configuration",
                    )
                )
                return
            message = self._machine.receive(payload, self._loop.time())
            if message is not None:
                if was_open:
                    self._deliver(message)
                else:
                    self._pump()
                    self.on_open()
                    return
        elif kind == picows.WSMsgType.CLOSE:
            self._end = "the other side closed the connection"
            if frame.get_close_code() == picows.WSCloseCode.MESSAGE_TOO_BIG:
                self._end += ": a message was too large for it"
            transport.send_close(frame.get_close_code() or picows.WSCloseCode.OK)
            transport.disconnect()
        else:
            self._machine.close(ProtocolError("only whole binary messages are psync.v1"))
        self._pump()

    def on_ws_disconnected(self, _transport: picows.WSTransport) -> None:
        """Tell the owner, once, that it is over and why."""
        failure = self._machine.failure
        if failure is None and self._machine.state is not State.CLOSED:
            failure = ConnectionLost(self._end)
        self._machine.close()
        for timer in (self._timer, self._closing):
            if timer is not None:
                timer.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        self.on_closed(failure)

    def pause_writing(self) -> None:
        """Note that the transport's buffer is above its high-water mark."""
        self.writable = False

    def resume_writing(self) -> None:
        """Note that the transport's buffer has drained, and tell the owner."""
        self.writable = True
        self.on_writable()

    # -- inside ------------------------------------------------------------------------

    def _deliver(self, message: Message) -> None:
        try:
            self.on_message(message)
        except PsyncError as error:  # the owner found the message wrong: end it like any breach
            self.close(error)

    def _write(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.BINARY, message)

    def _check_unsent(self) -> None:
        if self.writable or self._transport is None or not self.open:
            return
        unsent = self._transport.underlying_transport.get_write_buffer_size()
        if unsent > MOST_UNSENT:
            self.close(ConnectionLost(f"{unsent} bytes wait to be read by the other side"))

    def _pump(self) -> None:
        for message in self._machine.take_outgoing():
            self._write(message)
        self._check_unsent()
        if self._machine.state is State.CLOSED:
            self._wind_down()
        elif self._timer is None:
            self._arm()

    def _arm(self) -> None:
        deadline = self._machine.deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._machine.tick(self._loop.time())
        self._pump()

    def _wind_down(self) -> None:
        for message in self._machine.take_outgoing():
            self._write(message)
        if self._transport is None or self._closing is not None:
            return
        failed = self._machine.failure is not None
        code = picows.WSCloseCode.PROTOCOL_ERROR if failed else picows.WSCloseCode.OK
        self._transport.send_close(code)
        self._transport.disconnect()
        self._closing = self._loop.call_later(CLOSE_TIMEOUT, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.underlying_transport.abort()


def limit_unsent(sock: Any) -> None:
    """Have the kernel take no more than ``UNSENT`` bytes beyond what is on its way.

    Does nothing where the system cannot, and for a unix socket.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if sock is None or option is None or sock.family == socket.AF_UNIX:
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT)
    except OSError as error:  # it is of use, not needed
        logger.debug("TCP_NOTSENT_LOWAT cannot be set: %s", error)


def websocket_options(*, tls: bool = True) -> dict[str, Any]:
    """Return the picows options that both sides share; without those that are about ``tls``."""
    options: dict[str, Any] = {
        "max_frame_size": MAX_MESSAGE,
        "enable_auto_ping": False,  # heartbeat is psync.v1's own, so that it is testable
        "logger_name": logger,
        "use_aiofastnet": True,
    }
    if tls:
        options["ssl_shutdown_timeout"] = CLOSE_TIMEOUT
    return options
