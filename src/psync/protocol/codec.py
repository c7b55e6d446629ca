"""psync.v1 messages to bytes and back. Pure functions; the only error is ``ProtocolError``."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from psync.errors import ProtocolError
from psync.model import Stream
from psync.protocol.messages import (
    CONTROL_TYPES,
    MAX_CONTROL,
    MAX_PIECE,
    OPTIONAL,
    RAW,
    Ack,
    Control,
    Data,
    Message,
    Ping,
    Pong,
    StdinEnd,
)

HEADER = struct.Struct("!BBHQ")
"""type, stream, channel, offset: see ``messages``."""

MAX_MESSAGE = HEADER.size + max(MAX_PIECE, MAX_CONTROL)
"""Largest message either side has to take, in bytes."""

_STREAMS = (Stream.STDIN, Stream.STDOUT, Stream.STDERR)
_encode_json = msgspec.json.Encoder().encode
_decoders: dict[int, msgspec.json.Decoder[Control]] = {}


def encode(message: Message) -> bytes:
    """Return the bytes of ``message``.

    Raises:
        ProtocolError: the message is larger than the protocol allows.
    """
    if isinstance(message, Data):
        if len(message.data) > MAX_PIECE:
            raise ProtocolError(
                f"{len(message.data)} bytes of data are over the limit of {MAX_PIECE}"
            )
        header = HEADER.pack(Data.TYPE, message.stream, message.channel, message.offset)
        return header + message.data
    if isinstance(message, Control):
        payload = _encode_json(message)
        if len(payload) > MAX_CONTROL:
            raise ProtocolError(
                f"a {type(message).__name__} message of {len(payload)} bytes is over the limit "
                f"of {MAX_CONTROL}"
            )
        return HEADER.pack(message.TYPE, 0, 0, 0) + payload
    if isinstance(message, (Ack, StdinEnd)):
        return HEADER.pack(message.TYPE, 0, message.channel, message.offset)
    return HEADER.pack(message.TYPE, 0, 0, message.nonce)


def decode(message: bytes | memoryview) -> Message | None:
    """Return the message that ``message`` holds, or None for an optional one that is unknown.

    Nothing of it is kept, so the buffer behind a memoryview may be used again.

    Raises:
        ProtocolError: anything else is not a message of psync.v1.
    """
    if len(message) < HEADER.size:
        raise ProtocolError(f"a message of {len(message)} bytes is shorter than a header")
    kind, stream, channel, offset = HEADER.unpack_from(message)
    if kind == Data.TYPE:
        if stream >= len(_STREAMS):
            raise ProtocolError(f"there is no stream {stream}")
        if len(message) > HEADER.size + MAX_PIECE:
            raise ProtocolError(f"{len(message) - HEADER.size} bytes of data are over the limit")
        if channel == 0:
            raise ProtocolError("data needs a channel")
        return Data(channel, _STREAMS[stream], offset, bytes(message[HEADER.size :]))
    if kind & RAW:
        return _decode_raw(kind, stream, channel, offset, len(message) - HEADER.size)
    if kind not in CONTROL_TYPES:
        _check_optional(kind)
        return None
    if stream or channel or offset:
        raise ProtocolError(f"message type 0x{kind:02x} has header fields that must be zero")
    if len(message) > HEADER.size + MAX_CONTROL:
        raise ProtocolError(f"a control message of {len(message)} bytes is over the limit")
    return _decode_control(kind, memoryview(message)[HEADER.size :])


def _decode_control(kind: int, payload: memoryview) -> Message:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(CONTROL_TYPES[kind])
    try:
        return decoder.decode(payload)  # type: ignore[return-value]  # Control's leaves are Message
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        name = CONTROL_TYPES[kind].__name__
        raise ProtocolError(f"a damaged {name} message: {str(error)[:200]}") from error


_RAW: dict[int, Callable[[int, int], Message]] = {
    Ack.TYPE: Ack,
    StdinEnd.TYPE: StdinEnd,
    Ping.TYPE: lambda _channel, offset: Ping(offset),
    Pong.TYPE: lambda _channel, offset: Pong(offset),
}


def _decode_raw(kind: int, stream: int, channel: int, offset: int, size: int) -> Message | None:
    make = _RAW.get(kind)
    if make is None:
        _check_optional(kind)
        return None
    of_connection = kind in (Ping.TYPE, Pong.TYPE)
    if size or stream or (channel == 0) != of_connection:
        raise ProtocolError(f"message type 0x{kind:02x} is malformed")
    return make(channel, offset)


def _check_optional(kind: int) -> None:
    if not kind & OPTIONAL:
        raise ProtocolError(
            f"message type 0x{kind:02x} is not known here",
            hint="install the same version of psync on both sides",
        )
