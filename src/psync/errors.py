"""Every error psync raises, as one tree.

    PsyncError                      125   psync itself failed
    ├── UsageError                    2   the command line asks for something impossible
    │   ├── ConfigError               2   a configuration file or variable is wrong
    │   └── UnknownTarget             2   no target of that name
    ├── SyncError                   125   the files are not (all) there; nothing was started
    │   ├── ToolMissing             125   rsync or ssh is missing, or too old, on one side
    │   ├── DestinationError        125   the daemon host cannot take the files
    │   └── ProjectBusy             125   another sync of this project is going on
    ├── TrustError                  125   one side does not accept the other's identity
    │   ├── NotPaired               125   the daemon does not know this client
    │   └── WrongDaemon             125   the other side is not the daemon that was paired
    ├── ConnectError                125   no connection could be made
    │   ├── SSHError                125   ssh failed before psync came into play
    │   └── DaemonNotRunning        125   the host answers, no daemon does
    ├── ConnectionLost              125   an open connection ended without being asked to
    ├── ProtocolError               125   the peer speaks something that is not psync.v1
    ├── Refused                     125   the daemon understood and said no
    ├── ExecError                   126   the program is there and cannot be executed
    ├── ProgramNotFound             127   there is no such program
    ├── RunLost                     255   nobody knows how the run ended
    └── Interrupted                 130   Ctrl-C before there was a run to send it to

Each class owns its exit status and says whose fault it is; each instance says what failed and why
(``message``) and what to type next (``hint``). The command line prints both and nothing else in
psync prints or exits.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Fault(Enum):
    """Whose fault an error is; decides what is worth trying again."""

    USER = "user"
    OURS = "ours"
    PEER = "peer"
    NETWORK = "network"


class PsyncError(Exception):
    """Base of everything psync raises on purpose.

    Attributes:
        message: what failed and why, one line where one will do, no trailing full stop.
        hint: what to type or to change next; empty when there is nothing to suggest.
        code: the word that stands for this class in messages between daemon and client.
        exit_status: what ``psync`` exits with when this error ends it.
        fault: whose fault it is.
    """

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 125
    fault: ClassVar[Fault] = Fault.OURS

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(PsyncError):
    """The command line asks for something that cannot be."""

    code = "usage"
    exit_status = 2
    fault = Fault.USER


class ConfigError(UsageError):
    """A configuration file or variable is wrong; the message names file, line and key."""

    code = "config"


class UnknownTarget(UsageError):
    """No target of that name is configured."""

    code = "unknown-target"


class SyncError(PsyncError):
    """The files did not all arrive, so nothing was started."""

    code = "sync"


class ToolMissing(SyncError):
    """rsync or ssh is missing, or too old, on the side the message names."""

    code = "tool-missing"
    fault = Fault.USER


class DestinationError(SyncError):
    """The daemon host cannot take the files: not writable, disk full, not a psync mirror."""

    code = "destination"
    fault = Fault.PEER


class ProjectBusy(SyncError):
    """Another sync of the same project is going on; the message names its holder."""

    code = "project-busy"
    fault = Fault.USER


class TrustError(PsyncError):
    """One side does not accept the other's identity."""

    code = "trust"
    fault = Fault.PEER


class NotPaired(TrustError):
    """The daemon does not know this client, or does not trust it any more."""

    code = "not-paired"
    fault = Fault.USER


class WrongDaemon(TrustError):
    """The other side's certificate is not that of the daemon this client was paired with."""

    code = "wrong-daemon"


class ConnectError(PsyncError):
    """No connection to the daemon could be made."""

    code = "connect"
    fault = Fault.NETWORK


class SSHError(ConnectError):
    """ssh failed before psync came into play; the message carries ssh's own words."""

    code = "ssh"


class DaemonNotRunning(ConnectError):
    """The host answers, but no daemon listens there."""

    code = "daemon-not-running"


class ConnectionLost(PsyncError):
    """An open connection ended without being asked to."""

    code = "connection-lost"
    fault = Fault.NETWORK


class ProtocolError(PsyncError):
    """The peer speaks something that is not psync.v1, or breaks its rules."""

    code = "protocol"
    fault = Fault.PEER


class Refused(PsyncError):
    """The daemon understood the request and said no (a limit, a rule, a state)."""

    code = "refused"
    fault = Fault.USER


class ExecError(PsyncError):
    """The program is there and cannot be executed (permission, format, interpreter)."""

    code = "not-executable"
    exit_status = 126
    fault = Fault.USER


class ProgramNotFound(PsyncError):
    """There is no such program."""

    code = "program-not-found"
    exit_status = 127
    fault = Fault.USER


class RunLost(PsyncError):
    """The run's supervisor died without a record, so nobody knows how the run ended."""

    code = "run-lost"
    exit_status = 255


class Interrupted(PsyncError):
    """Ctrl-C (or SIGTERM, SIGHUP) came before there was a run to send it to."""

    code = "interrupted"
    exit_status = 130
    fault = Fault.USER


def _tree(cls: type[PsyncError]) -> dict[str, type[PsyncError]]:
    found = {cls.code: cls}
    for sub in cls.__subclasses__():
        found.update(_tree(sub))
    return found


_BY_CODE = _tree(PsyncError)


def from_code(code: str, message: str, hint: str = "") -> PsyncError:
    """Return the error that a peer named by its ``code``; an unknown code becomes ``Refused``."""
    return _BY_CODE.get(code, Refused)(message, hint=hint)
