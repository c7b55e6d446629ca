"""The messages of psync.v1, declared once for both sides.

A psync message is one binary websocket message: a header of 12 bytes and a payload.

    offset  size  field     meaning
    0       1     type      which message; bits 7 and 6 say how to read it (below)
    1       1     stream    0 stdin, 1 stdout, 2 stderr; 0 where a message has none
    2       2     channel   attachment or transfer, chosen by the client; 0 = the connection itself
    4       8     offset    position in the stream or in the run's output; 0 where there is none

All numbers are big-endian. Bit 7 (0x80) of the type: the payload is raw bytes, else one JSON object
with exactly the fields of the class. Bit 6 (0x40): optional; a peer that does not know the type
ignores the message instead of closing the connection.

``bytes`` fields (paths, arguments, environment) are base64 in JSON, because JSON is text and they
are not.
"""

from __future__ import annotations

from typing import Annotated, get_args

from msgspec import Meta, Struct

from psync.model import ExitStatus, HostFacts, RunSpec, RunState, Stream
from psync.protocol.base import (
    FEATURES as FEATURES,
    HEARTBEAT_INTERVAL as HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT as HEARTBEAT_TIMEOUT,
    HELLO_TIMEOUT as HELLO_TIMEOUT,
    MAX_CHANNEL as MAX_CHANNEL,
    MAX_CONTROL as MAX_CONTROL,
    MAX_DATA as MAX_DATA,
    MAX_PIECE as MAX_PIECE,
    OPTIONAL as OPTIONAL,
    RAW as RAW,
    SUBPROTOCOL as SUBPROTOCOL,
    VERSION as VERSION,
    WINDOW_OUTPUT as WINDOW_OUTPUT,
    WINDOW_STDIN as WINDOW_STDIN,
    Channel as Channel,
    Control as Control,
    Name as Name,
    Offset as Offset,
    ProjectID as ProjectID,
    Raw as Raw,
    RequestID as RequestID,
    RequestNumber as RequestNumber,
    RunID as RunID,
    Seconds as Seconds,
    SignalName as SignalName,
    Text as Text,
    Word as Word,
)
from psync.protocol.requests import (
    PAGE_RUNS as PAGE_RUNS,
    CertificateRenewed as CertificateRenewed,
    ListRuns as ListRuns,
    Locate as Locate,
    Located as Located,
    OpenProject as OpenProject,
    ProjectOpened as ProjectOpened,
    RenewCertificate as RenewCertificate,
    RequestRefused as RequestRefused,
    RunList as RunList,
)
from psync.protocol.transfers import (
    MAX_ARGUMENTS as MAX_ARGUMENTS,
    MOST_NAMES as MOST_NAMES,
    NAMES_BYTES as NAMES_BYTES,
    WINDOW_TRANSFER as WINDOW_TRANSFER,
    BeginSync as BeginSync,
    CancelTransfer as CancelTransfer,
    CheckMirror as CheckMirror,
    EndSync as EndSync,
    MirrorChecked as MirrorChecked,
    OpenTransfer as OpenTransfer,
    SyncBegun as SyncBegun,
    SyncEnded as SyncEnded,
    TransferEnded as TransferEnded,
)


class Limits(Struct, frozen=True, forbid_unknown_fields=False):
    """What the sender of a ``hello`` accepts.

    Attributes:
        data: largest raw payload in bytes.
        control: largest JSON payload in bytes.
        window: how many unacknowledged bytes the sender takes per channel.

    What a peer does not mention it takes as the first version did: the defaults.
    """

    data: Annotated[int, Meta(ge=1024, le=2**31)] = MAX_DATA
    control: Annotated[int, Meta(ge=1024, le=2**31)] = MAX_CONTROL
    window: Annotated[int, Meta(ge=1024, le=2**40)] = WINDOW_OUTPUT


LIMITS = Limits(data=MAX_PIECE)
"""What this version accepts, on both sides."""


class Hello(Control, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """First message of both sides; the client speaks first.

    Unknown fields are ignored here, and only here, so that later versions can be negotiated.

    Attributes:
        versions: protocol versions the sender speaks; the daemon answers with the one chosen.
        software: the sender's program and version, for messages to people.
        features: optional abilities, by name.
        limits: what the sender accepts.
        facts: what the daemon says about its host; None from a client.
        certificate_expires: when the client's certificate ends, in seconds since the epoch, as the
            daemon has it; None from a client, and where it was not the daemon that signed it.
    """

    TYPE = 0x01
    versions: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    software: Name
    features: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    limits: Limits = Limits()
    facts: HostFacts | None = None
    certificate_expires: Seconds | None = None


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
        viewer: random, the same for all connections of one attachment; a ``Start``'s is its
            ``request_id``. It says whose stdin goes on.
        read_only: only look. The run neither waits for this client nor lives for it, and takes
            neither stdin nor signals from it.
        times: say with ``Times`` when output was written.
    """

    TYPE = 0x21
    channel: Channel
    run: RunID
    offset: Offset
    viewer: RequestID | None = None
    read_only: bool = False
    times: bool = False


class Attached(Control, frozen=True, kw_only=True):
    """Daemon: the answer to ``Start`` and ``Attach``.

    Attributes:
        channel: the attachment.
        run: the run's ID.
        state: its state now.
        stdin: how many bytes of stdin the program's pipe has taken; stdin goes on from here.
        end: length of the output so far.
        holder: who holds stdin where it is not this attachment, for people.
    """

    TYPE = 0x22
    channel: Channel
    run: RunID
    state: RunState
    stdin: Offset
    end: Offset = 0
    holder: Name | None = None


class StdinHolder(Control, frozen=True, kw_only=True):
    """Daemon: another attachment holds stdin now.

    Attributes:
        channel: the attachment that is told.
        offset: how many bytes of stdin were accepted up to now; the holder goes on from here.
        holder: who it is, for people; None where it is the attachment that is told.
    """

    TYPE = 0x26
    channel: Channel
    offset: Offset
    holder: Name | None = None


class Times(Control, frozen=True, kw_only=True):
    """Daemon: when the output that follows was written.

    Attributes:
        channel: the attachment.
        stamps: pairs of an offset and the time, in nanoseconds since the epoch, at which the output
            from there on was written; ascending.
    """

    TYPE = 0x27
    channel: Channel
    stamps: Annotated[tuple[tuple[Offset, Offset], ...], Meta(max_length=4096)]


class Refused(Control, frozen=True, kw_only=True):
    """Daemon: ``Start`` or ``Attach`` was refused, or the attachment ended for this reason."""

    TYPE = 0x23
    channel: Channel
    code: Word
    message: Text
    hint: Text = ""


class Detach(Control, frozen=True, kw_only=True):
    """Client: I leave this run on purpose; it goes on.

    Attributes:
        channel: the attachment.
        keep: from now on the run needs no client, whatever its disconnect policy was.
    """

    TYPE = 0x24
    channel: Channel
    keep: bool = False


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
    name: SignalName


class Stop(Control, frozen=True, kw_only=True):
    """Client: end the run's whole process tree.

    Attributes:
        channel: the attachment.
        kill: False sends SIGTERM to every process of the run, True kills until none is left.
        signal: climb down the ladder instead: this signal to the process group, after ``grace``
            SIGTERM to every process, then the kill.
        grace: seconds.
    """

    TYPE = 0x31
    channel: Channel
    kill: bool
    signal: SignalName | None = None
    grace: Seconds = 10.0


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
    | ListRuns
    | RunList
    | Locate
    | Located
    | RenewCertificate
    | CertificateRenewed
    | BeginSync
    | SyncBegun
    | EndSync
    | SyncEnded
    | CheckMirror
    | MirrorChecked
    | OpenTransfer
    | TransferEnded
    | CancelTransfer
    | Start
    | Attach
    | Attached
    | Refused
    | Detach
    | Exited
    | StdinHolder
    | Times
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
    cls.TYPE: cls for cls in get_args(Message) if issubclass(cls, Control)
}

FROM_CLIENT = (
    Hello, Error, Ping, Pong, OpenProject, ListRuns, Locate, RenewCertificate,
    BeginSync, EndSync, CheckMirror, OpenTransfer, CancelTransfer,
    Start, Attach, Detach, Signal, Stop, CloseOutput, Data, Ack, StdinEnd,
)  # fmt: skip
"""What a client may say."""

FROM_DAEMON = (
    Hello, Error, Ping, Pong, ProjectOpened, RequestRefused, RunList, Located, CertificateRenewed,
    SyncBegun, SyncEnded, MirrorChecked, TransferEnded,
    Attached, Refused, Exited, StdinHolder, Times, StdinClosed, Gap, Data, Ack,
)  # fmt: skip
"""What a daemon may say."""
