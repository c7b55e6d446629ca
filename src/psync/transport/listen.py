"""The daemon's side of a ``Link``: TLS listeners that turn strangers away before anything else."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import picows

from psync.errors import PsyncError
from psync.protocol.connection import Side
from psync.protocol.messages import MAX_CONTROL, SUBPROTOCOL, Hello
from psync.text import printable
from psync.transport.contexts import ServerContexts
from psync.transport.door import Door, Stranger
from psync.transport.gate import Gate
from psync.transport.link import Link, websocket_options
from psync.transport.quiet import QuietLog, to
from psync.transport.strangers import (
    CA_PATH,
    PAIR_SUBPROTOCOL,
    Exchange,
    Pairing,
    certificate_of,
    offered,
    refusal,
)

logger = logging.getLogger("psync.listen")


async def listen(
    sock: socket.socket,
    *,
    tls: ssl.SSLContext | ServerContexts,
    hello: Callable[[bytes], Hello],
    origins: Collection[str],
    accept: Callable[[Link], None],
    gate: Gate | None = None,
    log: QuietLog | None = None,
    message: int = MAX_CONTROL,
    stranger: Pairing | None = None,
) -> Door:
    """Serve psync.v1 on a bound socket.

    Args:
        sock: a bound stream socket; the door owns it from now on.
        tls: what to show and whom to trust; or one context for all, see ``tls.server_context``.
        hello: returns what the daemon says to the client with this certificate (DER), which has
            just connected.
        origins: ``Origin`` headers that are allowed. Browsers always send one and psync never does,
            so a web page cannot use the certificate in the user's browser.
        accept: called for each connection after TLS and the websocket handshake, before the peer's
            hello; it sets the link's callbacks, and closes it when the peer is not welcome. For
            one that is no client it calls ``gate.blame``.
        gate: limits what strangers take up; one for all sockets of a daemon.
        log: takes lines about strangers.
        message: largest control message of a client, in bytes.
        stranger: handles strangers with an invitation. While it is not ``open`` a certificate is
            demanded in the TLS handshake. Needs ``ServerContexts``.

    Returns:
        The door; closing it leaves open links alone.
    """
    router = _Router(hello, frozenset(origins), accept, gate or Gate(), message, stranger)

    def context(hello: bytes) -> ssl.SSLContext:
        if isinstance(tls, ssl.SSLContext):
            return tls
        return tls.choose(hello, demand=not router.pairing)

    async def protocol(who: Stranger) -> Callable[[], Any]:
        # The only public way to picows' server side; it neither listens nor touches the socket.
        server = await picows.ws_create_server(
            lambda request: router.upgrade(who, request),
            sock=sock,
            start_serving=False,
            websocket_handshake_timeout=None,  # the stranger's own deadline is for that, too
            **websocket_options(tls=False),
        )
        make: Callable[[], Any] = server._protocol_factory  # type: ignore[attr-defined]
        return make

    return Door(
        sock, gate=router.gate, log=log or QuietLog(to(logger)), context=context, protocol=protocol
    )


def quiet_strangers(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a transport's failure in one line; an exception handler for the daemon's loop.

    A peer can break a connection in many ways, and each ends up in the loop's exception handler,
    whose default prints a traceback. What does not come from a transport is left to it, and so is
    what cannot be the other side's doing.
    """
    failure = context.get("exception")
    ours = isinstance(failure, Exception) and not isinstance(failure, (OSError, picows.WSError))
    if "transport" not in context or ours:
        loop.default_exception_handler(context)
        return
    logger.warning("%s: %s", context["message"], printable(str(failure))[:300])


class _Router:
    """Decides what a peer that has TLS gets for its HTTP request."""

    def __init__(
        self,
        hello: Callable[[bytes], Hello],
        origins: frozenset[str],
        accept: Callable[[Link], None],
        gate: Gate,
        message: int,
        stranger: Pairing | None,
    ) -> None:
        self.gate = gate
        self._hello = hello
        self._origins = origins
        self._accept = accept
        self._message = message
        self._stranger = stranger

    @property
    def pairing(self) -> bool:
        """Whether an invitation is outstanding."""
        return self._stranger is not None and self._stranger.open

    def upgrade(
        self, who: Stranger, request: picows.WSUpgradeRequest
    ) -> Link | picows.WSUpgradeResponseWithListener:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._origins:
            who.fail("origin", f"the Origin {printable(origin)[:200]} is not allowed")
            return refusal(HTTPStatus.FORBIDDEN, "this Origin is not allowed")
        certificate = who.certificate
        if not certificate:
            return self._for_stranger(who, request)
        if SUBPROTOCOL not in offered(request):
            return refusal(HTTPStatus.BAD_REQUEST, f"only {SUBPROTOCOL} is spoken here")
        link = _Accepted(self._hello(certificate), who, self._accept, self._message)
        return _switch(SUBPROTOCOL, link)

    def _for_stranger(
        self, who: Stranger, request: picows.WSUpgradeRequest
    ) -> picows.WSUpgradeResponseWithListener:
        pairing = self._stranger
        if pairing is None or not pairing.open:
            who.fail("uninvited", "it has no certificate, and no invitation is outstanding")
            return refusal(HTTPStatus.FORBIDDEN, "no invitation is outstanding")
        if request.path == CA_PATH.encode():
            return certificate_of(pairing.ca)
        if PAIR_SUBPROTOCOL not in offered(request):
            who.fail("uninvited", "it has no certificate and wants something else than to pair")
            return refusal(HTTPStatus.FORBIDDEN, "without a certificate there is only pairing")
        if not self.gate.attempt():
            return refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many attempts to pair; try again")

        def asked(payload: bytes) -> None:
            who.then(lambda: _answer(pairing, who, exchange, payload))

        exchange = Exchange(asked, lambda what: who.fail("uninvited", what))
        return _switch(PAIR_SUBPROTOCOL, exchange)


async def _answer(pairing: Pairing, who: Stranger, exchange: Exchange, payload: bytes) -> None:
    try:
        answer, blameless = await pairing.answer(payload, who.address)
    except PsyncError as error:
        who.fail("invitation", f"it could not be paired: {printable(error.message)}")
        exchange.close(picows.WSCloseCode.POLICY_VIOLATION)
        return
    except Exception:
        logger.exception("pairing with %s failed", who.address)
        exchange.close(picows.WSCloseCode.INTERNAL_ERROR)
        return
    if not blameless:
        who.fail("invitation", "its invitation is not valid")
    exchange.reply(answer)


def _switch(subprotocol: str, listener: picows.WSListener) -> picows.WSUpgradeResponseWithListener:
    response = picows.WSUpgradeResponse.create_101_response({"Sec-WebSocket-Protocol": subprotocol})
    return picows.WSUpgradeResponseWithListener(response, listener)


class _Accepted(Link):
    """A link that introduces itself to the daemon once TLS and websocket stand."""

    def __init__(
        self, hello: Hello, who: Stranger, accept: Callable[[Link], None], message: int
    ) -> None:
        super().__init__(Side.DAEMON, hello, message=message)
        self._who: Stranger | None = who
        self._accept = accept

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        super().on_ws_connected(transport)
        assert self._who is not None
        self._who.let_in()
        self._who = None
        self._accept(self)
