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

from psync.protocol.connection import Side
from psync.protocol.messages import SUBPROTOCOL, Hello
from psync.text import printable
from psync.transport.link import Link, websocket_options

HANDSHAKE_TIMEOUT = 5.0
"""Seconds a stranger has for the TLS handshake, and again for the websocket's."""

BACKLOG = 128

logger = logging.getLogger("psync.listen")


async def listen(
    sock: socket.socket,
    *,
    tls: ssl.SSLContext,
    hello: Callable[[], Hello],
    origins: Collection[str],
    accept: Callable[[Link], None],
) -> asyncio.Server:
    """Serve psync.v1 on a bound socket.

    Args:
        sock: a bound stream socket; the server owns it from now on.
        tls: see ``tls.server_context``; it demands a client certificate.
        hello: returns what the daemon says to a client that has just connected.
        origins: ``Origin`` headers that are allowed. Browsers always send one and psync never does,
            so a web page cannot use the certificate in the user's browser.
        accept: called for each connection after TLS and the websocket handshake, before the peer's
            hello; it sets the link's callbacks, and closes it when the peer is not welcome.

    Returns:
        The server; closing it leaves open links alone.
    """

    def upgrade(
        request: picows.WSUpgradeRequest,
    ) -> Link | picows.WSUpgradeResponseWithListener:
        origin = request.headers.get("Origin")
        if origin is not None and origin not in origins:
            logger.warning("refused a handshake with Origin %s", printable(origin)[:200])
            return _refusal(HTTPStatus.FORBIDDEN, "this Origin is not allowed")
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        if SUBPROTOCOL not in [name.strip() for name in offered.split(",")]:
            return _refusal(HTTPStatus.BAD_REQUEST, f"only {SUBPROTOCOL} is spoken here")
        response = picows.WSUpgradeResponse.create_101_response(
            {"Sec-WebSocket-Protocol": SUBPROTOCOL}
        )
        return picows.WSUpgradeResponseWithListener(response, _Accepted(hello(), accept))

    return await picows.ws_create_server(
        upgrade,
        sock=sock,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
        websocket_handshake_timeout=HANDSHAKE_TIMEOUT,
        backlog=BACKLOG,
        **websocket_options(),
    )


def quiet_strangers(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log a transport's failure in one line; an exception handler for the daemon's loop.

    Every port scan and every refused certificate ends up in the loop's exception handler, whose
    default prints a traceback for each. What does not come from a transport is left to it, and so
    is what cannot be the other side's doing.
    """
    failure = context.get("exception")
    ours = isinstance(failure, Exception) and not isinstance(failure, (OSError, picows.WSError))
    if "transport" not in context or ours:
        loop.default_exception_handler(context)
        return
    logger.warning("%s: %s", context["message"], printable(str(failure))[:300])


class _Accepted(Link):
    """A link that introduces itself to the daemon once TLS and websocket stand."""

    def __init__(self, hello: Hello, accept: Callable[[Link], None]) -> None:
        super().__init__(Side.DAEMON, hello)
        self._accept = accept

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        super().on_ws_connected(transport)
        self._accept(self)


def _refusal(status: HTTPStatus, reason: str) -> picows.WSUpgradeResponseWithListener:
    response = picows.WSUpgradeResponse.create_error_response(status, reason.encode())
    return picows.WSUpgradeResponseWithListener(response, None)
