"""Which directory is the project, and what it is called on the daemon host."""

from __future__ import annotations

import hashlib
import os
import re

import msgspec

from psync.errors import UsageError
from psync.text import printable

CONFIG_NAME = b"psync.toml"

VCS = (b".git", b".hg", b".jj", b".svn")
"""The entries that mark the root of a working copy. They are never synced."""

_SLUG_LENGTH = 40


class Project(msgspec.Struct, frozen=True):
    """A directory tree on the client that has a mirror on the daemon host.

    Attributes:
        id: names the mirror; see ``project_id``.
        root: absolute path of the directory, without symbolic links.
        name: the directory's name, for people.
        unbounded: nothing but the working directory (or a VCS) says that this is a project, and it
            is the user's home directory or one above it; it is never sent whole by accident.
    """

    id: str
    root: bytes
    name: str
    unbounded: bool = False


def project_id(client_id: str, root: bytes) -> str:
    """Return a readable ID that no other client and no other directory shares.

    It is the directory's name, made harmless, and 64 bits of a SHA-256 over the client's identity
    and the absolute path.

    Args:
        client_id: the identity of this client.
        root: absolute path without symbolic links.
    """
    digest = hashlib.sha256(client_id.encode() + b"\0" + root).hexdigest()[:16]
    name = os.path.basename(root).decode("utf-8", "replace").lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", name).lstrip("._-")[:_SLUG_LENGTH].rstrip("._-")
    return f"{slug or 'project'}-{digest}"


def find_project(
    *, start: bytes, program: bytes | None, explicit: bytes | None, client_id: str
) -> Project:
    """Find the project that a command belongs to.

    The root is ``explicit``, else the nearest directory from ``start`` upwards with a
    ``psync.toml``, else the nearest that is a working copy of a VCS, else the program's directory,
    else ``start``.

    Args:
        start: absolute path of the working directory.
        program: absolute path of the program where there is one.
        explicit: the directory the user named, relative to ``start``.
        client_id: the identity of this client.

    Raises:
        UsageError: ``explicit`` is not a directory that can be entered.
    """
    start = os.path.realpath(start)
    if explicit is not None:
        root = os.path.realpath(os.path.join(start, explicit))
        if not os.path.isdir(root):
            raise UsageError(
                f"{printable(explicit)} is not a directory",
                hint="name the project's root directory with --project",
            )
        return _project(root, client_id, marked=True)
    root_or_none = _upwards(start, (CONFIG_NAME,))
    if root_or_none is not None:
        return _project(root_or_none, client_id, marked=True)
    root = _upwards(start, VCS) or (os.path.dirname(program) if program is not None else start)
    return _project(os.path.realpath(root), client_id, marked=False)


def _project(root: bytes, client_id: str, *, marked: bool) -> Project:
    home = os.path.realpath(os.path.expanduser(b"~"))
    return Project(
        id=project_id(client_id, root),
        root=root,
        name=printable(os.path.basename(root) or root),
        unbounded=not marked and (home + b"/").startswith(root.rstrip(b"/") + b"/"),
    )


def _upwards(start: bytes, names: tuple[bytes, ...]) -> bytes | None:
    directory = start
    while True:
        if any(os.path.lexists(os.path.join(directory, name)) for name in names):
            return directory
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
