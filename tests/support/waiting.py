"""Waiting for what other processes do and nothing announces."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Poll until ``condition`` holds.

    Args:
        condition: asked again and again.
        seconds: far more than anything here takes, and less than a test may.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process that is nobody's zombie exists."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")
