"""Where files from another host arrive, and how they get into a directory of this one.

rsync writes into a fresh private directory inside the destination, where nothing is yet that it
could follow or write over. Only what has arrived whole, was asked for, and is a file, a directory
or a link that stays inside the destination is then moved to its place, each by one rename, and
through real directories only. Links arrive with targets that lead nowhere (``--munge-links``),
so that nothing can be written through one that has just come.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import msgspec

from psync.errors import DestinationError, Fault, SyncError
from psync.sync.kinds import leaves
from psync.sync.listing import PARTIAL_NAME
from psync.sync.wanted import ABOVE, STRANGE, Wanted
from psync.text import printable

PREFIX = b"pull-"
"""How the names of such directories begin. They stand in a ``.psync-partial``: no sync sends it."""

MUNGED = b"/rsyncd-munged/"
"""What rsync puts before the targets of links (SYMLINK_PREFIX of its rsync.h)."""

_MODE = 0o755  # what may be left of a mode: nothing set-user-ID, nobody else writes
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NotAskedFor(SyncError):
    """The other side sent what nobody had asked for; nothing of it is kept."""

    fault = Fault.PEER


class Placed(msgspec.Struct, frozen=True):
    """A file or link that is in its place.

    Attributes:
        name: relative to the destination.
        size: bytes.
    """

    name: bytes
    size: int


class Staging:
    """A private directory in the destination. A context manager; nothing of it stays.

    Args:
        into: absolute path of the destination, an existing directory.

    Attributes:
        root: its absolute path.
        aside: absolute path of a directory for what is not whole.

    Raises:
        DestinationError: nothing can be written there.
    """

    def __init__(self, into: bytes) -> None:
        self._into = into
        self.root = b""
        self.aside = b""
        self._lock = -1
        self._links = 0
        self._taken: set[bytes] = set()

    def __enter__(self) -> Self:
        try:
            self._enter()
        except OSError as error:
            self.__exit__()
            raise DestinationError(
                f"nothing can be written to {printable(self._into)}: {error.strerror}",
                hint="name another directory with --into",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self.root:
            shutil.rmtree(self.root, ignore_errors=True)
        if self._lock != -1:
            os.close(self._lock)
        try:
            with _locked(self._into):
                os.rmdir(os.path.join(self._into, PARTIAL_NAME))
        except OSError:
            pass  # another pull is going on, or nothing was made

    def _enter(self) -> None:
        with _locked(self._into):  # until our own is locked
            above = os.path.join(self._into, PARTIAL_NAME)
            try:
                os.mkdir(above, 0o700)
            except FileExistsError:
                os.close(os.open(above, _DIRECTORY))  # which fails if it is a link
                _remove_abandoned(above)
            self.root = tempfile.mkdtemp(prefix=PREFIX, dir=above)
            self._lock = os.open(self.root, _DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.aside = os.path.join(self.root, b"aside")
        os.mkdir(self.aside, 0o700)

    def directory(self, name: bytes) -> bytes:
        """Return the absolute path of a directory for rsync to write to; made when missing."""
        path = os.path.join(self.root, name)
        os.makedirs(path, 0o700, exist_ok=True)
        return path

    # -- looking ------------------------------------------------------------------------------

    def check(self, directory: bytes, wanted: Wanted) -> None:
        """Make sure that only what was asked for has come into a directory that rsync wrote to.

        Raises:
            NotAskedFor: something else is there as well.
        """
        for parts, names in self._walk(directory):
            for name, kind in names:
                path = b"/".join((*parts, name))
                relation = wanted.relation(path)
                if relation == STRANGE or (relation == ABOVE and kind != stat.S_IFDIR):
                    raise NotAskedFor(
                        f"{printable(path)} was sent and not asked for; nothing was kept",
                        hint="find out what rsync on that host is",
                    )
                if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                    raise NotAskedFor(
                        f"{printable(path)} was sent as something that is neither file, link "
                        "nor directory; nothing was kept",
                        hint="find out what rsync on that host is",
                    )

    def _walk(self, top: bytes) -> Iterator[tuple[tuple[bytes, ...], list[tuple[bytes, int]]]]:
        """Yield all directories, outer ones first, with the names and types of what they hold."""
        root = os.open(top, _DIRECTORY)
        try:
            left: list[tuple[bytes, ...]] = [()]
            while left:
                parts = left.pop()
                directory = _open_below(root, parts)
                try:
                    names = [
                        (os.fsencode(name), stat.S_IFMT(_look(name, directory).st_mode))
                        for name in sorted(os.listdir(directory))
                    ]
                finally:
                    os.close(directory)
                yield parts, names
                left += [(*parts, name) for name, kind in names[::-1] if kind == stat.S_IFDIR]
        finally:
            os.close(root)

    # -- placing ------------------------------------------------------------------------------

    def place(
        self,
        directory: bytes,
        prefix: bytes = b"",
        *,
        keep: frozenset[bytes] = frozenset(),
        cancelled: Callable[[], bool] = lambda: False,
        on_placed: Callable[[Placed], None],
        on_left: Callable[[bytes, str, bool], None],
    ) -> None:
        """Move what has come to its place in the destination.

        Args:
            directory: that rsync wrote to; checked by ``check``.
            prefix: the directory below the destination that it stands for.
            keep: names below the destination that are not to be replaced.
            cancelled: asked now and then; what is in place by then stays.
            on_placed: called with every file and link that is new or another one now.
            on_left: called with what was left out, why, and whether that is a failure.
        """
        above = tuple(part for part in prefix.split(b"/") if part)
        source = os.open(directory, _DIRECTORY)
        target = os.open(self._into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for parts, found in self._walk(directory):
                if cancelled():
                    return
                names = [(name, kind) for name, kind in found if kind != stat.S_IFDIR]
                if not names:
                    continue  # a directory is made when there is something to put into it
                path = b"/".join((*above, *parts))
                try:
                    there = _open_below(target, (*above, *parts), like=source, skip=len(above))
                except OSError as error:
                    on_left(path, _why_no_directory(error), True)
                    continue
                here = _open_below(source, parts)
                try:
                    for name, kind in names:
                        inner = os.path.join(path, name)
                        if inner in keep:
                            on_left(inner, "it would take the place of psync's own", False)
                        elif inner in self._taken:
                            on_left(inner, "another file that was asked for has this name", True)
                        else:
                            self._taken.add(inner)
                            self._move(here, there, name, inner, kind, on_placed, on_left)
                finally:
                    os.close(here)
                    os.close(there)
        finally:
            os.close(source)
            os.close(target)

    def _move(
        self,
        here: int,
        there: int,
        name: bytes,
        path: bytes,
        kind: int,
        on_placed: Callable[[Placed], None],
        on_left: Callable[[bytes, str, bool], None],
    ) -> None:
        try:
            if kind == stat.S_IFLNK:
                link = os.fsencode(os.readlink(name, dir_fd=here)).removeprefix(MUNGED)
                if leaves(path, link):
                    on_left(path, f"it is a link to {printable(link)}, which leads out", False)
                elif not _is_link_to(name, link, there):
                    self._links += 1
                    made = os.path.join(self.aside, b"link%d" % self._links)
                    os.symlink(link, made)
                    os.rename(made, name, dst_dir_fd=there)
                    on_placed(Placed(path, len(link)))
                return
            status = _look(name, here)
            mode = stat.S_IMODE(status.st_mode)
            if mode & ~_MODE:
                os.chmod(name, mode & _MODE, dir_fd=here)
            os.rename(name, name, src_dir_fd=here, dst_dir_fd=there)
            on_placed(Placed(path, status.st_size))
        except OSError as error:
            on_left(path, _why_not(error), True)


def _open_below(
    root: int, parts: tuple[bytes, ...], *, like: int | None = None, skip: int = 0
) -> int:
    """Open a directory, going through no link.

    Args:
        root: descriptor of the directory to begin at.
        parts: the way.
        like: descriptor of a directory with the same below it, after which missing ones are made.
        skip: how many of ``parts`` are above that one.

    Raises:
        OSError: something on the way is no directory, or cannot be made.
    """
    directory = os.open(b".", _DIRECTORY, dir_fd=root)
    for depth, part in enumerate(parts, 1):
        try:
            try:
                inner = os.open(part, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                if like is None:
                    raise
                os.mkdir(part, _mode_like(like, parts[skip:depth]), dir_fd=directory)
                inner = os.open(part, _DIRECTORY, dir_fd=directory)
        finally:
            os.close(directory)
        directory = inner
    return directory


def _mode_like(directory: int, parts: tuple[bytes, ...]) -> int:
    if not parts:
        return _MODE
    return stat.S_IMODE(_look(b"/".join(parts), directory).st_mode) & _MODE


def _look(name: bytes | str, directory: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _is_link_to(name: bytes, target: bytes, directory: int) -> bool:
    try:
        return os.fsencode(os.readlink(name, dir_fd=directory)) == target
    except OSError:
        return False


def _why_no_directory(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a link or a file stands where a directory belongs"
    return error.strerror or "unknown error"


def _why_not(error: OSError) -> str:
    if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
        return "a directory stands in its place"
    if error.errno == errno.EXDEV:
        return "its directory is on another file system; pull into that one with --into"
    return error.strerror or "unknown error"


@contextmanager
def _locked(directory: bytes) -> Iterator[None]:
    """Keep other pulls from making and removing directories there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(above: bytes) -> None:
    """Remove what pulls have left that were killed; nobody holds its lock."""
    for name in os.listdir(above):
        if not name.startswith(PREFIX):
            continue
        path = os.path.join(above, name)
        try:
            lock = os.open(path, _DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # it is at work
        finally:
            os.close(lock)
