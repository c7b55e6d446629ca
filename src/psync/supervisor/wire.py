"""The bytes on a run's ``ctl`` socket, and those between daemon and launcher.

A frame is ``!IB``: length of the payload, type; then the payload. All integers are big-endian.
Sans I/O: ``Frame.encode`` makes bytes, ``FrameDecoder`` makes frames.

The daemon connects to ``ctl`` (``record.connect_path``) and is greeted with ``Hello``. Only the
newest connection counts; an older one is closed. A daemon that breaks the rules is disconnected
and may connect again. All state lives in the supervisor, so nothing is lost by that.

A connection may end (end of file or ECONNRESET) at any point, or be refused (ECONNREFUSED, no
``ctl``), because the run is over: exit.json is there before that happens, also for a run so short
that nobody was greeted. If there is none and ``record.Owner.alive`` is false, the run is lost.

    daemon → supervisor
        Viewers       how many clients are attached now; 0 again for each new connection
        Stdin         bytes for the program's stdin at their offset in the stdin stream
        StdinEof      the stream ends at this offset
        Signal        a signal for the program's process group
        Terminate     SIGTERM for the whole tree: the group and every descendant
        Kill          SIGKILL for the whole tree, until nobody is left
        Stop          the ladder: signal to the group, after the grace Terminate, 2 s later Kill
        Floor         output below this offset is not needed by any client any more
        Lead          the log may grow up to this offset while a client is attached
        Keep          from now on the run needs no client
        CloseOutput   the last reader of a stream is gone: the program's next write gets SIGPIPE

    supervisor → daemon
        Hello         first frame of every connection
        Started       the program was executed (not sent again where Hello already says so)
        Grew          the log grew: look at the cursor. Coalesced: one may stand for many appends
        StdinTaken    all stdin below this offset is in the program's pipe (or swallowed)
        StdinClosed   the program closed its stdin; what still comes is swallowed and acknowledged
        Exited        exit.json is on disk and the log complete; the supervisor closes and exits

    daemon → launcher          launcher → daemon, one answer per request, in their order
        Launch                     Launched | LaunchFailed
"""

from __future__ import annotations

from struct import Struct

from psync.supervisor.frames import (
    Frame as Frame,
    FrameDecoder as FrameDecoder,
    WireError as WireError,
)

MAX_STDIN = 64 * 1024
"""Most bytes of stdin in one frame."""

STDIN_WINDOW = 256 * 1024
"""Most bytes of stdin that may be on the way: sent, and not acknowledged by ``StdinTaken``."""

_U8 = Struct("!B")
_U32 = Struct("!I")
_U64 = Struct("!Q")
_I32 = Struct("!i")
_I32_U32 = Struct("!iI")
_HELLO = Struct("!IQB")


class _Offset(Frame):
    """A frame that carries nothing but an offset."""

    __slots__ = ("offset",)
    SIZE = 8

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def payload(self) -> bytes:
        return _U64.pack(self.offset)

    @classmethod
    def parse(cls, payload: bytes) -> Frame:
        return cls(*_U64.unpack(payload))


class _Number(Frame):
    """A frame that carries one signed number."""

    __slots__ = ("signum",)
    SIZE = 4

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def payload(self) -> bytes:
        return _I32.pack(self.signum)

    @classmethod
    def parse(cls, payload: bytes) -> Frame:
        return cls(_signal(*_I32.unpack(payload)))


def _signal(number: int) -> int:
    if not 1 <= number <= 64:
        raise WireError(f"there is no signal {number}")
    return number


# daemon → supervisor


class Viewers(Frame):
    """``count`` clients are attached now."""

    __slots__ = ("count",)
    TYPE = 1
    SIZE = 4

    def __init__(self, count: int) -> None:
        self.count = count

    def payload(self) -> bytes:
        return _U32.pack(self.count)

    @classmethod
    def parse(cls, payload: bytes) -> Viewers:
        return cls(*_U32.unpack(payload))


class Stdin(Frame):
    """``data`` (1 to ``MAX_STDIN`` bytes) stands at ``offset`` of the stdin stream.

    What was received before is ignored, so that sending again after a resume is harmless. A hole,
    or more than ``STDIN_WINDOW`` bytes beyond ``StdinTaken``, closes the connection.
    """

    __slots__ = ("data", "offset")
    TYPE = 2
    SIZE = None

    def __init__(self, offset: int, data: bytes) -> None:
        self.offset = offset
        self.data = data

    def payload(self) -> bytes:
        return _U64.pack(self.offset) + self.data

    @classmethod
    def parse(cls, payload: bytes) -> Stdin:
        if len(payload) <= 8:
            raise WireError("stdin without bytes")
        return cls(_U64.unpack_from(payload)[0], payload[8:])


class StdinEof(_Offset):
    """The stdin stream is ``offset`` bytes long; the program gets its end after them."""

    __slots__ = ()
    TYPE = 3


class Signal(_Number):
    """Send ``signum`` to the program's process group."""

    __slots__ = ()
    TYPE = 4


class Terminate(Frame):
    """SIGTERM to the program's group and every descendant."""

    __slots__ = ()
    TYPE = 5


class Kill(Frame):
    """SIGKILL to the whole tree, again and again until nobody is left."""

    __slots__ = ()
    TYPE = 6


class Stop(Frame):
    """``signum`` to the group; after ``grace_ms`` SIGTERM to the tree; 2 s later SIGKILL.

    The supervisor runs the ladder itself, whatever becomes of the daemon. A second ``Stop`` never
    delays a step that the first one has planned.
    """

    __slots__ = ("grace_ms", "signum")
    TYPE = 7
    SIZE = 8

    def __init__(self, signum: int, grace_ms: int) -> None:
        self.signum = signum
        self.grace_ms = grace_ms

    def payload(self) -> bytes:
        return _I32_U32.pack(self.signum, self.grace_ms)

    @classmethod
    def parse(cls, payload: bytes) -> Stop:
        signum, grace_ms = _I32_U32.unpack(payload)
        return cls(_signal(signum), grace_ms)


class Floor(_Offset):
    """Output below ``offset`` is not needed any more. It never falls; the log's end bounds it."""

    __slots__ = ()
    TYPE = 8


class Lead(_Offset):
    """While a client is attached the log may grow up to ``offset``; then the program has to wait.

    It keeps a program from running a gigabyte ahead of somebody who watches it and presses Ctrl-C.
    Void as soon as no client is attached, and of no effect where overflow drops.
    """

    __slots__ = ()
    TYPE = 10


class Keep(Frame):
    """The disconnect policy is void: the run is kept without a client for as long as it lives.

    Only for a supervisor whose ``Hello`` says ``KEEPS``; those of 0.1 do not know it.
    """

    __slots__ = ()
    TYPE = 11


class CloseOutput(Frame):
    """Close the read end of ``stream`` (1 stdout, 2 stderr); what it held unread is gone."""

    __slots__ = ("stream",)
    TYPE = 9
    SIZE = 1

    def __init__(self, stream: int) -> None:
        self.stream = stream

    def payload(self) -> bytes:
        return _U8.pack(self.stream)

    @classmethod
    def parse(cls, payload: bytes) -> CloseOutput:
        if payload[0] not in (1, 2):
            raise WireError(f"there is no output stream {payload[0]}")
        return cls(payload[0])


# supervisor → daemon


class Hello(Frame):
    """The state of the run, first frame of a connection.

    Attributes:
        pid: process ID of the program, which is also its process group; 0 if it has none.
        stdin_taken: all stdin below this offset needs not be sent again.
        flags: ``STARTED`` (the program was executed), ``STDIN_CLOSED`` (see ``StdinClosed``),
            ``STDIN_EOF`` (the end of stdin is known), ``STOPPING`` (a stop, terminate, kill or the
            disconnect policy is under way, or the program has ended and its tree is cleared up),
            ``KEEPS`` (this supervisor knows ``Keep``), ``KEPT`` (it was told).
    """

    __slots__ = ("flags", "pid", "stdin_taken")
    TYPE = 65
    SIZE = _HELLO.size

    STARTED = 1
    STDIN_CLOSED = 2
    STDIN_EOF = 4
    STOPPING = 8
    KEEPS = 16
    KEPT = 32

    def __init__(self, pid: int, stdin_taken: int, flags: int) -> None:
        self.pid = pid
        self.stdin_taken = stdin_taken
        self.flags = flags

    def payload(self) -> bytes:
        return _HELLO.pack(self.pid, self.stdin_taken, self.flags)

    @classmethod
    def parse(cls, payload: bytes) -> Hello:
        return cls(*_HELLO.unpack(payload))


class Started(Frame):
    """The program was executed. If that fails there is no such frame, only ``Exited``."""

    __slots__ = ()
    TYPE = 66


class Grew(Frame):
    """The log grew since the last ``Grew``, or since ``Hello``; ``LogReader.end`` says how far.

    A daemon therefore looks at the end after ``Hello`` and after each ``Grew``.
    """

    __slots__ = ()
    TYPE = 67


class StdinTaken(_Offset):
    """All stdin below ``offset`` is in the program's pipe, or swallowed: send that much more."""

    __slots__ = ()
    TYPE = 68


class StdinClosed(Frame):
    """The program closed its stdin (or ended)."""

    __slots__ = ()
    TYPE = 69


class Exited(Frame):
    """exit.json is on disk. Last frame; the supervisor closes the connection and exits."""

    __slots__ = ()
    TYPE = 70


# daemon → launcher, launcher → daemon


class Launch(Frame):
    """Fork a supervisor for the run in ``run_dir``, an absolute path; spec.json is there."""

    __slots__ = ("run_dir",)
    TYPE = 129
    SIZE = None

    def __init__(self, run_dir: bytes) -> None:
        self.run_dir = run_dir

    def payload(self) -> bytes:
        return self.run_dir

    @classmethod
    def parse(cls, payload: bytes) -> Launch:
        return cls(payload)


class Launched(Frame):
    """The supervisor is ``pid``; ``ctl`` listens, supervisor.json and cursor are there."""

    __slots__ = ("pid",)
    TYPE = 130
    SIZE = 4

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def payload(self) -> bytes:
        return _U32.pack(self.pid)

    @classmethod
    def parse(cls, payload: bytes) -> Launched:
        return cls(*_U32.unpack(payload))


class LaunchFailed(Frame):
    """No supervisor came up and no process is left; ``errno`` is 0 if it was no system error."""

    __slots__ = ("errno", "message")
    TYPE = 131
    SIZE = None

    def __init__(self, errno: int, message: str) -> None:
        self.errno = errno
        self.message = message

    def payload(self) -> bytes:
        return _U32.pack(self.errno) + self.message.encode(errors="surrogateescape")

    @classmethod
    def parse(cls, payload: bytes) -> LaunchFailed:
        if len(payload) < 4:
            raise WireError("launch failure without a reason")
        return cls(_U32.unpack_from(payload)[0], payload[4:].decode(errors="surrogateescape"))


def _table(*kinds: type[Frame]) -> dict[int, type[Frame]]:
    return {kind.TYPE: kind for kind in kinds}


FROM_DAEMON = _table(
    Viewers, Stdin, StdinEof, Signal, Terminate, Kill, Stop, Floor, Lead, CloseOutput, Keep
)
FROM_SUPERVISOR = _table(Hello, Started, Grew, StdinTaken, StdinClosed, Exited)
TO_LAUNCHER = _table(Launch)
FROM_LAUNCHER = _table(Launched, LaunchFailed)
