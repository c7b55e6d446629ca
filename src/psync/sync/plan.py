"""What goes where: from what the user named to the trees that rsync copies. No I/O.

The mirror of a project has two parts. What lies below the project's root keeps its path below
``tree``; what lies outside keeps its absolute path below ``outside``. So a relative path between
two files of the project means the same on both sides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence

import msgspec

from psync.errors import UsageError
from psync.sync.project import Project

TREE = b"tree"
OUTSIDE = b"outside"


class Tree(msgspec.Struct, frozen=True):
    """What is copied from one local directory into one part of the mirror.

    Attributes:
        base: absolute path of a local directory.
        entries: files and directories (with all they hold) relative to ``base``, sorted, none
            inside another; ``b"."`` is all of it.
        destination: the part of the mirror, ``TREE`` or ``OUTSIDE``.
        empty: directories relative to ``base`` that must exist and bring nothing along.
        follow: copy what symbolic links point to, not the links.
        inner: what was named although it lies inside one of ``entries``, so that it is sent even
            if the rest of its directory is left out; sorted.
        checksum: compare files by content.
    """

    base: bytes
    entries: tuple[bytes, ...]
    destination: bytes
    empty: tuple[bytes, ...] = ()
    follow: bool = False
    inner: tuple[bytes, ...] = ()
    checksum: bool = False


class SyncPlan(msgspec.Struct, frozen=True):
    """All that one sync does, and where the run then finds itself.

    Attributes:
        project: whose mirror it is.
        trees: what to copy; at most one per part of the mirror.
        program: path of the program relative to the mirror, None for a bare command.
        cwd: working directory of the run relative to the mirror.
        exclude: patterns, as in ``.gitignore``, of what is left out of directories; relative to
            the project's root.
        strip: send a copy of the program without what only debuggers need; of what is named, where
            there is no program.
        checksum: compare all files by content, whatever their size and time say.
    """

    project: Project
    trees: tuple[Tree, ...]
    program: bytes | None
    cwd: bytes
    exclude: tuple[bytes, ...] = ()
    strip: bool = False
    checksum: bool = False


def mirror_path(project_root: bytes, path: bytes) -> bytes:
    """Return where ``path`` is in the mirror, relative to the mirror's directory.

    Args:
        project_root: absolute path.
        path: absolute path; ``..`` is taken by its words, without a look at the disk.
    """
    root, path = _normal(project_root), _normal(path)
    inside = _below(root, path)
    if inside is None:
        return OUTSIDE if path == b"/" else OUTSIDE + path
    return TREE if inside == b"." else TREE + b"/" + inside


def plan_sync(
    project: Project,
    *,
    cwd: bytes,
    program: bytes | None,
    assets: Sequence[bytes],
    include: Sequence[bytes],
    exclude: Sequence[bytes] = (),
    strip: bool = False,
    checksum: bool = False,
) -> SyncPlan:
    """Decide what to send. A bare command with nothing else named sends the whole project.

    Args:
        project: the project.
        cwd: absolute working directory, without symbolic links (``os.getcwdb()``).
        program: absolute path of the program, None for a bare command.
        assets: files and directories, relative to ``cwd``.
        include: files and directories, relative to the project's root.
        exclude: patterns of what to leave out of directories.
        strip: send a copy of the program without what only debuggers need.
        checksum: compare all files by content, whatever their size and time say.

    Raises:
        UsageError: the whole project would be sent, and it is the home directory or more.
    """
    root = _normal(project.root)
    cwd = _normal(cwd)
    wanted = [_normal(posixpath.join(cwd, path)) for path in assets]
    wanted += [_normal(posixpath.join(root, path)) for path in include]
    if program is not None:
        wanted.append(_normal(program))
    elif not wanted:
        if project.unbounded:
            raise UsageError(
                f"{project.name} is your home directory or holds it, and is not sent whole",
                hint="go to the project's directory, name what to send with --assets, "
                "or use --no-sync",
            )
        wanted.append(root)

    inside = [path for path in wanted if _below(root, path) is not None]
    outside = [path for path in wanted if _below(root, path) is None]
    cwd_inside = _below(root, cwd) is not None
    trees = (
        _tree(root, inside, TREE, cwd if cwd_inside else None),
        _tree(b"/", outside, OUTSIDE, None if cwd_inside else cwd),
    )
    return SyncPlan(
        project=project,
        trees=tuple(tree for tree in trees if tree is not None),
        program=None if program is None else mirror_path(root, program),
        cwd=mirror_path(root, cwd),
        exclude=tuple(exclude),
        strip=strip,
        checksum=checksum,
    )


def _tree(
    base: bytes, paths: Iterable[bytes], destination: bytes, cwd: bytes | None
) -> Tree | None:
    names = {_relative(base, path) for path in paths}
    entries = _outermost(names)
    empty: tuple[bytes, ...] = ()
    if cwd is not None:
        name = _relative(base, cwd)
        # rsync makes the directories above an entry, the daemon the parts of the mirror themselves.
        if name != b"." and not any(_covers(e, name) or _covers(name, e) for e in entries):
            empty = (name,)
    if not entries and not empty:
        return None
    inner = tuple(sorted(names.difference(entries)))
    return Tree(base, entries, destination, empty, inner=inner)


def _outermost(names: set[bytes]) -> tuple[bytes, ...]:
    """Drop what lies inside another one."""
    kept: list[bytes] = []
    # Sorted by components, so that a directory comes right before everything in it.
    for name in sorted(names, key=lambda name: [] if name == b"." else name.split(b"/")):
        if not kept or not _covers(kept[-1], name):
            kept.append(name)
    return tuple(kept)


def _covers(outer: bytes, inner: bytes) -> bool:
    return outer == b"." or inner == outer or inner.startswith(outer + b"/")


def _normal(path: bytes) -> bytes:
    if not path.startswith(b"/"):
        raise ValueError(f"not an absolute path: {path!r}")
    return posixpath.normpath(b"/" + path.lstrip(b"/"))  # normpath keeps exactly two slashes


def _below(root: bytes, path: bytes) -> bytes | None:
    if path == root:
        return b"."
    prefix = root if root == b"/" else root + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def _relative(base: bytes, path: bytes) -> bytes:
    relative = _below(base, path)
    assert relative is not None
    return relative
