"""What is never sent for what it is, whatever it is called: links that lead out, and special files.

rsync leaves it out as well, and says so. It has to be known before, though: what is not sent is not
in the mirror, and what was sent under that name before is gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

_SENT = (stat.S_IFREG, stat.S_IFDIR)


def never_sent(base: bytes, stats: Mapping[bytes, tuple[int, ...]]) -> frozenset[bytes]:
    """Return which of some paths are never sent.

    Args:
        base: absolute path of a directory that is sent.
        stats: what each path below it is like, its mode first; empty for one that is not there.
    """
    return frozenset(
        name
        for name, one in stats.items()
        if one and stat.S_IFMT(one[0]) not in _SENT and not _is_sent(base, name, one[0])
    )


def leaves(path: bytes, target: bytes) -> bool:
    """Whether a link at a relative path may lead out of the directory that the path is below.

    ``..`` may only stand at the beginning of its target: elsewhere it goes up from wherever another
    link leads to.
    """
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    return not target or target.startswith(b"/") or b".." in parts[up:] or up > path.count(b"/")


def _refused(path: bytes, target: bytes) -> bool:
    """Whether rsync refuses a link that ``leaves`` finds nothing wrong with, or as that does.

    To rsync a ``.`` before ``..`` is a name like any other (``unsafe_symlink`` in its util1.c).
    """
    rest = target
    while rest.startswith(b"../"):
        rest = rest[3:].lstrip(b"/")
    return leaves(path, target) or b"/../" in rest + b"/"


def _is_sent(base: bytes, name: bytes, mode: int) -> bool:
    if not stat.S_ISLNK(mode):
        return False
    try:
        return not _refused(name, os.readlink(os.path.join(base, name)))
    except OSError:
        return True  # it went away meanwhile; rsync has the words for it
