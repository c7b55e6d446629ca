"""Which target, which run: what ``ps``, ``logs``, ``attach`` and ``stop`` share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psync.config import ClientConfig, load_client
from psync.errors import UsageError
from psync.model import RunInfo
from psync.text import printable

if TYPE_CHECKING:
    from psync.client.target import Target
    from psync.paths import ClientPaths

NEWEST = "-1"
"""Stands for the newest run."""

REFERENCE = "a RUN is its ID or the beginning of it, its --name, or -1 for the newest"

_SHOWN = 5
_NAME_LENGTH = 200  # of a run's name, and of what the protocol takes


def reference(word: str) -> str:
    """Return what names a run on the command line, written as names of runs are."""
    if not word:
        raise argparse.ArgumentTypeError("RUN must not be empty")
    return printable(word)[:_NAME_LENGTH]


def project_root() -> bytes | None:
    """Return the nearest directory upwards that has a ``psync.toml``."""
    try:
        directory = os.getcwdb()
    except FileNotFoundError:  # it was removed meanwhile
        return None
    while True:
        if os.path.lexists(os.path.join(directory, b"psync.toml")):
            return directory
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent


def configuration(on: str | None) -> ClientConfig:
    """Return the configuration as it is here, with the target that ``--on`` names.

    Raises:
        ConfigError: something in it is wrong.
    """
    return load_client(project_root=project_root(), environ=os.environ, flags={"--on": on})


async def find_run(target: Target, word: str, *, others: bool = True) -> RunInfo:
    """Return the run that ``word`` stands for on a target.

    Args:
        target: the target.
        word: what was typed, see ``reference``.
        others: there are other targets on which it might be.

    Raises:
        UsageError: there is none, or there are several.
        PsyncError: as ``Target.runs``.
    """
    found = pick(word, await target.runs(match=word))
    if found is None:
        raise no_run(word, target.name, others=others)
    return found


def no_run(word: str, target: str, *, others: bool) -> UsageError:
    """Return the error for a run that is not there; see ``find_run``."""
    if others:
        hint = "psync ps -a --all-targets lists the runs of all targets"
    elif word == NEWEST:
        hint = "psync run PROGRAM starts one"
    else:
        hint = f"psync ps -a --on {target} lists what there is"
    what = "are no runs" if word == NEWEST else f"is no run {word!r}"
    return UsageError(f"there {what} on {target}", hint=hint)


def pick(word: str, found: Sequence[RunInfo]) -> RunInfo | None:
    """Return the run that ``word`` stands for; None where there is none.

    An ID goes before a name and a name before the beginning of an ID. Of several runs of one name
    it is the newest that is active, or else the newest.

    Args:
        word: what was typed.
        found: the runs that match it in any way, the newest first.

    Raises:
        UsageError: it is the beginning of several IDs; the message lists them.
    """
    if word == NEWEST:
        return found[0] if found else None
    for run in found:
        if run.id == word:
            return run
    named = [run for run in found if run.name == word]
    if named:
        return next((run for run in named if not run.state.final), named[0])
    begun = [run for run in found if run.id.startswith(word)]
    if len(begun) > 1:
        listed = ", ".join(f"{run.id} ({command_line(run)[:40]})" for run in begun[:_SHOWN])
        more = f" and {len(begun) - _SHOWN} more" if len(begun) > _SHOWN else ""
        raise UsageError(
            f"{word!r} is the beginning of several runs' IDs: {listed}{more}",
            hint="type more of the ID",
        )
    return begun[0] if begun else None


def command_line(run: RunInfo) -> str:
    """Return a run's command as a shell would take it, harmless and on one line."""
    return " ".join(_quoted(printable(word)) for word in run.command)


def _quoted(word: str) -> str:
    plain = word.translate(_PLAIN)
    if word and not plain:
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


_PLAIN = {
    ord(char): None
    for char in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_"
}


def outcome(run: RunInfo) -> str:
    """Return a run's state in a word or two: ``running``, ``exited 3``, ``SIGKILL``, ``lost``."""
    status = run.status
    if run.reason == "exec-failed":
        return "not executed"
    if status is None or status.lost:
        return run.state.value
    if status.signal is not None:
        return status.signal
    return f"exited {status.code}"


def nothing_local(paths: ClientPaths, *, finished: bool) -> bool:
    """Whether the target ``local`` is known to have no runs, so that no daemon need be started.

    Args:
        paths: the client's directories.
        finished: whether finished runs count.

    A daemon that was killed leaves its runs alive; their supervisors tell.
    """
    from psync.daemon.lock import holder
    from psync.paths import ServerPaths

    server = ServerPaths.from_environ({"PSYNC_SERVER_HOME": paths.local})
    if holder(server.lock) is not None:
        return False
    try:
        names = [name for name in os.listdir(server.runs) if "." not in name]
    except (FileNotFoundError, NotADirectoryError):
        return True
    if finished:
        return not names
    from psync.daemon.rundir import has_supervisor

    try:
        return not any(has_supervisor(f"{server.runs}/{name}") for name in names)
    except OSError:
        return False
