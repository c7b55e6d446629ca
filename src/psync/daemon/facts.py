"""What the daemon tells clients about its host."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys

import psync
from psync.model import HostFacts, Tool

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
        said = subprocess.run(
            [path, "--version"], capture_output=True, timeout=PROBE_TIMEOUT, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    first_line = said.decode("utf-8", "replace").partition("\n")[0].strip()
    numbered = re.match(r"rsync\s+version\s+v?(\d[\w.]*)", first_line)
    return Tool(path=path, version=numbered[1] if numbered else first_line)


def server_executable() -> str:
    """Return the path under which this very psync-server can be started again."""
    beside_python = os.path.join(os.path.dirname(sys.executable), "psync-server")
    if os.access(beside_python, os.X_OK):
        return beside_python
    return shutil.which("psync-server") or os.path.abspath(sys.argv[0])
