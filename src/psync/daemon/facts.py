"""What the daemon tells clients about its host."""

from __future__ import annotations

import os
import shutil
import socket
import sys

import psync
from psync.errors import ToolMissing
from psync.model import HostFacts, Tool
from psync.sync.tools import rsync_version

PROBE_TIMEOUT = 5.0
"""Seconds that ``rsync --version`` may take before rsync counts as missing."""


def host_facts(projects_root: bytes) -> HostFacts:
    """Return what is true of this host now; asks the rsync on PATH for its version."""
    uname = os.uname()
    return HostFacts(
        hostname=socket.gethostname(),
        system=uname.sysname,
        machine=uname.machine,
        projects_root=projects_root,
        rsync=find_rsync(),
        server=server_executable(),
        software=f"psync-server {psync.__version__}",
    )


def find_rsync() -> Tool | None:
    """Return the rsync on the daemon's PATH, or None where there is none that answers."""
    path = shutil.which("rsync")
    if path is None:
        return None
    try:
        return Tool(path=path, version=rsync_version(path, PROBE_TIMEOUT))
    except ToolMissing:
        return None


def server_executable() -> str:
    """Return the path under which this very psync-server can be started again."""
    beside_python = os.path.join(os.path.dirname(sys.executable), "psync-server")
    if os.access(beside_python, os.X_OK):
        return beside_python
    return shutil.which("psync-server") or os.path.abspath(sys.argv[0])
