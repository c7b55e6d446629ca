"""Cleaning up after a supervisor that was killed itself: its processes, and its log's loose end."""

from __future__ import annotations

import time

from psync.supervisor.log import LogDamaged, tidy
from psync.supervisor.record import RecordError, read_owner
from psync.supervisor.tree import sweep_lost

PASSES = 50
"""How often to look again; each pass finds what was forked during the one before."""

PAUSE = 0.02
"""Seconds between two passes."""


def clean_up(run_id: str, directory: str) -> int:
    """Kill every process that a lost run left; return how many were found.

    Blocking, a second or so at most. Never call it while the run's supervisor lives.
    """
    try:
        owner = read_owner(directory)
    except (OSError, RecordError):
        pid = start_time = 0  # the mark in the environment has to do
    else:
        pid, start_time = owner.program_pid, owner.program_start_time
    found = 0
    for _ in range(PASSES):
        killed = sweep_lost(pid, start_time, b"PSYNC_RUN=" + run_id.encode())
        if not killed:
            break
        found += killed
        time.sleep(PAUSE)
    try:
        tidy(directory)
    except (OSError, LogDamaged):
        pass  # what is readable stays readable
    return found
