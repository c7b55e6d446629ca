"""What git leaves out of a working copy, asked of git itself.

The working copy may be anybody's: nothing that its configuration names is executed, nothing is
written to it, and nothing is fetched. git itself refuses a working copy of another user
(``safe.directory``); then, as without git, there is no answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from psync.errors import Interrupted
from psync.sync.process import Child

TIMEOUT = 120.0
"""Seconds that git may take to look at a working copy."""

MOST = 256 << 20
"""Bytes of names that are taken from git; it names a directory that it ignores only once."""

_HARMLESS = (
    *("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.untrackedCache=false", "-c", "safe.bareRepository=explicit"),
    *("-c", "protocol.allow=never", "--no-optional-locks", "--no-pager"),
)
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
_KEPT_VARIABLES = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")  # the user's


def working_copy(directory: bytes) -> bytes | None:
    """Return the root of the git working copy that an absolute path is in, None for none."""
    while not os.path.lexists(os.path.join(directory, b".git")):
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
    return directory


def ignored(
    root: bytes,
    directories: Iterable[bytes],
    environ: Mapping[str, str],
    cancelled: Callable[[], bool] = lambda: False,
) -> frozenset[bytes] | None:
    """Return what git ignores in a working copy.

    Args:
        root: of the working copy, absolute.
        directories: absolute ones below it that matter.
        environ: the environment to start from.
        cancelled: asked while git looks.

    Returns:
        Absolute paths; a directory that is ignored as a whole stands for all it holds, and may be
        one above those that were asked about. None if git is missing or does not answer.

    Raises:
        Interrupted: ``cancelled`` said so.
    """
    asked = [b"./" + os.path.relpath(path, root) for path in directories]
    options = (
        "--literal-pathspecs",
        "ls-files",
        "-z",
        "--others",
        "--ignored",
        "--exclude-standard",
        "--directory",
    )
    said = _git(root, [*options, "--", *asked], environ, cancelled=cancelled)
    if said is None:
        return None
    names = (name.rstrip(b"/") for name in said.split(b"\0") if name)
    return frozenset(root if name == b"." else os.path.join(root, name) for name in names)


def named_by_patterns(
    root: bytes,
    paths: Iterable[bytes],
    environ: Mapping[str, str],
    cancelled: Callable[[], bool] = lambda: False,
) -> frozenset[bytes]:
    """Return which paths, or directories above them, a pattern speaks of.

    ``ignored`` also returns directories in which merely nothing is that is not ignored.

    Args:
        root: of the working copy, absolute.
        paths: absolute.
        environ: the environment to start from.
        cancelled: asked while git looks.

    Raises:
        Interrupted: ``cancelled`` said so.
    """
    feed = b"".join(os.path.relpath(path, root) + b"\0" for path in paths)
    words = ["check-ignore", "-z", "--stdin"]
    said = _git(root, words, environ, feed, cancelled=cancelled) if feed else None
    return frozenset(os.path.join(root, name) for name in (said or b"").split(b"\0") if name)


def blame(root: bytes, path: bytes, environ: Mapping[str, str]) -> tuple[bytes, int, bytes] | None:
    """Return file, line and pattern for which git ignores an absolute path, None if it does not."""
    relative = os.path.relpath(path, root)
    said = _git(root, ["check-ignore", "-v", "-z", "--stdin"], environ, relative + b"\0")
    words = (said or b"").split(b"\0")
    if len(words) < 4 or not words[1].isdigit() or words[2].startswith(b"!"):
        return None
    return words[0], int(words[1]), words[2]


def _git(
    root: bytes,
    words: Sequence[str | bytes],
    environ: Mapping[str, str],
    feed: bytes = b"",
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> bytes | None:
    # GIT_DIR and its like, as in a hook, would speak of another working copy.
    env = {
        name: value
        for name, value in environ.items()
        if not name.startswith("GIT_") or name in _KEPT_VARIABLES
    }
    said = bytearray()

    def take(data: bytes) -> None:
        if len(said) < MOST:
            said.extend(data)
        else:
            child.cancel()

    try:
        child = Child(
            ["git", "-C", root, *_HARMLESS, *words],
            env={**env, **_ENVIRONMENT},
            feed=feed,
            detached=True,
        )
        status = child.wait(take, lambda data: None, TIMEOUT, cancelled)
    except (OSError, TimeoutError):
        return None
    if cancelled():
        raise Interrupted("interrupted while syncing; nothing was started")
    return bytes(said) if status == 0 and len(said) < MOST else None
