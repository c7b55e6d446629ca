"""The client's way to a ``Link``: open the socket, TLS, websocket, hello."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import Any, Protocol

import picows

from psync.errors import ConnectError, DaemonNotRunning, ProtocolError, PsyncError
from psync.protocol.connection import Side, client_hello
from psync.protocol.messages import SUBPROTOCOL
from psync.text import printable
from psync.transport.link import Link, websocket_options
from psync.transport.tls import explain

DIAGNOSIS_TIMEOUT = 3.0
"""Seconds the second look at a failed handshake may take; spent only on the way to an error."""

VERDICT = 0.5
"""Seconds, on top of four times what the handshake took, that a daemon has to refuse a certificate
it has seen. One that accepts it waits for a request, and says nothing."""

LOOKS = 3
"""So many times what answers has to hang up on this client's certificate before that is told apart
from one cut. It still proves no refusal: one that lost its alert and a cut look the same."""


class HungUp(ConnectError):
    """The right daemon hung up, again and again, once it had seen this client's certificate.

    It may have refused it without a word, or the connection is cut on the way. ``standing`` knows
    more about the certificate.
    """


class Opener(Protocol):
    """A way of the caller's own to the daemon.

    Attributes:
        name: what to call its other end in messages.
    """

    name: str

    def open(self) -> socket.socket:
        """Return a connected socket, which the taker closes; does not wait for anything."""


Where = tuple[str, int] | bytes | Opener
"""(host, port), the path of a unix socket, or what opens one."""

logger = logging.getLogger("psync.connect")


async def connect(
    where: Where,
    *,
    tls: ssl.SSLContext,
    server_name: str,
    software: str,
    timeout: float = 10.0,
) -> Link:
    """Connect to a daemon and exchange hellos.

    Args:
        where: (host, port), or the path of a unix socket that leads to the daemon.
        tls: see ``tls.client_context``.
        server_name: the name the daemon's certificate must have.
        software: this program and its version, for the daemon's messages.
        timeout: seconds for all of it.

    Returns:
        An open link. The caller owns it and closes it.

    Raises:
        DaemonNotRunning: nobody listens there.
        ConnectError: the address cannot be reached, or not in time.
        WrongDaemon: the other side's certificate is not the one expected.
        NotPaired: the daemon says that it does not accept this client.
        HungUp: it says nothing, and hangs up.
        ProtocolError: something else than a psync daemon answers, or no common version.

    Cancellation closes whatever was opened.
    """
    name = _name(where)
    try:
        async with asyncio.timeout(timeout):
            return await _connect(where, tls, server_name, software)
    except TimeoutError:
        raise ConnectError(
            f"{name} did not answer within {timeout:.0f} seconds",
            hint="is the host up, and is a firewall between?",
        ) from None


async def _connect(where: Where, tls: ssl.SSLContext, server_name: str, software: str) -> Link:
    sock = await _open_socket(where)
    link = Link(Side.CLIENT, client_hello(software))
    opened: asyncio.Future[PsyncError | None] = asyncio.get_running_loop().create_future()

    def settle(error: PsyncError | None) -> None:
        if not opened.done():
            opened.set_result(error)

    link.on_open = lambda: settle(None)
    link.on_closed = lambda error: settle(error or ConnectError("closed before it was open"))
    try:
        transport, listener = await picows.ws_connect(
            lambda: link,
            f"wss://{server_name}/",
            ssl_context=tls,
            extra_headers={"Sec-WebSocket-Protocol": SUBPROTOCOL},
            max_redirects=0,
            socket_factory=lambda _url: sock,
            **websocket_options(),
        )
        # picows reports a connection that ended inside the handshake as one without a listener
        if not opened.done() and (listener is None or transport.is_disconnected):
            raise await _diagnose(where, tls, server_name)
        error = await opened
    except PsyncError:
        raise
    except picows.WSHandshakeError as failure:
        raise _not_psync(where, str(failure.args[0] if failure.args else failure)) from failure
    except (OSError, ssl.SSLError, picows.WSError) as failure:
        known = explain(failure, _name(where))
        raise known or await _diagnose(where, tls, server_name) from failure
    except BaseException:
        sock.close()
        link.close()
        raise
    if error is not None:
        if type(error) is ConnectError or error.code == "connection-lost":
            raise await _diagnose(where, tls, server_name)
        raise error
    return link


async def _open_socket(where: Where) -> socket.socket:
    if not isinstance(where, (bytes, tuple)):
        sock = _Socket(fileno=where.open().detach())
        sock.setblocking(False)
        return sock
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, address in await _resolve(where):
        sock = _Socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    if isinstance(failure, (ConnectionRefusedError, FileNotFoundError)):
        raise DaemonNotRunning(f"no daemon listens at {_name(where)}")
    reason = failure.strerror if failure else "no address"
    raise ConnectError(f"cannot reach {_name(where)}: {reason}")


class _Socket(socket.socket):
    """A socket that has no TCP options when it is a unix one, and does not mind being asked.

    picows 2.3 sets TCP_NODELAY and reads TCP_QUICKACK on every socket, and crashes the interpreter
    when that fails.
    """

    def setsockopt(self, level: int, option: int, *value: Any) -> None:
        if self.family != socket.AF_UNIX or level != socket.IPPROTO_TCP:
            super().setsockopt(level, option, *value)

    def getsockopt(self, level: int, option: int, *size: Any) -> Any:
        if self.family == socket.AF_UNIX and level == socket.IPPROTO_TCP:
            return 0
        return super().getsockopt(level, option, *size)


async def _resolve(where: tuple[str, int] | bytes) -> list[tuple[int, Any]]:
    if isinstance(where, bytes):
        return [(socket.AF_UNIX, where)]
    host, port = where
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectError(
            f"the host name {printable(host)} cannot be resolved: {error.strerror}"
        ) from error
    return [(family, address) for family, _, _, _, address in found]


async def _diagnose(where: Where, tls: ssl.SSLContext, server_name: str) -> PsyncError:
    """Find out why a handshake failed, by making it once more with the standard library.

    Under TLS 1.3 a refused client learns it only with the first bytes it reads, and by then picows
    has dropped the reason. This costs one more connection, and only on the way to an error.
    """
    for _ in range(LOOKS):
        try:
            sock = await _open_socket(where)
        except PsyncError as error:
            return error
        found = await asyncio.get_running_loop().run_in_executor(
            None, _look, sock, where, tls, server_name
        )
        if found is not None:
            return found
    return HungUp(
        f"{_name(where)} hung up {LOOKS} times when it saw this client's certificate: it does not "
        "accept it, or something cuts the connection",
        hint="try again; if it stays so, run: psync pair HOST",
    )


def _look(
    sock: socket.socket, where: Where, tls: ssl.SSLContext, server_name: str
) -> PsyncError | None:
    """Return what one handshake shows; None where the daemon hung up without a word after it.

    Chain and name were right then, so it is the daemon that was paired; it sees this client's
    certificate only after the client's handshake is over.
    """
    sock.settimeout(DIAGNOSIS_TIMEOUT)
    began = time.monotonic()
    try:
        with tls.wrap_socket(sock, server_hostname=server_name) as wrapped:
            wrapped.settimeout(VERDICT + 4 * (time.monotonic() - began))
            try:
                if not wrapped.recv(1):
                    return None
            except TimeoutError:
                return ConnectError(
                    f"the connection to {_name(where)} was cut while it was being made",
                    hint="run it again",
                )
    except (OSError, ValueError) as error:
        found = explain(error, _name(where)) if isinstance(error, Exception) else None
        return found or ConnectError(f"the connection failed: {printable(str(error))}")
    return _not_psync(where, "it answers before it is spoken to")


def _not_psync(where: Where, detail: str) -> ProtocolError:
    return ProtocolError(
        f"what listens at {_name(where)} is not a psync daemon: {printable(detail)[:200]}",
        hint="check the target's host and port",
    )


def _name(where: Where) -> str:
    if isinstance(where, bytes):
        return "the daemon's end of the ssh connection"
    if not isinstance(where, tuple):
        return where.name
    host, port = where
    return f"{printable(host)}:{port}"
