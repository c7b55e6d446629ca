"""``python -m psync.supervisor FD``: the launcher, where ``launcher.command`` cannot be used."""

from __future__ import annotations

import sys

from psync.supervisor.launcher import serve

if __name__ == "__main__":
    serve(int(sys.argv[1]))
