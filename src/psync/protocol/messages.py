"""The messages of psync.v1, declared once for both sides.

A psync message is one binary websocket message: a header of 12 bytes and a payload.

    offset  size  field     meaning
    0       1     type      which message; bits 7 and 6 say how to read it (below)
    1       1     stream    0 stdin, 1 stdout, 2 stderr; 0 where a message has none
    2       2     channel   the attachment to a run, chosen by the client; 0 = the connection itself
    4       8     offset    position in the stream or in the run's output; 0 where there is none

All numbers are big-endian. Bit 7 (0x80) of the type: the payload is raw bytes, else one JSON object
with exactly the fields of the class. Bit 6 (0x40): optional; a peer that does not know the type
ignores the message instead of closing the connection.

``bytes`` fields (paths, arguments, environment) are base64 in JSON, because JSON is text and they
are not.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from psync.model import PROJECT_ID, ExitStatus, HostFacts, RunSpec, RunState, Stream

VERSION = 1
"""The one version of the protocol there is. ``hello`` negotiates among several."""

SUBPROTOCOL = "psync.v1"
"""Websocket subprotocol named in the handshake."""

MAX_DATA = 64 * 1024
"""Largest payload of a raw message, in bytes."""

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


class Control(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message whose payload is JSON. ``TYPE`` is its number."""

    TYPE: ClassVar[int]


class Raw(Struct, frozen=True):
    """A message whose payload is raw bytes, or that has none."""

    TYPE: ClassVar[int]


class Limits(Struct, frozen=True, forbid_unknown_fields=False):
    """What the sender of a ``hello`` accepts.

    Attributes:
        data: largest raw payload in bytes.
        control: largest JSON payload in bytes.
        window: how many unacknowledged bytes the sender takes per channel.
    """

    data: Annotated[int, Meta(ge=1024, le=2**31)] = MAX_DATA
    control: Annotated[int, Meta(ge=1024, le=2**31)] = MAX_CONTROL
    window: Annotated[int, Meta(ge=1024, le=2**40)] = WINDOW_OUTPUT


class Hello(Control, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """First message of both sides; the client speaks first.

    Unknown fields are ignored here, and only here, so that later versions can be negotiated.

    Attributes:
        versions: protocol versions the sender speaks; the daemon answers with the one chosen.
        software: the sender's program and version, for messages to people.
        features: optional abilities, by name.
        limits: what the sender accepts.
        facts: what the daemon says about its host; None from a client.
    """

    TYPE = 0x01
    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    software: Name
    features: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    limits: Limits = Limits()
    facts: HostFacts | None = None


class Error(Control, frozen=True, kw_only=True):
    """The sender closes the connection right after this, for the reason given.

    Attributes:
        code: an error code of ``psync.errors``.
        message: what failed and why.
        hint: what to do next.
    """

    TYPE = 0x02
    code: Word
    message: Text
    hint: Text = ""


class Ping(Raw, frozen=True):
    """Asks for a ``Pong`` with the same nonce (carried in the offset field)."""

    TYPE = RAW | 0x03
    nonce: int


class Pong(Raw, frozen=True):
    """Answers a ``Ping``."""

    TYPE = RAW | 0x04
    nonce: int


class OpenProject(Control, frozen=True, kw_only=True):
    """Client: make sure the mirror of this project exists and is mine.

    Attributes:
        request: number that the answer repeats.
        project: the project's ID.
        source: the project's root on the client, for people.
        host: the client's host name, for people.
    """

    TYPE = 0x10
    request: RequestNumber
    project: ProjectID
    source: bytes
    host: Name


class ProjectOpened(Control, frozen=True, kw_only=True):
    """Daemon: the mirror exists.

    Attributes:
        request: the request answered.
        path: absolute path of the project's directory on the daemon host.
    """

    TYPE = 0x11
    request: RequestNumber
    path: bytes


class RequestRefused(Control, frozen=True, kw_only=True):
    """Daemon: a numbered request was refused; the connection goes on."""

    TYPE = 0x12
    request: RequestNumber
    code: Word
    message: Text
    hint: Text = ""


class Start(Control, frozen=True, kw_only=True):
    """Client: start this run and attach me to it on the message's channel.

    Attributes:
        channel: the client's number for this attachment.
        request_id: random; a second ``Start`` with the same one attaches to the same run.
        spec: what to run.
    """

    TYPE = 0x20
    channel: Channel
    request_id: RequestID
    spec: RunSpec


class Attach(Control, frozen=True, kw_only=True):
    """Client: attach me to a run that exists.

    Attributes:
        channel: the client's number for this attachment.
        run: the run's ID.
        offset: where in the output to begin.
    """

    TYPE = 0x21
    channel: Channel
    run: RunID
    offset: Offset


class Attached(Control, frozen=True, kw_only=True):
    """Daemon: the answer to ``Start`` and ``Attach``.

    Attributes:
        channel: the attachment.
        run: the run's ID.
        state: its state now.
        stdin: how many bytes of stdin the program's pipe has taken; stdin goes on from here.
    """

    TYPE = 0x22
    channel: Channel
    run: RunID
    state: RunState
    stdin: Offset


class Refused(Control, frozen=True, kw_only=True):
    """Daemon: ``Start`` or ``Attach`` was refused, or the attachment ended for this reason."""

    TYPE = 0x23
    channel: Channel
    code: Word
    message: Text
    hint: Text = ""


class Detach(Control, frozen=True, kw_only=True):
    """Client: I leave this run on purpose; it goes on."""

    TYPE = 0x24
    channel: Channel


class Exited(Control, frozen=True, kw_only=True):
    """Daemon: the run is over. Last message of a channel, after all output.

    Attributes:
        channel: the attachment.
        end: length of the run's output in bytes; the client has received all of it by now.
        status: how the run ended.
        error: where the program could not be executed, an error code of ``psync.errors``.
        message: what went wrong then.
    """

    TYPE = 0x25
    channel: Channel
    end: Offset
    status: ExitStatus
    error: Word | None = None
    message: Text = ""


class Signal(Control, frozen=True, kw_only=True):
    """Client: send this signal to the run's process group.

    Attributes:
        channel: the attachment.
        name: ``SIGINT`` and the like; numbers differ between systems.
    """

    TYPE = 0x30
    channel: Channel
    name: Annotated[str, Meta(pattern=r"\ASIG[A-Z0-9+]{2,12}\Z")]


class Stop(Control, frozen=True, kw_only=True):
    """Client: end the run's whole process tree.

    Attributes:
        channel: the attachment.
        kill: False sends SIGTERM to every process of the run, True kills until none is left.
    """

    TYPE = 0x31
    channel: Channel
    kill: bool


class CloseOutput(Control, frozen=True, kw_only=True):
    """Client: nobody reads this stream any more; the program gets SIGPIPE when it writes."""

    TYPE = 0x32
    channel: Channel
    stream: Stream


class StdinClosed(Control, frozen=True, kw_only=True):
    """Daemon: the program closed its stdin; sending more is pointless, not wrong."""

    TYPE = 0x33
    channel: Channel


class Gap(Control, frozen=True, kw_only=True):
    """Daemon: output was dropped by the run's overflow policy; data goes on at ``end``."""

    TYPE = 0x34
    channel: Channel
    start: Offset
    end: Offset


class Data(Raw, frozen=True):
    """A piece of a stream: output to the client, stdin to the daemon."""

    TYPE = RAW | 0x01
    channel: int
    stream: Stream
    offset: int
    data: bytes


class Ack(Raw, frozen=True):
    """Everything below ``offset`` has arrived where it belongs.

    From the client: the output is written out. From the daemon: stdin is in the program's pipe.
    """

    TYPE = RAW | 0x02
    channel: int
    offset: int


class StdinEnd(Raw, frozen=True):
    """Client: stdin ends at ``offset``."""

    TYPE = RAW | 0x05
    channel: int
    offset: int


Message = (
    Hello
    | Error
    | Ping
    | Pong
    | OpenProject
    | ProjectOpened
    | RequestRefused
    | Start
    | Attach
    | Attached
    | Refused
    | Detach
    | Exited
    | Signal
    | Stop
    | CloseOutput
    | StdinClosed
    | Gap
    | Data
    | Ack
    | StdinEnd
)

CONTROL_TYPES: dict[int, type[Control]] = {
    cls.TYPE: cls
    for cls in (
        Hello,
        Error,
        OpenProject,
        ProjectOpened,
        RequestRefused,
        Start,
        Attach,
        Attached,
        Refused,
        Detach,
        Exited,
        Signal,
        Stop,
        CloseOutput,
        StdinClosed,
        Gap,
    )
}

FROM_CLIENT = (
    Hello, Error, Ping, Pong, OpenProject, Start, Attach, Detach, Signal, Stop, CloseOutput,
    Data, Ack, StdinEnd,
)  # fmt: skip
"""What a client may say."""

FROM_DAEMON = (
    Hello, Error, Ping, Pong, ProjectOpened, RequestRefused, Attached, Refused, Exited,
    StdinClosed, Gap, Data, Ack,
)  # fmt: skip
"""What a daemon may say."""
