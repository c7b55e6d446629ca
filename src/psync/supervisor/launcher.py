"""The launcher: a small process that forks one supervisor per run.

The daemon starts it early, with ``command()`` and one end of a connected unix stream socket pair
(``pass_fds``), keeps the other end, and writes one ``wire.Launch`` per run. Answers come in the
order of the requests: ``wire.Launched`` once the supervisor listens on ``ctl`` and its cursor and
supervisor.json are there (the program itself is started right after; if it cannot be executed the
run ends with an exit record that says so), or ``wire.LaunchFailed``.

All modules a supervisor needs are imported before the first request, and ``gc.freeze`` keeps the
collector's hands off them, so that supervisors share their pages. The launcher ends when its socket
does; supervisors have their own session and do not notice.
"""

from __future__ import annotations

import os
import sys


def command(fd: int) -> list[str]:
    """Return the argv that starts a launcher which serves the inherited descriptor ``fd``.

    Isolated and without ``site``: less memory in every supervisor and a faster start. The standard
    streams should be ``/dev/null`` (stderr may be the daemon's log).
    """
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path.insert(0, {source!r}); "
        f"from psync.supervisor.launcher import serve; serve({fd})"
    )
    return [sys.executable, "-I", "-S", "-c", code]
