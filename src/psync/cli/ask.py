"""A question on the terminal, asked beside an event loop."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from psync.errors import Interrupted

_TICK = 0.1  # seconds; how often to see whether the answer is still wanted
_LONGEST = 1024


def confirm(question: str, cancelled: Callable[[], bool]) -> bool:
    """Ask a question and return whether the answer begins with y; the end of stdin is none.

    Args:
        question: one line, without anything behind it.
        cancelled: asked several times a second.

    Raises:
        Interrupted: ``cancelled`` said so.
    """
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    said = b""
    while not said.endswith(b"\n") and len(said) < _LONGEST:
        while not select.select([0], [], [], _TICK)[0]:
            if cancelled():
                sys.stderr.write("\n")
                raise Interrupted("interrupted; nothing was removed")
        piece = os.read(0, 1)  # what follows the line may be for somebody else
        if not piece:
            sys.stderr.write("\n")
            break
        said += piece
    return said.strip().lower().startswith(b"y")
