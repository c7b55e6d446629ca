"""What the daemon tells clients about its host."""

from __future__ import annotations

import os
import shutil
import socket
import sys

import msgspec

import psync
from psync.errors import ToolMissing
from psync.model import HostFacts, Tool
from psync.sync.elf import MAGIC, parse_header
from psync.sync.machine import LOADERS
from psync.sync.tools import rsync_version

PROBE_TIMEOUT = 5.0
"""Seconds that ``rsync --version`` may take before rsync counts as missing."""

BINFMT = "/proc/sys/fs/binfmt_misc"
"""Where Linux says which formats it hands to which emulator."""


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
        emulated=emulated_machines(),
        loaders=tuple(filter(os.path.exists, LOADERS)),
    )


class Facts:
    """What is true of this host, for as long as the daemon runs.

    An rsync that was installed, replaced or removed meanwhile is noticed: clients are told what is
    the case when they connect. That costs a look at PATH, and a process only after a change. The
    same goes for what else can be installed while the daemon runs: emulators and dynamic loaders.

    Args:
        projects_root: absolute directory of the mirrors.
    """

    def __init__(self, projects_root: bytes) -> None:
        self._seen = _rsync_file()
        self._facts = host_facts(projects_root)

    def current(self) -> HostFacts:
        """Return the facts as they are now. Blocks while a changed rsync says its version."""
        seen = _rsync_file()
        if seen != self._seen:
            self._seen = seen
            self._facts = msgspec.structs.replace(self._facts, rsync=find_rsync())
        emulated, loaders = emulated_machines(), tuple(filter(os.path.exists, LOADERS))
        if (emulated, loaders) != (self._facts.emulated, self._facts.loaders):
            self._facts = msgspec.structs.replace(self._facts, emulated=emulated, loaders=loaders)
        return self._facts


def _rsync_file() -> tuple[str, int, int, int] | None:
    """Return what tells one rsync on PATH from another without asking it."""
    path = shutil.which("rsync")
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:  # it was there a moment ago
        return None
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def emulated_machines(directory: str = BINFMT) -> tuple[str, ...]:
    """Return the machines whose ELF programs an emulator is registered for, sorted.

    Args:
        directory: has a file for each format, see ``binfmt_misc`` in the kernel's documentation.
    """
    found = set()
    try:
        names = set(os.listdir(directory)) - {"register", "status"}
    except OSError:
        return ()
    for name in names:
        try:
            with open(os.path.join(directory, name), "rb") as file:
                lines = file.read(4096).split(b"\n")
        except OSError:
            continue  # it was there a moment ago
        words = dict(line.split(b" ", 1) for line in lines if b" " in line)
        try:
            magic = bytes.fromhex(words.get(b"magic", b"").decode())
        except ValueError:
            continue
        if lines[0] == b"enabled" and words.get(b"offset") == b"0" and magic.startswith(MAGIC):
            header = parse_header(magic)
            if header is not None and header.machine:
                found.add(header.machine)
    return tuple(sorted(found))


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
