"""Which files a directory that is to be sent holds, less those that are left out.

What is left out, from the weakest word to the strongest: what git ignores (asked of git in a
working copy; elsewhere ``.gitignore`` files are read here), the patterns of ``[sync] exclude``,
``.psyncignore`` files. What is named on its own is sent whatever they say: a file always, and a
directory that is itself ignored as if the patterns outside of it did not exist. The directories of
a VCS never go.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from psync.errors import Interrupted, SyncError
from psync.sync.kinds import never_sent
from psync.sync.plan import SyncPlan, Tree
from psync.sync.project import VCS
from psync.sync.rules import Rules, Scope
from psync.text import printable

PARTIAL_NAME = b".psync-partial"
"""Where unfinished files wait; never sent."""

MARK_NAME = b".psync-mirror"
"""By which psync knows a mirror again; never sent from a project."""

RESERVED = frozenset((*VCS, PARTIAL_NAME, MARK_NAME))
"""Names that are never sent, wherever they stand."""


Stat = tuple[int, ...]
"""What a path was like when it was listed: mode, size, time of modification and of change in
nanoseconds, inode; of a directory only the mode, since what is in it changes the rest. Empty where
it was not there any more."""


class Listing(msgspec.Struct, frozen=True):
    """What a tree holds.

    Attributes:
        entries: files, links and directories with nothing in them, relative to the tree's base,
            sorted.
        never: links and special files that belong to them and are never sent.
        directories: all directories that are sent, relative to the base, sorted; ``b"."`` is none.
        scope: the directories that were listed, relative to the base.
        mounts: those of ``directories`` and ``scope`` at which a file system is mounted.
        warnings: what is to be told, for people.
        stats: what each of ``entries``, ``never`` and ``directories`` is like.
    """

    entries: tuple[bytes, ...] = ()
    never: frozenset[bytes] = frozenset()
    directories: tuple[bytes, ...] = ()
    scope: tuple[bytes, ...] = ()
    mounts: tuple[bytes, ...] = ()
    warnings: tuple[str, ...] = ()
    stats: Mapping[bytes, Stat] = {}


def stat_of(status: os.stat_result) -> Stat:
    """Return what is noted of a path."""
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)
    return (
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def look_at(path: bytes) -> Stat:
    """Return what a path is like, of a link what the link itself is like."""
    try:
        return stat_of(os.lstat(path))
    except OSError:
        return ()  # rsync has the words for what is wrong


def list_tree(
    tree: Tree,
    *,
    root: bytes,
    exclude: Sequence[bytes] = (),
    environ: Mapping[str, str],
    cancelled: Callable[[], bool] = lambda: False,
) -> Listing:
    """Look at the disk and return what is to be sent of a tree.

    Args:
        tree: from the plan; ``entries`` exist.
        root: absolute path of the project's root.
        exclude: patterns of the configuration.
        environ: the environment for git.
        cancelled: asked now and then.

    Raises:
        SyncError: a directory cannot be read.
        Interrupted: ``cancelled`` said so.
    """
    files: dict[bytes, Stat] = {}
    named: list[bytes] = []
    for entry in (*tree.entries, *tree.inner):
        found = look_at(os.path.join(tree.base, entry))
        if found and stat.S_ISDIR(found[0]):
            named.append(entry)
        else:
            files[entry] = found
    empty = {name: look_at(os.path.join(tree.base, name)) for name in tree.empty}
    if not named:
        stats = {**files, **empty}
        never = never_sent(tree.base, stats)
        return Listing(entries=tuple(sorted(stats.keys() - never)), never=never, stats=stats)
    rules = Rules(root, exclude, environ, cancelled)
    walk = _Walk(tree.base, rules, cancelled)
    walk.files.update(files)
    walk.stats.update({**files, **empty})
    rules.prepare([_absolute(tree.base, entry) for entry in named])
    for entry in named:
        walk.walk(entry)
    walk.leaves.update(tree.empty)
    walk.leaves.discard(b".")  # for rsync that means all it holds
    entries = walk.files | walk.leaves
    directories = walk.directories - {b"."}
    stats = {name: walk.stats[name] for name in entries | directories}
    never = never_sent(tree.base, stats)
    return Listing(
        entries=tuple(sorted(entries - never)),
        never=never,
        directories=tuple(sorted(directories)),
        scope=tuple(named),
        mounts=tuple(sorted(walk.mounts)),
        warnings=tuple(walk.warnings),
        stats=stats,
    )


def list_new(
    tree: Tree,
    names: Sequence[bytes],
    *,
    root: bytes,
    exclude: Sequence[bytes] = (),
    environ: Mapping[str, str],
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[bytes, Stat]:
    """Return what is to be sent of what has come into being in a tree, and what it is like.

    Args:
        tree: from the plan.
        names: of files or directories below directories that were named, relative to the base.
        root, exclude, environ, cancelled: as for ``list_tree``.

    Raises:
        SyncError: a directory cannot be read.
        Interrupted: ``cancelled`` said so.
    """
    rules = Rules(root, exclude, environ, cancelled)
    walk = _Walk(tree.base, rules, cancelled)
    rules.prepare([_absolute(tree.base, name) for name in names])
    for name in names:
        for top in (*tree.entries, *tree.inner):
            if top == b"." or name.startswith(top + b"/"):
                walk.find(top, name)
    found = walk.files | walk.leaves | walk.directories
    return {name: walk.stats[name] for name in found if name in walk.stats}


def check_entries(plan: SyncPlan) -> None:
    """Make sure that everything that was named is there.

    Raises:
        SyncError: it is not.
    """
    for tree in plan.trees:
        for name in (*tree.entries, *tree.inner):
            is_link(tree, name)


def is_link(tree: Tree, name: bytes) -> bool:
    """Whether an entry is a symbolic link; raises as ``check_entries``."""
    path = os.path.join(tree.base, name)
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "does not exist" if missing else f"cannot be sent: {error.strerror}"
        raise SyncError(
            f"{printable(path)} {reason}", hint="correct --assets or [sync] include"
        ) from error


def case_collisions(names: Iterable[bytes]) -> tuple[str, ...]:
    """Return a warning for names that are one and the same where case does not count."""
    seen: dict[bytes, bytes] = {}
    found = []
    for name in sorted(names):
        key = name.lower() if name.isascii() else _folded(name)
        other = seen.setdefault(key, name)
        if other != name:
            found.append(f"{printable(other)} and {printable(name)} differ only in case")
    return tuple(found)


def _folded(name: bytes) -> bytes:
    return os.fsencode(os.fsdecode(name).casefold())


class _Walk:
    """Looks into directories, one after the other; what it finds is in the attributes."""

    def __init__(self, base: bytes, rules: Rules, cancelled: Callable[[], bool]) -> None:
        self.files: set[bytes] = set()
        self.leaves: set[bytes] = set()
        self.directories: set[bytes] = set()
        self.mounts: set[bytes] = set()
        self.warnings: list[str] = []
        self.stats: dict[bytes, Stat] = {}
        self._base = base
        self._rules = rules
        self._cancelled = cancelled

    def walk(self, name: bytes) -> None:
        """Look into the directory ``name`` (relative to the base) and all it holds."""
        path = _absolute(self._base, name)
        scope = self._rules.scope(path)
        status = os.stat(path)
        self.stats[name] = stat_of(status)
        if status.st_dev != os.stat(os.path.dirname(path)).st_dev:
            self.mounts.add(name)
        before = len(self.files)
        self._descend(path, name, scope, status.st_dev)
        if len(self.files) == before and os.listdir(path):
            self.warnings.append(f"nothing of {printable(path)} is sent: all of it is left out")

    def find(self, top: bytes, name: bytes) -> None:
        """Take up ``name``, below the directory ``top``, with all it holds; nothing beside it."""
        path = _absolute(self._base, top)
        scope: Scope | None = self._rules.scope(path)
        inner = b"" if top == b"." else top
        for word in name[len(inner) + 1 if inner else 0 :].split(b"/"):
            if word in RESERVED or scope is None:
                return
            scope = self._rules.enter(scope, path, _Names(path))
            path, inner = os.path.join(path, word), os.path.join(inner, word)
            try:
                status = os.lstat(path)
            except OSError:
                return  # it went away meanwhile
            if not stat.S_ISDIR(status.st_mode):
                if inner == name and not self._rules.leaves_out(scope, path):
                    self.stats[inner] = stat_of(status)
                    self.files.add(inner)
                return
            scope = self._rules.below(scope, path)
            if scope is not None and not scope.dropped:
                self.stats[inner] = stat_of(status)
                self.directories.add(inner)
        if scope is not None:
            self._descend(path, inner, scope, status.st_dev)

    def _descend(self, path: bytes, name: bytes, scope: Scope, device: int) -> None:
        # Not by recursion: there may be more levels than Python's stack has.
        left = [(path, name, scope, device, name)]
        while left:
            left += self._look(*left.pop())

    def _look(
        self, path: bytes, name: bytes, scope: Scope, device: int, top: bytes
    ) -> list[tuple[bytes, bytes, Scope, int, bytes]]:
        """Take up what one directory holds; return the directories in it that matter."""
        if self._cancelled():
            raise Interrupted("interrupted while syncing; nothing was started")
        try:
            with os.scandir(path) as listed:
                found = {entry.name: entry for entry in listed}
        except FileNotFoundError:
            if name != top:
                return []  # it went away meanwhile
            raise _unreadable(path, "No such file or directory") from None
        except OSError as error:
            raise _unreadable(path, os.strerror(error.errno or 0)) from error
        scope = self._rules.enter(scope, path, found)
        prefix = b"" if name == b"." else name + b"/"
        if not scope.dropped:
            self.directories.add(name)
        below = []
        some = False
        for key in sorted(found):
            if key in RESERVED:
                continue
            entry = found[key]
            inner = prefix + key
            if not entry.is_dir(follow_symlinks=False):
                if not self._rules.leaves_out(scope, entry.path):
                    status = _status(entry)
                    if status is None:
                        continue
                    self.stats[inner] = stat_of(status)
                    self.files.add(inner)
                    some = True
                    if scope.dropped:
                        self._take_in(name)
                continue
            then = self._rules.below(scope, entry.path)
            if then is None:
                continue
            some = some or not then.dropped
            status = _status(entry)
            if status is None:
                continue
            self.stats[inner] = stat_of(status)
            if status.st_dev != device:
                self.mounts.add(inner)
            below.append((entry.path, inner, then, status.st_dev, top))
        if not some and not scope.dropped:
            self.leaves.add(name)
        return below

    def _take_in(self, name: bytes) -> None:
        while name and name not in self.directories:
            self.directories.add(name)
            name = os.path.dirname(name)


class _Names:
    """The names in a directory, looked for one by one."""

    def __init__(self, directory: bytes) -> None:
        self._directory = directory

    def __contains__(self, name: object) -> bool:
        return isinstance(name, bytes) and os.path.lexists(os.path.join(self._directory, name))


def _status(entry: os.DirEntry[bytes]) -> os.stat_result | None:
    """Return what something in a directory is like, None where it went away meanwhile."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(entry.path, os.strerror(error.errno or 0)) from error


def _absolute(base: bytes, name: bytes) -> bytes:
    return os.path.normpath(os.path.join(base, name))


def _unreadable(path: bytes, reason: str) -> SyncError:
    return SyncError(
        f"could not send {printable(path)} ({reason})",
        hint="make it readable, or leave it out with [sync] exclude",
    )
