"""The nouns psync is about: frozen values, no I/O.

Paths, arguments and environment are ``bytes``, as the kernel has them; text is for names only.
"""

from __future__ import annotations

import re
import signal
from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec

PROJECT_ID = r"[a-z0-9][a-z0-9._-]{0,79}"
"""What a project's ID looks like: one harmless file name."""


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

RUN_ID = r"[a-z0-9]{1,32}"
"""What a run's ID looks like."""


def is_project_id(text: str) -> bool:
    """Whether ``text`` may name a project's directory on the daemon host."""
    return re.fullmatch(PROJECT_ID, text) is not None


class Stream(IntEnum):
    """A stream of a run. The numbers are the wire's and the log's."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2


class RunState(StrEnum):
    """Where a run is in its life: ``starting → running → stopping → exited | lost``."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    LOST = "lost"

    @property
    def final(self) -> bool:
        """Whether the run is over, one way or the other."""
        return self in (RunState.EXITED, RunState.LOST)


class ExitStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a run ended. Exactly one of the three fields says it; there is no default of 0.

    Attributes:
        code: the program's own exit status, 0 to 255.
        signal: the name of the signal that ended the program, such as ``"SIGKILL"``.
        lost: nobody knows; the supervisor died without a record.
    """

    code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: str | None = None
    lost: bool = False

    def __post_init__(self) -> None:
        if (self.code is not None) + (self.signal is not None) + self.lost != 1:
            raise ValueError("an exit status is a code, a signal or lost: exactly one of them")

    @property
    def returncode(self) -> int:
        """The status a shell would show: code, 128 + n for signal n, 255 when lost."""
        if self.code is not None:
            return self.code
        if self.signal is None:
            return 255
        try:
            return 128 + signal.Signals[self.signal].value
        except KeyError:  # a real-time signal, named SIGRTMIN+n by the daemon host
            base, _, plus = self.signal.partition("+")
            number = 34 if base == "SIGRTMIN" else 0
            return 128 + number + (int(plus) if plus.isdecimal() and len(plus) < 3 else 0)


class Overflow(StrEnum):
    """What happens when a run's unread output reaches its limit."""

    BLOCK = "block"
    DROP = "drop"


class RunSpec(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """What to run, as the client asks for it.

    Attributes:
        argv: the command, at least one element. ``argv[0]`` is found as ``program`` says.
        program: the path of the executable relative to the project's mirror directory (it starts
            with ``tree/`` or ``outside/``), or None to look ``argv[0]`` up on the daemon host's
            PATH.
        env: names and values set on top of the daemon's login-like base.
        cwd: the working directory relative to the project's mirror directory, or None for the
            home directory of the daemon's user.
        project: ID of the project whose mirror ``program`` and ``cwd`` refer to.
        name: a name for people; may be empty.
        disconnect_grace: seconds the run lives without any client, None for ever.
        overflow: what happens at the limit of unread output.
        revision: revision of the project's source in its version control, for people; may be empty.
        library_path: directories, relative to the project's mirror directory, that come first in
            the run's ``LD_LIBRARY_PATH``.
    """

    argv: tuple[bytes, ...]
    program: bytes | None = None
    env: tuple[tuple[bytes, bytes], ...] = ()
    cwd: bytes | None = None
    project: str | None = None
    name: str = ""
    disconnect_grace: float | None = 300.0
    overflow: Overflow = Overflow.BLOCK
    revision: Annotated[str, msgspec.Meta(max_length=200)] = ""
    library_path: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=1024)] = ()


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a daemon tells about a run. Times are seconds since the epoch, by the daemon's clock.

    Attributes:
        id: the run's ID.
        command: program and arguments, shortened to a few kilobytes in all.
        state: where it is in its life.
        created: when it was asked for.
        name: a name for people; may be empty.
        project: ID of its project.
        client: name of the client that started it.
        revision: revision of the project's source.
        started: when the program was started; None where it was not, or nobody knows.
        ended: when it ended; of a lost one, when it was last known to live.
        status: how it ended; None while it has not.
        reason: what made it end: ``exited``, ``stopped``, ``disconnected`` or ``exec-failed``.
        output: length of its output, in bytes.
        oldest: the first byte of it that can still be read.
        viewers: how many clients are attached.
        disconnect_grace: as in ``RunSpec``.
        overflow: as in ``RunSpec``.
    """

    id: Annotated[str, msgspec.Meta(pattern=rf"\A{RUN_ID}\Z")]
    command: tuple[bytes, ...]
    state: RunState
    created: float
    name: str = ""
    project: str | None = None
    client: str = ""
    revision: str = ""
    started: float | None = None
    ended: float | None = None
    status: ExitStatus | None = None
    reason: str = ""
    output: Count = 0
    oldest: Count = 0
    viewers: Count = 0
    disconnect_grace: float | None = None
    overflow: Overflow = Overflow.BLOCK


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An external program on one of the hosts: absolute ``path`` and ``version`` as it says it."""

    path: str
    version: str


class HostFacts(msgspec.Struct, frozen=True):
    """What the daemon says about its host; the client keeps a copy beside the target.

    Attributes:
        hostname: the host's own name.
        system: ``uname -s``, such as ``Linux``.
        machine: ``uname -m``, such as ``x86_64``.
        projects_root: absolute directory that holds the projects' mirrors.
        rsync: the rsync found on the daemon's PATH, or None.
        server: absolute path of the ``psync-server`` executable.
        software: psync's version there.
        emulated: machines whose programs the kernel there hands to an emulator, as ``uname -m``
            calls them.
        loaders: those of the usual dynamic loaders (``psync.sync.machine.LOADERS``) that are there;
            empty where that is not known.
    """

    hostname: str
    system: str
    machine: str
    projects_root: bytes
    rsync: Tool | None
    server: str
    software: str
    emulated: tuple[str, ...] = ()
    loaders: tuple[bytes, ...] = ()
