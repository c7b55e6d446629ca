"""psync: build here, run there.

The names below are psync's public Python API. Nothing is imported until a name is used, so that
``import psync`` costs next to nothing and a command pays only for what it needs.
"""

from __future__ import annotations

# Known to type checkers by its name; typing itself costs 8 ms, and the supervisor imports this too.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from psync.api import connect
    from psync.client.pieces import Gap, Output
    from psync.client.run import RemoteRun
    from psync.client.target import Target
    from psync.errors import (
        ConfigError,
        ConnectError,
        ConnectionLost,
        DaemonNotRunning,
        DestinationError,
        ExecError,
        Fault,
        Interrupted,
        NotPaired,
        ProgramNotFound,
        ProjectBusy,
        ProtocolError,
        PsyncError,
        Refused,
        RunLost,
        SSHError,
        SyncError,
        ToolMissing,
        TrustError,
        UnknownTarget,
        UsageError,
        WrongDaemon,
    )
    from psync.model import ExitStatus, HostFacts, RunInfo, RunState, Stream
    from psync.sync.rsync import Summary

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "ConnectError",
    "ConnectionLost",
    "DaemonNotRunning",
    "DestinationError",
    "ExecError",
    "ExitStatus",
    "Fault",
    "Gap",
    "HostFacts",
    "Interrupted",
    "NotPaired",
    "Output",
    "ProgramNotFound",
    "ProjectBusy",
    "ProtocolError",
    "PsyncError",
    "Refused",
    "RemoteRun",
    "RunInfo",
    "RunLost",
    "RunState",
    "SSHError",
    "Stream",
    "Summary",
    "SyncError",
    "Target",
    "ToolMissing",
    "TrustError",
    "UnknownTarget",
    "UsageError",
    "WrongDaemon",
    "__version__",
    "connect",
]

# Public names that do not live in psync.errors, and the modules that hold them.
_HOMES = {
    "ExitStatus": "psync.model",
    "Gap": "psync.client.pieces",
    "HostFacts": "psync.model",
    "Output": "psync.client.pieces",
    "RemoteRun": "psync.client.run",
    "RunInfo": "psync.model",
    "RunState": "psync.model",
    "Stream": "psync.model",
    "Summary": "psync.sync.rsync",
    "Target": "psync.client.target",
    "connect": "psync.api",
}


if not TYPE_CHECKING:  # a type checker would take it for a promise of every name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(_HOMES.get(name, "psync.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
