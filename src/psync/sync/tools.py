"""Which rsync there is, and whether it can do what psync asks of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping

import msgspec

from psync.errors import ToolMissing
from psync.model import Tool
from psync.paths import private_directory, write_atomic
from psync.text import printable

MINIMUM = (3, 1, 3)
"""The first rsync that compares file times in nanoseconds (``--modify-window=-1``)."""

PROBE_TIMEOUT = 10.0
"""Seconds that ``rsync --version`` may take."""

_CACHE = "rsync.json"


class _Known(msgspec.Struct, frozen=True):
    """The version of an executable, as long as it is the same file."""

    path: str
    mtime_ns: int
    size: int
    inode: int
    version: str


def find_rsync(state: str, environ: Mapping[str, str]) -> Tool:
    """Return the rsync on PATH; it is new enough.

    Its version is remembered in ``state``, so that this costs no process as long as the executable
    stays the same.

    Args:
        state: the client's state directory; made when missing.
        environ: where PATH is.

    Raises:
        ToolMissing: there is none, it is too old, or another program of that name.
    """
    path = _which("rsync", environ.get("PATH", os.defpath))
    if path is None:
        raise ToolMissing(
            "rsync is not installed on this machine",
            hint="install it, for example: sudo apt install rsync",
        )
    status = os.stat(path)
    seen = (path, status.st_mtime_ns, status.st_size, status.st_ino)
    known = _recall(f"{state}/{_CACHE}")
    if known is None or (known.path, known.mtime_ns, known.size, known.inode) != seen:
        known = _Known(*seen, version=rsync_version(path))
        _remember(state, known)
    tool = Tool(path=path, version=known.version)
    check_rsync(tool, "on this machine")
    return tool


def check_rsync(tool: Tool | None, place: str) -> None:
    """Make sure that an rsync is there and new enough.

    Args:
        tool: what was found.
        place: where, such as ``on laptop``.

    Raises:
        ToolMissing: it is not.
    """
    if tool is None:
        raise ToolMissing(
            f"rsync is not installed {place}",
            hint=f"install it {place}, for example: sudo apt install rsync",
        )
    number = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tool.version)
    what = f"rsync {place} ({printable(tool.path)}, {printable(tool.version)})"
    hint = f"install rsync {'.'.join(map(str, MINIMUM))} or newer {place}; on macOS: "
    hint += "brew install rsync"
    if number is None:
        raise ToolMissing(f"{what} is not an rsync that psync can use", hint=hint)
    if tuple(int(part or 0) for part in number.groups()) < MINIMUM:
        raise ToolMissing(f"{what} is too old", hint=hint)


def rsync_version(path: str, timeout: float = PROBE_TIMEOUT) -> str:
    """Return the version that an rsync gives, or its first line when that names none.

    Args:
        path: of the executable on this machine.
        timeout: seconds it may take.

    Raises:
        ToolMissing: it cannot be executed, or does not answer.
    """
    try:
        said = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolMissing(
            f"rsync on this machine ({printable(path)}) does not work: {error}",
            hint="install it again, for example: sudo apt install --reinstall rsync",
        ) from error
    line = said.decode("utf-8", "replace").partition("\n")[0].strip()
    found = re.match(r"rsync\s+version\s+v?(\d[\w.]*)", line)
    return found[1] if found else line[:100] or "no version"


def _which(name: str, search: str) -> str | None:
    for directory in search.split(os.pathsep):
        path = os.path.join(directory or ".", name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def _recall(path: str) -> _Known | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(4096), type=_Known)
    except (OSError, msgspec.MsgspecError):
        return None


def _remember(state: str, known: _Known) -> None:
    try:
        private_directory(state)
        write_atomic(f"{state}/{_CACHE}", msgspec.json.encode(known))
    except OSError:
        pass  # a full disk costs a process the next time, nothing else
