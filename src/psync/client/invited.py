"""First trust without ssh: pairing with an invitation.

1. TLS that verifies nothing, to ask for the CA's certificate, see ``inviter``. Nothing secret
   is sent. Its SHA-256 must be the one in the invitation, else somebody is in between.
2. A new connection, TLS that trusts this CA and no other and wants the daemon's name, which is
   made from the CA's key. Only then the secret goes out, with this client's request.
"""

from __future__ import annotations

import asyncio
import ssl

import msgspec
import picows

from psync.client.inviter import REACH, DoorClosed, Inviter, find_inviter, not_psync, open_socket
from psync.errors import (
    ConnectError,
    ConnectionLost,
    NotPaired,
    ProtocolError,
    Refused,
    WrongDaemon,
)
from psync.text import printable
from psync.transport.authority import server_name
from psync.transport.enrolment import (
    MAX_PAYLOAD,
    EnrolAnswer,
    EnrolRequest,
    InvitedRequest,
    decode_answer,
    encode,
)
from psync.transport.invitation import AGAIN, Invitation
from psync.transport.link import websocket_options
from psync.transport.strangers import PAIR_SUBPROTOCOL
from psync.transport.tls import explain

ASK_TIMEOUT = 15.0
"""Seconds for the exchange itself; the daemon makes a certificate meanwhile."""


class Introduction(msgspec.Struct, frozen=True):
    """What an invitation brought.

    Attributes:
        answer: the daemon's.
        address: host and port over which it was reached.
    """

    answer: EnrolAnswer
    address: tuple[str, int]


async def introduce(invitation: Invitation, request: EnrolRequest) -> Introduction:
    """Pair with the daemon that made ``invitation``. Bounded in time.

    Args:
        invitation: it is used up once the daemon has seen its secret.
        request: who this client is.

    Raises:
        Refused: the invitation has expired, was used, or is none of the daemon's.
        WrongDaemon: another daemon answers, or somebody in between.
        DaemonNotRunning, ConnectError: no address could be reached.
        ConnectionLost: the connection broke after the secret was sent.
        ProtocolError: something else than a psync daemon answers.
        PsyncError: the daemon said no, in its own words.

    Cancellation closes what was opened. The invitation may be used up then.
    """
    inviter = await find_inviter(invitation)
    invited = InvitedRequest(secret=invitation.secret.hex(), request=request)
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            answer = await _ask(inviter, invited)
    except TimeoutError:
        raise ConnectionLost(
            f"{inviter.name} did not answer within {ASK_TIMEOUT:.0f} seconds; the invitation may "
            "be used up",
            hint=AGAIN,
        ) from None
    return Introduction(answer, inviter.address)


async def _ask(inviter: Inviter, invited: InvitedRequest) -> EnrolAnswer:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    name = inviter.name
    try:
        key = x509.load_der_x509_certificate(inviter.ca).public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey):
        raise ProtocolError(f"the daemon at {name} has a CA that is not of psync's kind")
    expected = server_name(key)
    answer = decode_answer(await _exchange(inviter, expected, encode(invited)))
    try:
        same = ssl.PEM_cert_to_DER_cert(answer.ca_cert.decode("ascii")) == inviter.ca
    except ValueError:
        same = False
    if not same or answer.server_name != expected:
        raise ProtocolError(f"the daemon at {name} answered with another CA than its own")
    # what was verified is what is kept, and nothing that stands beside it in the same text
    pinned = ssl.DER_cert_to_PEM_cert(inviter.ca).encode()
    return msgspec.structs.replace(answer, ca_cert=pinned)


async def _exchange(inviter: Inviter, server: str, payload: bytes) -> bytes:
    """Send ``payload`` over a verified connection and return what comes back."""
    name = inviter.name
    try:
        sock = await open_socket(inviter.family, inviter.sockaddr)
    except OSError as error:
        raise ConnectError(f"{name}: {error.strerror}", hint=REACH) from error
    question = _Question(payload, name)
    try:
        await picows.ws_connect(
            lambda: question,
            f"wss://{server}/",
            ssl_context=_pinned(inviter.ca),
            extra_headers={"Sec-WebSocket-Protocol": PAIR_SUBPROTOCOL},
            max_redirects=0,
            socket_factory=lambda _url: sock,
            **{**websocket_options(), "max_frame_size": MAX_PAYLOAD},
        )
        if not question.sent:  # picows reports a connection that ended inside the handshake so
            raise DoorClosed(name)
        return await question.answer
    except picows.WSHandshakeError as error:
        status = getattr(error.response, "status", None)
        if status == 403:
            raise DoorClosed(name) from error
        if status == 429:
            raise Refused(
                f"the daemon at {name} is asked by too many strangers", hint="try again in a moment"
            ) from error
        raise not_psync(name) from error
    except (OSError, picows.WSError) as error:
        if question.sent:
            raise question.unanswered() from error
        known = explain(error, name) if isinstance(error, OSError) else None
        if isinstance(known, NotPaired):
            raise DoorClosed(name) from error
        if isinstance(known, WrongDaemon):
            raise WrongDaemon(
                f"what answers at {name} is not the daemon that made this invitation: "
                f"{known.message}; the secret was not sent"
            ) from error
        raise known or ConnectError(f"{name}: {printable(str(error))}") from error
    finally:
        question.close()
        if not question.sent:
            sock.close()


class _Question(picows.WSListener):
    """Sends one message once the connection stands, and waits for one."""

    def __init__(self, payload: bytes, name: str) -> None:
        self.sent = False
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._payload = payload
        self._name = name
        self._transport: picows.WSTransport | None = None

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        self.sent = True
        transport.send(picows.WSMsgType.BINARY, self._payload)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self.answer.done():
            return
        if frame.msg_type == picows.WSMsgType.BINARY and frame.fin:
            self.answer.set_result(frame.get_payload_as_bytes())
        elif frame.msg_type not in (picows.WSMsgType.PING, picows.WSMsgType.PONG):
            self.answer.set_exception(self.unanswered())

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        if not self.answer.done():
            self.answer.set_exception(self.unanswered())

    def unanswered(self) -> ConnectionLost:
        """Return the error for a daemon that hung up."""
        return ConnectionLost(
            f"the daemon at {self._name} hung up without an answer; the invitation may be used up",
            hint=AGAIN,
        )

    def close(self) -> None:
        """Hang up."""
        if self.answer.done():
            if not self.answer.cancelled():
                self.answer.exception()  # whoever waited has seen it, or something worse
        else:
            self.answer.cancel()
        if self._transport is not None:
            self._transport.disconnect(False)


def _pinned(ca: bytes) -> ssl.SSLContext:
    """Return a context that trusts one CA (DER), for a client without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=ca)
    return context
