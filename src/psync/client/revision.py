"""The revision of a project's source, read from ``.git`` without starting git.

git takes some ten milliseconds to say what three small files say: ``HEAD``, the branch it names,
and where a branch has no file of its own, ``packed-refs``. A working tree that is not the main one
has a ``.git`` file that names its directory, and ``commondir`` there names the main one's.

What is read may be anything: only the digits of a revision are ever returned, nothing is waited
for (a FIFO), and files are read up to a bound.
"""

from __future__ import annotations

import os
import re
import stat

_SMALL = 4096
"""Most bytes of ``HEAD``, a branch and the like."""

_PACKED = 16 * 1024 * 1024
"""Most bytes of ``packed-refs``: a quarter of a million branches and tags."""

_LINKS = 5
"""Names that may lead to another name; git itself follows as many."""

_REVISION = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(rb"refs/[^\0-\x20\x7f~^:?*\[\\]{1,1000}")


def source_revision(root: bytes) -> str:
    """Return the revision that is checked out where ``root`` is, empty where there is none.

    Args:
        root: absolute path of a project's root, in a working tree of git or not.

    Returns:
        The whole name of a commit, in hexadecimal. Whether files were changed since is not looked
        at. Other version controls are not read.
    """
    try:
        directory = _git_directory(root)
        return "" if directory is None else _resolve(directory)
    except (OSError, ValueError):  # unreadable, or a path with a NUL byte
        return ""


def _git_directory(root: bytes) -> bytes | None:
    """Return the directory that holds HEAD, for ``root`` or the nearest directory above it."""
    directory = root
    while True:
        entry = os.path.join(directory, b".git")
        try:
            mode = os.stat(entry).st_mode
        except (FileNotFoundError, NotADirectoryError):
            parent = os.path.dirname(directory)
            if parent == directory:
                return None
            directory = parent
            continue
        if stat.S_ISDIR(mode):
            return entry
        key, _, path = _read(entry, _SMALL).partition(b": ")
        if key != b"gitdir":
            return None
        return os.path.join(directory, path.rstrip(b"\r\n"))


def _resolve(directory: bytes) -> str:
    try:
        common = os.path.join(directory, _read(os.path.join(directory, b"commondir"), _SMALL))
        common = common.rstrip(b"\r\n")
    except FileNotFoundError:
        common = directory
    text = _read(os.path.join(directory, b"HEAD"), _SMALL)
    for _ in range(_LINKS):
        text = text.strip()
        if _REVISION.fullmatch(text):
            return text.decode("ascii")
        if not text.startswith(b"ref:"):
            return ""
        name = text[4:].strip()
        if not _REF.fullmatch(name) or b".." in name:
            return ""
        text = _read_ref(directory, common, name)
    return ""


def _read_ref(directory: bytes, common: bytes, name: bytes) -> bytes:
    for place in (directory, common) if common != directory else (directory,):
        try:
            return _read(os.path.join(place, name), _SMALL)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
    packed = b"\n" + _read(os.path.join(common, b"packed-refs"), _PACKED)
    end = packed.find(b" " + name + b"\n")
    return packed[packed.rfind(b"\n", 0, end) + 1 : end] if end > 0 else b""


def _read(path: bytes, limit: int) -> bytes:
    """Return the beginning of a file; what is none is as good as not there."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(path)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)
