"""What a client asks to run, checked, and made into what a supervisor is told."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence

import msgspec

from psync.daemon.environment import home_directory, run_environment
from psync.daemon.run import FLOOR_STEP
from psync.daemon.rundir import FORMAT, Ticket, boot
from psync.errors import Refused
from psync.model import RunSpec
from psync.supervisor import record
from psync.text import printable

VARIABLE = b"LD_LIBRARY_PATH"

LOWEST_LIMIT = 4 * FLOOR_STEP
"""Least output a run may hold unread; with less it would wait for news that comes in steps."""


class LogLimits(msgspec.Struct, frozen=True):
    """How much output of a run is held on disk, in bytes.

    Attributes:
        unread: output that no client has taken yet; a run that reaches it blocks or drops the
            oldest. Not below ``LOWEST_LIMIT``.
        kept: output that was delivered and stays readable.
    """

    unread: int = record.LOG_LIMIT
    kept: int = record.LOG_KEEP


def check(spec: RunSpec) -> None:
    """See whether that can be run at all.

    Raises:
        Refused: it cannot.
    """
    if not spec.argv:
        raise Refused("the command is empty")
    for word in (*spec.argv, *(part for pair in spec.env for part in pair)):
        if b"\0" in word:
            raise Refused("arguments and environment cannot hold a NUL byte")
    if spec.disconnect_grace is not None and spec.disconnect_grace < 0:
        raise Refused("the time a run waits for its client cannot be negative")
    for name, _ in spec.env:
        if not name or b"=" in name:
            raise Refused(f"{printable(name)} is not the name of an environment variable")


def with_library_path(spec: RunSpec, directories: Sequence[str]) -> RunSpec:
    """Return ``spec`` with directories in front of what its ``LD_LIBRARY_PATH`` is.

    Args:
        spec: what the client asks for.
        directories: absolute, for those of ``spec.library_path``.

    Raises:
        Refused: the loader would take one for two.
    """
    words = [os.fsencode(directory) for directory in directories]
    for word in words:
        if b":" in word or b";" in word:
            raise Refused(
                f"{printable(word)} cannot be searched for shared libraries, it has a : or ; in it",
                hint="give the directory another name, or take it out of LD_LIBRARY_PATH and RPATH",
            )
    own = dict(spec.env)
    given = own.get(VARIABLE, b"")
    own[VARIABLE] = b":".join(words + [given] * bool(given))
    return msgspec.structs.replace(spec, env=tuple(own.items()))


def ticket(spec: RunSpec, *, client: str, client_name: str, request: str) -> Ticket:
    """Return where a run that is asked for now comes from."""
    return Ticket(
        format=FORMAT,
        client=client,
        request=request,
        project=spec.project,
        name=spec.name,
        argv=spec.argv,
        created=time.time(),
        client_name=client_name,
        revision=spec.revision,
        disconnect_grace=spec.disconnect_grace,
        overflow=spec.overflow,
        boot=boot(),
    )


def supervised(
    spec: RunSpec,
    *,
    run_id: str,
    executable: str | None,
    cwd: str | None,
    environ: Mapping[bytes, bytes],
    limits: LogLimits,
) -> record.Spec:
    """Return what a run's supervisor is told.

    Args:
        spec: what the client asks for.
        run_id: the run's ID.
        executable: absolute path of the program, None to look it up on the run's PATH.
        cwd: absolute working directory, None for the user's home.
        environ: the daemon's own environment.
        limits: how much output is kept.
    """
    environment = run_environment(environ, run_id, spec.env)
    return record.Spec(
        argv=list(spec.argv),
        env=list(environment.items()),
        cwd=os.fsencode(cwd) if cwd is not None else home_directory(environ),
        executable=None if executable is None else os.fsencode(executable),
        run_id=run_id,
        name=spec.name,
        disconnect_grace=spec.disconnect_grace,
        overflow=spec.overflow.value,
        log_limit=max(limits.unread, LOWEST_LIMIT),
        log_keep=limits.kept,
    )
