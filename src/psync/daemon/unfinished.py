"""What rsyncs leave in a mirror when they are ended in the middle, and that it goes again.

d/.psync-partial/f    of a file: the next rsync goes on with it, and removes it then
d/.psync-partial      a file, where rsync was told to end while it made the directory
d/.f.ab12CD           rsync's own name for what it writes, where it was killed
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import suppress

from psync.daemon.rsyncgate import PARTIAL_DIR

_PARTIAL = os.fsdecode(PARTIAL_DIR)
_TEMPORARY = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)
_MODE = stat.S_IFREG | 0o600  # until it is whole


def remove_unfinished(mirror: int, since: int | None = None) -> None:
    """Remove what is unfinished, as far as possible; follows no links.

    Args:
        mirror: descriptor of a mirror's directory.
        since: when the rsyncs began, in nanoseconds by the clock of the file system. What they
            were writing is told by this from what a program may have called alike long ago; None
            leaves it there.
    """
    for _, directories, files, above in os.fwalk(".", dir_fd=mirror):
        if _PARTIAL in directories:
            directories.remove(_PARTIAL)
            shutil.rmtree(_PARTIAL, ignore_errors=True, dir_fd=above)
        names = set(files)
        for name in files:
            with suppress(OSError):
                if name == _PARTIAL or _is_temporary(name, names, above, since):
                    os.unlink(name, dir_fd=above)


def _is_temporary(name: str, names: set[str], above: int, since: int | None) -> bool:
    found = _TEMPORARY.fullmatch(name)
    if found is None or found[1] not in names or since is None:
        return False
    status = os.stat(name, dir_fd=above, follow_symlinks=False)
    return status.st_mode == _MODE and status.st_mtime_ns >= since
