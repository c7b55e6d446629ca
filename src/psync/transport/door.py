"""The accept loop of one listening socket, and the life of a stranger in front of it.

    accepted → silent → first byte → TLS and websocket handshakes → let in
        └── refused at once, overtaken by a newcomer, too late, failed: gone

A stranger that has sent nothing costs a descriptor and no more: TLS starts with its first byte.
Whoever is refused before that is told so in a TLS alert (RFC 8446, 6), the only words that a TLS
client understands at that point. ``gate`` decides, this acts.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiofastnet

from psync.transport.gate import Gate, Progress
from psync.transport.quiet import QuietLog
from psync.transport.tls import failed_handshake

ACCESS_DENIED = 49
"""The alert for an address with a penalty (RFC 8446, 6.2); OpenSSL itself never sends it."""

INTERNAL_ERROR = 80
"""The alert for a stranger for whom there is no place."""

BACKLOG = 1024
"""Connections that wait for being accepted. When there are more the system drops the next one's
first packet, and an honest client loses a second until that is sent again."""

BATCH = 64
"""Connections accepted in one turn of the event loop, so that others have their turn too."""

RETRY = 0.25
"""Seconds without accepting after the system had no descriptor or memory left for it."""

HELLO = 4096
"""Most bytes looked at before TLS reads them, for the name that a peer asks for."""

LINGER = 1.0
"""Seconds that a refused peer has to read why; closing at once would take the words back (RST)."""

LINGERING = 32
"""Most refused peers that linger."""

LINGER_BYTES = 64 * 1024

SHUTDOWN = 2.0
"""Seconds that the end of a TLS connection may take."""

# accept(2): errors of one connection that was on its way, to be treated like EAGAIN
_PASSING = {
    errno.ECONNABORTED,
    *(errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH),
}


class _Socket(socket.socket):
    """An accepted socket whose options may fail to be set.

    picows sets TCP_NODELAY without a care, and crashes the interpreter when that fails, as it does
    on macOS once the peer has hung up.
    """

    def setsockopt(self, *arguments: Any) -> None:
        with suppress(OSError):
            super().setsockopt(*arguments)

    def getsockopt(self, *arguments: Any) -> Any:
        try:
            return super().getsockopt(*arguments)
        except OSError:
            return 0


class Stranger:
    """One connection that is not let in yet. Made by ``Door``.

    Attributes:
        address: from where it came, for people.
        inside: whether it was let in; the door has nothing to do with it any more.
    """

    def __init__(self, door: Door, sock: socket.socket, address: str) -> None:
        self.address = address
        self.inside = False
        self._door = door
        self._sock = sock
        self._blamed = False
        self._protocol: Any = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._turn: asyncio.Future[Callable[[], Awaitable[None]]] = self._loop.create_future()
        self._progress = Progress.SILENT
        self._place = door.gate.enter(address, self._how_far, self._overtaken)
        self._deadline = self._loop.call_later(door.gate.limits.handshake, self._late)
        self._loop.add_reader(sock.fileno(), self._speaks)

    @property
    def certificate(self) -> bytes:
        """The certificate (DER) that it showed in the TLS handshake; empty if it showed none."""
        under = self._protocol.transport.underlying_transport
        tls = under.get_extra_info("ssl_object")
        return tls.getpeercert(binary_form=True) or b""

    def let_in(self) -> None:
        """End its being a stranger: deadline, place and penalties are for others."""
        self.inside = True
        self._leave()
        self.then(_nothing)

    def then(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have ``work`` done, once, in the stranger's own task; it ends with the stranger."""
        if not self._turn.done():
            self._turn.set_result(work)

    def fail(self, kind: str, why: str) -> None:
        """Note a failure, and count the first one against the address."""
        self._door.log.note(kind, self.address, f"turned away {self.address}: {why}")
        if not self._blamed:
            self._blamed = True
            self._door.gate.blame(self.address)

    def drop(self) -> None:
        """Hang up."""
        self._leave()
        if self._task is not None:
            self._task.cancel()
        else:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    # -- inside ------------------------------------------------------------------------

    def _leave(self) -> None:
        self._deadline.cancel()
        self._door.gate.leave(self._place)
        self._door.strangers.discard(self)

    def _overtaken(self) -> None:
        self._door.log.note(
            "overtaken", self.address, f"turned away {self.address}: too many strangers at the door"
        )
        if self._task is not None:
            self.drop()
        else:
            self._leave()
            self._loop.remove_reader(self._sock.fileno())
            self._door.refuse(self._sock, INTERNAL_ERROR)

    def _how_far(self) -> Progress:
        if self._task is None:  # it may have spoken since the event loop looked
            with suppress(OSError):
                return _progress(self._sock.recv(HELLO, socket.MSG_PEEK))
        return self._progress

    def _late(self) -> None:
        seconds = self._door.gate.limits.handshake
        self.fail("late", f"it was not done with its handshakes after {seconds:g} s")
        self.drop()

    def _speaks(self) -> None:
        try:
            hello = self._sock.recv(HELLO, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            hello = b""
        if not hello:  # a port scan, a health check: no attempt at anything
            self.drop()
            return
        self._loop.remove_reader(self._sock.fileno())
        self._progress = _progress(hello)
        self._task = self._loop.create_task(self._meet(hello), name=f"stranger {self.address}")
        self._door.tasks.add(self._task)
        self._task.add_done_callback(self._done)

    async def _meet(self, hello: bytes) -> None:
        """Go through the handshakes, until the peer is let in or gone."""
        make = await self._door.protocol(self)
        try:
            transport, _ = await aiofastnet.connect_accepted_socket(
                self._loop,
                lambda: self._keep(make()),
                self._sock,
                ssl=self._door.context(hello),
                # the deadline above is for all of it and comes first
                ssl_handshake_timeout=self._door.gate.limits.handshake + 1,
                ssl_shutdown_timeout=SHUTDOWN,
            )
        except OSError as error:  # ssl.SSLError is one
            self.fail("handshake", failed_handshake(error))
            return
        self._progress = Progress.SECURED
        try:
            if self._protocol.transport is not None:
                await self._wait(self._protocol.transport)
        finally:
            if not self.inside:
                transport.abort()

    async def _wait(self, transport: Any) -> None:
        gone = self._loop.create_task(transport.wait_disconnected(), name="a stranger's end")
        try:
            await asyncio.wait((gone, self._turn), return_when=asyncio.FIRST_COMPLETED)
            if self._turn.done():
                await self._turn.result()()
            if not self.inside:
                await gone
        finally:
            gone.cancel()

    def _keep(self, protocol: Any) -> Any:
        # known before the TLS handshake ends: a request can come in the same packet
        self._protocol = protocol
        return protocol

    def _done(self, task: asyncio.Task[None]) -> None:
        self._door.tasks.discard(task)
        if not self.inside:
            self._leave()
            self._sock.close()  # a transport has let go of it by now, or was never made
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": f"meeting the {task.get_name()} failed", "exception": failure}
            )


async def _nothing() -> None:
    return None


class Door:
    """Accepts connections on one socket until it is closed. Uses the running event loop.

    Args:
        sock: a bound stream socket, owned from now on.
        gate: shared by all doors of a daemon.
        log: for lines about strangers.
        context: returns the TLS context for a stranger, given the first bytes it sent.
        protocol: returns what makes the protocol that a stranger speaks below TLS.

    Attributes:
        strangers: who stands here.
        tasks: their handshakes.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        gate: Gate,
        log: QuietLog,
        context: Callable[[bytes], ssl.SSLContext],
        protocol: Callable[[Stranger], Awaitable[Callable[[], Any]]],
    ) -> None:
        self.gate = gate
        self.log = log
        self.context = context
        self.protocol = protocol
        self.strangers: set[Stranger] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._refused: dict[socket.socket, _Refused] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._spare = _spare()
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening and hang up on strangers; who was let in stays. May be called again."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._pause is not None:
            self._pause.cancel()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        for stranger in list(self.strangers):
            stranger.drop()
        for sock in list(self._refused):
            self._forget(sock)

    async def wait_closed(self) -> None:
        """Wait until the strangers' tasks have ended; call ``close`` before."""
        while self.tasks:
            await asyncio.wait(self.tasks)

    def refuse(self, sock: socket.socket, alert: int) -> None:
        """Hang up on a peer whose TLS handshake has not begun; tell it why, except in a crowd."""
        if len(self._refused) >= LINGERING:  # words cost more than all the rest
            sock.close()
            return
        try:
            sock.send(_alert(alert))
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        timer = self._loop.call_later(LINGER, self._forget, sock)
        self._refused[sock] = _Refused(timer)
        self._loop.add_reader(sock.fileno(), self._drain, sock)

    # -- inside ------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                accepted, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                if self._use_spare(error):
                    continue
                # the socket stays readable, so that asking again at once would be a busy loop
                self._sleep(RETRY)
                self._note_starving(error, "")
                return
            self._greet(accepted, str(address[0]))
            if pause := self.gate.pause():
                self._sleep(pause)
                return

    def _greet(self, accepted: socket.socket, address: str) -> None:
        sock = _Socket(accepted.family, accepted.type, accepted.proto, accepted.detach())
        sock.setblocking(False)
        seconds = self.gate.refused(address)
        if seconds:
            self.log.note(
                "penalty",
                address,
                f"turned away {address}: too many failed attempts, for {seconds:.0f} s more",
            )
            self.refuse(sock, ACCESS_DENIED)
        else:
            self.strangers.add(Stranger(self, sock, address))

    def _drain(self, sock: socket.socket) -> None:
        refused = self._refused[sock]
        try:
            said = sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            said = b""
        refused.budget -= len(said)
        if not said or refused.budget < 0:
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self._refused.pop(sock).timer.cancel()
        self._loop.remove_reader(sock.fileno())
        sock.close()

    # -- out of descriptors ------------------------------------------------------------

    def _use_spare(self, error: OSError) -> bool:
        """Accept with the descriptor kept for this, to refuse in words; False if that fails too."""
        if error.errno not in (errno.EMFILE, errno.ENFILE) or self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        try:
            accepted, address = self._sock.accept()
        except OSError:
            return False
        with accepted, suppress(OSError):
            accepted.setblocking(False)
            accepted.send(_alert(INTERNAL_ERROR))
            accepted.shutdown(socket.SHUT_WR)
            accepted.recv(4096)
        self._spare = _spare()
        self._note_starving(error, str(address[0]))
        return True

    def _sleep(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._pause = None
        if self._spare is None:
            self._spare = _spare()
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _note_starving(self, error: OSError, address: str) -> None:
        whom = address or "connections"
        self.log.note("starving", address, f"cannot accept {whom}: {os.strerror(error.errno or 0)}")


class _Refused:
    __slots__ = ("budget", "timer")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer
        self.budget = LINGER_BYTES


def _progress(hello: bytes) -> Progress:
    """Return how far a peer has come that has sent this much: a whole ClientHello is one record."""
    if not hello:
        return Progress.SILENT
    if len(hello) < 5:
        return Progress.BEGUN
    whole = 5 + int.from_bytes(hello[3:5], "big")
    return Progress.ASKED if len(hello) >= min(whole, HELLO) else Progress.BEGUN


def _alert(description: int) -> bytes:
    """Return a fatal TLS alert in a record of its own (RFC 8446, 5.1 and 6)."""
    return struct.pack("!BHHBB", 21, 0x0303, 2, 2, description)


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
