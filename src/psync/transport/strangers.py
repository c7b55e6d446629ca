"""What a peer without a certificate may do while an invitation is outstanding: pair, and no more.

    GET /ca                            the certificate of the daemon's CA (PEM); the invitation
                                       holds its fingerprint
    websocket, psync-pair.v1           one binary message there, one back, closed

What the messages hold is the business of who handles them.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import picows

from psync.protocol.messages import MAX_DATA

PAIR_SUBPROTOCOL = "psync-pair.v1"
"""Websocket subprotocol of pairing by invitation."""

CA_PATH = "/ca"

MAX_QUESTION = MAX_DATA
"""Largest message of a stranger's, in bytes."""


class Pairing(Protocol):
    """Handles strangers who hold an invitation, or say so."""

    @property
    def open(self) -> bool:
        """Whether an invitation is outstanding now. Asked for each connection: must be cheap."""
        ...

    @property
    def ca(self) -> bytes:
        """The certificate of the daemon's CA (PEM)."""
        ...

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
        """Return what is sent back to a stranger at ``address``, and whether it did nothing wrong.

        Where it did, that counts as a failure of its address; so does a ``PsyncError``, after
        which the connection is just closed. Cancelled when the stranger's time is up or it hangs
        up.
        """
        ...


class Exchange(picows.WSListener):
    """One message there, one back.

    Args:
        asked: called once with the message; ``reply`` or ``close`` follows.
        broken: called when the stranger does something else, with what that was.
    """

    def __init__(self, asked: Callable[[bytes], None], broken: Callable[[str], None]) -> None:
        self._asked = asked
        self._broken = broken
        self._transport: picows.WSTransport | None = None
        self._over = False

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Wait for the message."""
        self._transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take the one message; anything else ends the connection."""
        if frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()
        elif self._over or frame.msg_type != picows.WSMsgType.BINARY or not frame.fin:
            self._broken("it sent something else than one binary message")
            self.close(picows.WSCloseCode.PROTOCOL_ERROR)
        elif frame.payload_size > MAX_QUESTION:
            self._broken(f"it sent a message of {frame.payload_size} bytes")
            self.close(picows.WSCloseCode.MESSAGE_TOO_BIG)
        else:
            self._over = True
            self._asked(frame.get_payload_as_bytes())

    def reply(self, answer: bytes) -> None:
        """Send the answer and close."""
        assert self._transport is not None
        self._transport.send(picows.WSMsgType.BINARY, answer)
        self.close(picows.WSCloseCode.OK)

    def close(self, code: picows.WSCloseCode) -> None:
        """Close without an answer."""
        self._over = True
        assert self._transport is not None
        self._transport.send_close(code)
        self._transport.disconnect()

    def pause_writing(self) -> None:
        """One answer is no flood."""

    def resume_writing(self) -> None:
        """See ``pause_writing``."""


def certificate_of(ca: bytes) -> picows.WSUpgradeResponseWithListener:
    """Return the answer to ``GET /ca``."""
    response = picows.WSUpgradeResponse.create_ok_response(
        ca, {"Content-Type": "application/x-pem-file"}
    )
    return picows.WSUpgradeResponseWithListener(response, None)


def refusal(status: HTTPStatus, reason: str) -> picows.WSUpgradeResponseWithListener:
    """Return an HTTP answer that ends the connection."""
    response = picows.WSUpgradeResponse.create_error_response(status, reason.encode())
    return picows.WSUpgradeResponseWithListener(response, None)


def offered(request: picows.WSUpgradeRequest) -> list[str]:
    """Return the subprotocols that a handshake offers."""
    return [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
