"""The pairing exchange: what a client asks of ``psync-server enroll`` and what comes back.

No I/O. The request travels on the stdin of a remote command, the answer on its stdout, through a
login shell that may print whatever it likes before, between and after. So the answer is framed by
lines that carry the client's nonce, and its payload is one line of base64:

    psync-answer-begin NONCE
    eyJ0eXBlIjoiYW5zd2VyIiwi…
    psync-answer-end NONCE
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from psync.errors import ProtocolError, PsyncError, from_code
from psync.model import HostFacts
from psync.text import printable
from psync.transport.identity import CLIENT_ID

VERSION = 1
"""Of the exchange. A daemon answers a request in the version it came in, or refuses."""

MAX_PAYLOAD = 64 * 1024
"""Largest request or answer, in bytes."""

_SHOWN = 300  # characters of what came instead of an answer

_Pem = Annotated[bytes, Meta(min_length=1, max_length=16 * 1024)]
_Message = Annotated[str, Meta(max_length=4000)]


class EnrolRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client asks to be paired.

    Attributes:
        version: of the exchange.
        name: what the client wants to be called, for people.
        client_id: its ID; ends in digits of its key, which the daemon checks.
        csr: certificate request for its key (PEM).
    """

    version: int = VERSION
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    client_id: Annotated[str, Meta(pattern=CLIENT_ID)]
    csr: _Pem


class InvitedRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client without ssh asks to be paired; the daemon's listener takes this from a stranger.

    Attributes:
        version: of the exchange.
        secret: of its invitation, as hexadecimal digits.
        request: what it would ask over ssh.
    """

    version: int = VERSION
    secret: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    request: EnrolRequest

    def __repr__(self) -> str:
        # whatever prints or logs one must not give the secret away
        return f"InvitedRequest(secret=…, request={self.request!r})"


class EnrolAnswer(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="answer"
):
    """The client is paired.

    Attributes:
        client_cert: its certificate (PEM).
        ca_cert: the CA that signed it, and the daemon's too (PEM).
        server_name: the name in the daemon's certificate.
        port: where the daemon listens, or will when it is started; 0 where only it can tell.
        listen: the addresses it listens on, as ``host:port``.
        facts: what the daemon says about its host.
    """

    client_cert: _Pem
    ca_cert: _Pem
    server_name: Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]
    port: Annotated[int, Meta(ge=0, le=65535)]
    listen: Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=64)]
    facts: HostFacts


class EnrolRefused(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="refused"
):
    """The client is not paired, for the reason given.

    Attributes:
        code: an error code of ``psync.errors``.
        message: what failed and why.
        hint: what to do next.
    """

    code: Annotated[str, Meta(max_length=64)]
    message: _Message
    hint: _Message = ""

    @classmethod
    def of(cls, error: PsyncError) -> EnrolRefused:
        """Return the refusal that tells the client about ``error``."""
        return cls(code=error.code, message=error.message[:4000], hint=error.hint[:4000])

    def error(self) -> PsyncError:
        """Return the error that the daemon named, made safe to print."""
        return from_code(self.code, printable(self.message), printable(self.hint))


def encode(message: EnrolRequest | InvitedRequest | EnrolAnswer | EnrolRefused) -> bytes:
    """Return the payload that carries ``message``."""
    return msgspec.json.encode(message)


def decode_request(payload: bytes) -> EnrolRequest:
    """Return the request in ``payload``.

    Raises:
        ProtocolError: it is none, or one of another version.
    """
    request: EnrolRequest = _decode_version(payload, EnrolRequest)
    return request


def decode_invited(payload: bytes) -> InvitedRequest:
    """Return the request of a stranger with an invitation.

    Raises:
        ProtocolError: it is none, or one of another version.
    """
    invited: InvitedRequest = _decode_version(payload, InvitedRequest)
    if invited.request.version != invited.version:
        raise ProtocolError("a damaged pairing request: it is of two versions")
    return invited


def decode_answer(payload: bytes) -> EnrolAnswer:
    """Return the answer in ``payload``.

    Raises:
        PsyncError: the daemon refused; it is the error it named.
        ProtocolError: the payload is no answer.
    """
    answer: EnrolAnswer | EnrolRefused = _decode(
        payload, EnrolAnswer | EnrolRefused, "answer to a pairing request"
    )
    if isinstance(answer, EnrolRefused):
        raise answer.error()
    return answer


def frame(nonce: str, payload: bytes) -> bytes:
    """Return ``payload`` between marker lines.

    Args:
        nonce: random, chosen by the reader; letters, digits, ``-`` and ``_``.
        payload: at most ``MAX_PAYLOAD`` bytes.

    Raises:
        ProtocolError: the nonce or the payload is not as it has to be.
    """
    _check_nonce(nonce)
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"an answer of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    word = nonce.encode()
    # a line break first: what the shell printed before may not end in one
    return b"\n".join(
        (
            b"",
            b"psync-answer-begin " + word,
            base64.b64encode(payload),
            b"psync-answer-end " + word,
            b"",
        )
    )


def unframe(output: bytes, nonce: str) -> bytes:
    """Return the payload that ``frame`` put into ``output``, whatever stands around it.

    Carriage returns and line breaks inside the payload are ignored, as a terminal may add them. The
    caller bounds ``output``.

    Raises:
        ProtocolError: there is none, it is damaged or too large.
    """
    _check_nonce(nonce)
    word = re.escape(nonce.encode())
    found = re.search(
        rb"(?:^|[\r\n])psync-answer-begin " + word + rb"[ \t\r]*\n"
        rb"([A-Za-z0-9+/=\s]*)[\r\n]psync-answer-end " + word + rb"(?:[\s]|$)",
        output,
    )
    if found is None:
        raise _missing(output)
    encoded = b"".join(found[1].split())
    if len(encoded) > (MAX_PAYLOAD + 2) // 3 * 4:
        raise ProtocolError(f"the answer of psync-server is over the limit of {MAX_PAYLOAD} bytes")
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ProtocolError("the answer of psync-server arrived damaged") from error


class _Versioned(Struct, frozen=True):
    version: int


def _decode_version(payload: bytes, kind: Any) -> Any:
    # The version first: what else a later one holds is unknown here.
    version = _decode(payload, _Versioned, "pairing request").version
    if version != VERSION:
        raise ProtocolError(
            f"the client pairs in version {version}, this psync-server in version {VERSION}",
            hint="install the same version of psync on both hosts",
        )
    return _decode(payload, kind, "pairing request")


def _decode(payload: bytes, kind: Any, what: str) -> Any:
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"a {what} of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a damaged {what}: {printable(str(error))[:200]}") from error


def _check_nonce(nonce: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", nonce):
        raise ProtocolError("a nonce is 8 to 64 letters, digits, - and _")


def _missing(output: bytes) -> ProtocolError:
    hint = "is psync-server installed there, in the version that is installed here?"
    # 4 bytes make at most one character
    said = printable(output.strip()[: 4 * _SHOWN])
    if not said:
        return ProtocolError("psync-server did not answer, nothing at all came back", hint=hint)
    if len(said) > _SHOWN:
        said = f"{said[:_SHOWN]}…"
    return ProtocolError(f"psync-server did not answer; this came instead: {said}", hint=hint)
