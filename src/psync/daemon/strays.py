"""Finding and killing what a dead supervisor left behind.

While a supervisor lives it is the subreaper of everything its program starts, and ends all of it.
When it was killed itself, its descendants are told by ``PSYNC_RUN`` in their environment, which
children inherit. A program that wipes its environment escapes this; nothing escapes a living
supervisor.
"""

from __future__ import annotations

import os
import signal
import time

PASSES = 50
"""How often to look again; each pass finds what was forked during the one before."""

PAUSE = 0.02
"""Seconds between two passes."""


def kill_strays(run_id: str) -> int:
    """Kill every process of this user that carries the run's ID; return how many were found.

    Blocking, a second at most. Only on systems with /proc.
    """
    mark = b"PSYNC_RUN=" + run_id.encode()
    found: set[int] = set()
    for _ in range(PASSES):
        alive = _marked(mark)
        if not alive:
            break
        found.update(alive)
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(PAUSE)
    return len(found)


def _marked(mark: bytes) -> list[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    marked = []
    for name in names:
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue  # gone already, or another user's
        if mark in variables:
            marked.append(int(name))
    return marked
