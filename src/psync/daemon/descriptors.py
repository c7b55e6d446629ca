"""How many descriptors the daemon may have open: all that the system lets it."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Raise this process's soft limit of open descriptors to the hard one; return what it was.

    Each run takes one and each client watching it another two, and the usual limit of 1024 is
    low only for the sake of programs that use select(). So programs are to get it back.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # macOS: "unlimited" is more than it grants; what there is has to do
    return soft
