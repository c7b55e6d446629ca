"""The state machine of one connection: bytes in, messages and bytes out, no I/O, no clock.

    OPENING ── hello received, versions agree ──▶ OPEN ── close(), error, garbage ──▶ CLOSED

The owner hands every websocket message to ``receive`` and sends what ``take_outgoing`` returns.
Time comes in as a number of seconds on any monotonic clock; ``deadline`` says when ``tick`` wants
to be called next. Nothing is decided outside: who may say what and when, which version is spoken,
when a peer is dead, stands here.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from psync.errors import ConnectionLost, ProtocolError, PsyncError, from_code
from psync.model import Stream
from psync.protocol.codec import decode, encode
from psync.protocol.messages import (
    FEATURES,
    FROM_CLIENT,
    FROM_DAEMON,
    HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT,
    HELLO_TIMEOUT,
    LIMITS,
    VERSION,
    Data,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
)


class Side(Enum):
    """Which end of the connection this is."""

    CLIENT = "client"
    DAEMON = "daemon"


class State(Enum):
    """Where a connection is in its life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class Connection:
    """One side's view of a psync.v1 connection.

    Args:
        side: which end this is.
        hello: what this side says first; the daemon's answer gets the agreed version.
        now: the time, in seconds on a monotonic clock of the owner's choice.

    Attributes:
        state: see ``State``.
        peer: the other side's hello, once it came.
        failure: why the connection is ``CLOSED``; None when ``close`` was called.
    """

    def __init__(self, side: Side, hello: Hello, now: float) -> None:
        self.side = side
        self.state = State.OPENING
        self.peer: Hello | None = None
        self.failure: PsyncError | None = None
        self._hello = hello
        self._is_daemon = side is Side.DAEMON
        self._may_receive = FROM_CLIENT if self._is_daemon else FROM_DAEMON
        self._outgoing: list[bytes] = []
        self._opened_at = now
        self._heard_at = now
        self._pinged_at = now
        self._nonce = 0
        if side is Side.CLIENT:
            self._outgoing.append(encode(hello))

    # -- what the owner hands in ------------------------------------------------------------

    def receive(self, message: bytes | memoryview, now: float) -> Message | None:
        """Take one websocket message; return what the owner has to act on, if anything.

        Hello, heartbeats and unknown optional messages are dealt with here: they return the hello,
        or None. After an error the state is CLOSED, ``failure`` says why, and None is returned;
        an ``Error`` for the peer may be waiting in ``take_outgoing``.
        """
        if self.state is State.CLOSED:
            return None
        self._heard_at = now
        try:
            decoded = decode(message)
            if decoded is None:
                return None
            return self._accept(decoded)
        except ProtocolError as error:
            self._fail(error, tell_peer=True)
            return None

    def tick(self, now: float) -> None:
        """Let time pass: send a ping when due, give the peer up when it has been silent too long.

        A clock that jumped ahead (the host was suspended) gives the peer one more interval to
        answer a ping before it is given up, unless it was silent before.
        """
        if self.state is State.CLOSED:
            return
        if self.state is State.OPENING:
            if now - self._opened_at >= HELLO_TIMEOUT:
                self._fail(ProtocolError("the peer did not say hello in time"), tell_peer=True)
            return
        if now - self._heard_at >= HEARTBEAT_TIMEOUT and self._pinged_at > self._heard_at:
            silent = now - self._heard_at
            self._fail(ConnectionLost(f"nothing heard for {silent:.0f} seconds"), tell_peer=False)
        elif now - max(self._heard_at, self._pinged_at) >= HEARTBEAT_INTERVAL:
            self._nonce += 1
            self._pinged_at = now
            self._outgoing.append(encode(Ping(self._nonce)))

    def deadline(self) -> float | None:
        """When ``tick`` has something to do next, on the owner's clock; None once closed."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPENING:
            return self._opened_at + HELLO_TIMEOUT
        return max(self._heard_at, self._pinged_at) + HEARTBEAT_INTERVAL

    def close(self, error: PsyncError | None = None) -> None:
        """End the connection; with an error, tell the peer which."""
        if self.state is State.CLOSED:
            return
        if error is None:
            self.state = State.CLOSED
        else:
            self._fail(error, tell_peer=True)

    @property
    def heard_at(self) -> float:
        """When the peer was heard last, on the owner's clock."""
        return self._heard_at

    # -- what the owner takes out -----------------------------------------------------------

    def send(self, message: Message) -> bytes:
        """Return the bytes to send for ``message``.

        Raises:
            ConnectionLost: the connection is not open.
            ProtocolError: the message is too large.
        """
        self.check_open()
        return encode(message)

    def check_open(self) -> None:
        """Raise ``ConnectionLost`` unless the connection is open, whatever has closed it.

        Why it was closed, the owner is told. To somebody who happens to say something on it later
        it is not there any more, and nothing else.
        """
        if self.state is not State.OPEN:
            raise ConnectionLost("the connection is not open") from self.failure

    def take_outgoing(self) -> list[bytes]:
        """Return, once, the messages this machine itself wants sent, in order."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # -- inside -----------------------------------------------------------------------------

    def _accept(self, message: Message) -> Message | None:
        if isinstance(message, Error):
            self._fail(from_code(message.code, message.message, message.hint), tell_peer=False)
            return None
        if self.state is State.OPENING:
            if not isinstance(message, Hello):
                raise ProtocolError(f"{type(message).__name__} came before hello")
            self._greet(message)
            return message
        if isinstance(message, Hello) or not isinstance(message, self._may_receive):
            raise ProtocolError(f"{type(message).__name__} is not the peer's to say now")
        if isinstance(message, Data) and (message.stream is Stream.STDIN) != self._is_daemon:
            raise ProtocolError(f"{message.stream.name.lower()} flows the other way")
        if isinstance(message, Ping):
            self._outgoing.append(encode(Pong(message.nonce)))
            return None
        if isinstance(message, Pong):
            return None
        return message

    def _greet(self, hello: Hello) -> None:
        common = set(hello.versions) & set(self._hello.versions)
        if not common:
            theirs = ", ".join(str(version) for version in hello.versions)
            ours = ", ".join(str(version) for version in self._hello.versions)
            raise ProtocolError(
                f"{hello.software} speaks psync protocol {theirs}, this side speaks {ours}",
                hint="install the same version of psync on both sides",
            )
        if self.side is Side.DAEMON:
            answer = msgspec.structs.replace(self._hello, versions=(max(common),))
            self._outgoing.append(encode(answer))
        elif hello.facts is None:
            raise ProtocolError("the daemon's hello says nothing about its host")
        self.peer = hello
        self.state = State.OPEN

    def _fail(self, error: PsyncError, *, tell_peer: bool) -> None:
        self.failure = error
        self.state = State.CLOSED
        if tell_peer:
            self._outgoing.append(encode(error_message(error)))


def error_message(error: PsyncError) -> Error:
    """Return the ``Error`` that tells the peer about ``error``."""
    return Error(code=error.code, message=error.message[:4000], hint=error.hint[:4000])


def client_hello(software: str) -> Hello:
    """Return the hello of a client that speaks everything this module knows."""
    return Hello(versions=(VERSION,), software=software, features=FEATURES, limits=LIMITS)
