"""A daemon in the background: started once, found by everybody who wants one."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping

import msgspec

from psync.daemon.listening import Presence, read_presence
from psync.daemon.lock import holder
from psync.errors import DaemonNotRunning, PsyncError, from_code
from psync.paths import ServerPaths, private_directory

START_TIMEOUT = 20.0
"""Seconds a daemon has to get ready; making the CA is the longest part of the very first start."""


class Readiness(msgspec.Struct, frozen=True):
    """What a daemon writes, as one JSON object, into the pipe ``--ready-fd``: one of the two."""

    presence: Presence | None = None
    error: tuple[str, str, str] | None = None


def running(paths: ServerPaths) -> Presence | None:
    """Return what the running daemon says about itself, None where none runs or it is not ready."""
    pid = holder(paths.lock)
    presence = read_presence(paths.record) if pid is not None else None
    return presence if presence is not None and presence.pid == pid else None


def ensure(paths: ServerPaths, environ: Mapping[str, str]) -> Presence:
    """Return the running daemon; start one in the background where none runs.

    Two callers at once end up with the same daemon: the second one to start finds the lock taken.

    Raises:
        PsyncError: it could not start, in its own words; or not in time.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while (presence := running(paths)) is None:
        if holder(paths.lock) is None:
            presence = _start(paths, environ)
            if presence is not None:
                return presence
        if time.monotonic() > deadline:
            raise DaemonNotRunning(
                "the daemon did not get ready in time", hint=f"its log is {paths.log}"
            )
        time.sleep(0.02)  # another starter holds the lock and is about to be ready
    return presence


def _start(paths: ServerPaths, environ: Mapping[str, str]) -> Presence | None:
    """Start a daemon; return None where another one was quicker."""
    private_directory(paths.state)
    log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    ours, theirs = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "psync.cli.server", "serve", "--ready-fd", str(theirs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=dict(environ),
            pass_fds=[theirs],
            start_new_session=True,
        )
    finally:
        os.close(log)
        os.close(theirs)
    # it outlives this process on purpose; init reaps it
    process.returncode = 0
    try:
        said = _read_all(ours, START_TIMEOUT)
    finally:
        os.close(ours)
    try:
        readiness = msgspec.json.decode(said, type=Readiness)
    except msgspec.MsgspecError:
        raise PsyncError("the daemon ended while it started", hint=f"see {paths.log}") from None
    if readiness.error is not None:
        code, message, hint = readiness.error
        if code == "already-running":
            return None
        raise from_code(code, message, hint)
    return readiness.presence


def report_ready(fd: int, presence: Presence) -> None:
    """Tell whoever started this daemon, through the pipe ``fd``, that it is ready; closes it."""
    _report(fd, Readiness(presence=presence))


def report_failure(fd: int, error: PsyncError) -> None:
    """Tell whoever started this daemon, through the pipe ``fd``, why it is not; closes it."""
    _report(fd, Readiness(error=(error.code, error.message, error.hint)))


def _report(fd: int, readiness: Readiness) -> None:
    try:
        with open(fd, "wb") as pipe:
            pipe.write(msgspec.json.encode(readiness))
    except BrokenPipeError:
        return  # the starter did not wait


def _read_all(fd: int, timeout: float) -> bytes:
    said = b""
    deadline = time.monotonic() + timeout
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(fd, 65536)
        if not chunk:
            break
        said += chunk
    return said
