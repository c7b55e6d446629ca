"""What every message of psync.v1 is made of: limits, field types, the two base classes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from psync.model import PROJECT_ID

VERSION = 1
"""The one version of the protocol there is. ``hello`` negotiates among several."""

SUBPROTOCOL = "psync.v1"
"""Websocket subprotocol named in the handshake."""

MAX_DATA = 64 * 1024
"""Largest payload of a raw message that everybody takes, in bytes."""

MAX_PIECE = 128 * 1024
"""Largest payload of a raw message to a peer that says in its ``hello`` that it takes as much, in
bytes. Half the messages are half the work; on a slow link a control message waits behind one."""

MAX_CONTROL = 256 * 1024
"""Largest JSON payload, in bytes: 64 KiB of arguments and environment and their base64 fit."""

WINDOW_OUTPUT = 4 * 1024 * 1024
"""How many bytes of output may be on their way unacknowledged, per channel."""

WINDOW_STDIN = 256 * 1024
"""How many bytes of stdin may be on their way unacknowledged, per channel."""

MAX_CHANNEL = 0xFFFF
"""Largest number of a channel; 0 is the connection itself."""

HEARTBEAT_INTERVAL = 5.0
"""Seconds of silence after which a side sends a ping."""

HEARTBEAT_TIMEOUT = 20.0
"""Seconds of silence from the peer after which the connection is dead."""

HELLO_TIMEOUT = 5.0
"""Seconds a peer has to say hello."""

FEATURES = (
    *("keep", "ladder", "library-path", "list", "locate", "overflow", "renew", "revision", "seal"),
    *("times", "transfer", "viewers"),
)
"""Abilities that are not in every version, by the name under which ``Hello`` announces them."""

RAW = 0x80
OPTIONAL = 0x40

Channel = Annotated[int, Meta(ge=1, le=MAX_CHANNEL)]
RequestNumber = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(max_length=200)]
Word = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_.+-]+\Z")]
ProjectID = Annotated[str, Meta(pattern=rf"\A{PROJECT_ID}\Z")]
RunID = Annotated[str, Meta(pattern=r"\A[a-z0-9]{1,32}\Z")]
RequestID = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{16,64}\Z")]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Text = Annotated[str, Meta(max_length=16 * 1024)]
SignalName = Annotated[str, Meta(pattern=r"\ASIG[A-Z0-9+]{2,12}\Z")]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]


class Control(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message whose payload is JSON. ``TYPE`` is its number.

    Fields at their default are left out, so that a peer of an earlier version understands whatever
    does not use what it lacks; ``features`` says what that is.
    """

    TYPE: ClassVar[int]


class Raw(Struct, frozen=True):
    """A message whose payload is raw bytes, or that has none."""

    TYPE: ClassVar[int]
