"""Looking at a mirror while programs may change it: no link is followed, on no level.

Every directory is opened below the one that it is in, so nothing can be put in the place of one
that was looked at already. What a look cannot vouch for is noted as what nobody can tell:

- rsync gives a file the time that it has at its source. One whose time of modification is not older
  than the sync was written by somebody else while the sync went on, or is so young that a later
  change could bear the same time.
- Times go by steps. A file whose time of change is not older than the look, by the clock of the
  file system, could be changed again within that step, and its time of modification set back.
- What was there a moment ago, or was said to be there, and is not, may have been removed by the
  sync or by somebody else.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from types import TracebackType
from typing import Self

import msgspec

from psync.daemon.note import NOBODY_KNOWS, Folder, Folders, Note, packed
from psync.daemon.rsyncgate import PARTIAL_DIR
from psync.text import printable

PARTS = (b"tree", b"outside")

STEP = 20_000_000
"""Nanoseconds within which two writes may bear the same time; Linux's clock for it steps every
10 ms at most (CONFIG_HZ=100)."""

COARSE_STEP = 2_000_000_000
"""The same where times have whole seconds: FAT's step."""

PATIENCE = 50_000_000
"""Nanoseconds to wait at most until the clock of a file system has gone on by a step."""

MOST_PATHS = 2_000_000
"""Paths in a mirror of which a note is made."""

LONGEST_PATH = 4095
"""Bytes of a path that the kernel takes; rsync brings none that is longer."""

MOST_HELD = 64
"""Directories that are kept open on the way to one."""

_SECOND = 1_000_000_000
_PARTIAL = os.fsdecode(PARTIAL_DIR)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = _READ | getattr(os, "O_PATH", 0)


class NotToBeNoted(Exception):
    """No note can be made of this mirror; the argument says why."""


class Trust(msgspec.Struct, frozen=True):
    """How old a file must be, in nanoseconds by the clock of its file system.

    Attributes:
        begun: when the sync began.
        now: when the look began.
    """

    begun: int
    now: int


class View(msgspec.Struct):
    """What a look found.

    Attributes:
        folders: all directories.
        gone: what was not there, and what was not when it was looked at before.
        young: paths that were changed within the step of the clock; a second look may tell.
        doubts: what this look noted as what nobody can tell, the young ones too.
    """

    folders: Folders
    gone: set[bytes]
    young: set[bytes] = msgspec.field(default_factory=set)
    doubts: set[bytes] = msgspec.field(default_factory=set)


def file_clock(directory: int) -> int:
    """Return the time by the clock of a directory's file system, by touching the directory.

    Raises:
        OSError: it cannot be written to.
    """
    os.utime(directory)
    return os.fstat(directory).st_ctime_ns


class Way:
    """Opens directories below one, each from the one above it, without following a link.

    Args:
        top: open descriptor of the directory; not closed here.
        names_only: they are not to be listed, so they need not be readable.
    """

    def __init__(self, top: int, *, names_only: bool = False) -> None:
        self._top = top
        self._flags = _PASS if names_only else _READ
        self._words: list[bytes] = []  # where we are
        self._held: list[int] = []  # the first of the directories on the way there
        self._last = -1  # the last one, where it is not among them

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._back_to(0)

    def to(self, path: bytes) -> int:
        """Return a descriptor of a directory, which is open until the next call.

        Raises:
            OSError: it is not there, or something on the way is no directory.
        """
        words = path.split(b"/")
        common = 0
        for here, wanted in zip(self._words, words, strict=False):
            if here != wanted:
                break
            common += 1
        self._back_to(common)
        for word in words[len(self._words) :]:
            inner = os.open(word, self._flags, dir_fd=self._current())
            if len(self._held) < MOST_HELD:
                self._held.append(inner)
            else:
                self._drop_last()
                self._last = inner
            self._words.append(word)
        return self._current()

    def _current(self) -> int:
        if self._last >= 0:
            return self._last
        return self._held[-1] if self._held else self._top

    def _back_to(self, depth: int) -> None:
        if depth == len(self._words):
            return
        depth = min(depth, MOST_HELD)
        self._drop_last()
        for fd in self._held[depth:]:
            os.close(fd)
        del self._held[depth:], self._words[depth:]

    def _drop_last(self) -> None:
        if self._last >= 0:
            os.close(self._last)
            self._last = -1


def look(top: int, trust: Trust, stop: threading.Event) -> View:
    """Look at a whole mirror.

    Args:
        top: open descriptor of the project's directory.
        trust: how old files must be.
        stop: set when nobody wants to know any more.

    Raises:
        NotToBeNoted: it is too large, or ``stop`` was set.
        OSError: a directory cannot be read.
    """
    view = View({}, set())
    left = list(reversed(PARTS))
    paths = 0
    with Way(top) as way:
        while left:
            check(stop)
            path = left.pop()
            try:
                fd = way.to(path)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                if path not in PARTS:
                    view.gone.add(path)  # it was there a moment ago
                continue
            inner = _look_into(view, path, fd, trust)
            below = (b"%b/%b" % (path, name) for name in reversed(inner))
            left += (one for one in below if len(one) <= LONGEST_PATH)
            paths += 1 + view.folders[path].count
            if paths > MOST_PATHS:
                raise NotToBeNoted(f"it has more than {MOST_PATHS} paths")
    return view


def look_again(
    top: int,
    trust: Trust,
    folders: Folders,
    gone: Collection[bytes],
    names: Iterable[bytes],
    stop: threading.Event,
) -> View:
    """Look at some paths; the rest is taken over.

    Args:
        top: open descriptor of the project's directory.
        trust: how old files must be.
        folders: what was noted before; stays as it is.
        gone: likewise.
        names: paths in the mirror; directories on the way that are new are noted as well.
        stop: set when nobody wants to know any more.

    Raises:
        NotToBeNoted: a name is none of a mirror, or ``stop`` was set.
        OSError: something cannot be looked at.
    """
    edit = _Edit(View(dict(folders), set(gone)))
    with Way(top, names_only=True) as way:
        for path in sorted(filter(None, map(_normal, names))):
            check(stop)
            try:
                status = edit.pass_through(path, way)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                edit.forget(path)
                edit.view.gone.add(path)
                continue
            edit.view.gone.discard(path)
            if stat.S_ISDIR(status.st_mode):
                edit.directory(path, status.st_mode)
            else:
                edit.forget(path)
                above, _, name = path.rpartition(b"/")
                edit.entries(above)[name] = _noted(edit.view, path, status, trust)
    return edit.done()


def missing(before: Folders, now: Folders) -> set[bytes]:
    """Return the paths that were there before and are not now."""
    lost: set[bytes] = set()
    files: dict[bytes, set[bytes]] = {}
    for path, old in before.items():
        new = now.get(path)
        if new is None:
            above, _, name = path.rpartition(b"/")
            if above in now and above not in files:
                files[above] = set(now[above].listed())
            if name not in files.get(above, ()):  # it may be a file by now
                lost.add(path)
        elif new.names == old.names:
            continue
        names = set(old.listed()).difference(() if new is None else new.listed())
        lost.update(b"%b/%b" % (path, name) for name in names)
    return lost - now.keys()


def differing(top: int, note: Note, stop: threading.Event) -> Iterator[bytes]:
    """Yield the paths that are not what a note says, or of which nobody can tell.

    Args:
        top: open descriptor of the project's directory.
        note: what to compare with.
        stop: set when nobody wants to know any more.

    Raises:
        NotToBeNoted: ``stop`` was set.
    """
    yield from note.gone
    with Way(top, names_only=True) as way:
        for path, folder in note.folders.items():
            check(stop)
            try:
                fd = way.to(path)
                same = os.fstat(fd).st_mode == folder.mode
            except OSError:  # what is below it is not in the mirror, whatever is found there
                yield path
                names = folder.listed()
            else:
                if not same:
                    yield path
                names = folder.differing(fd)
            for name in names:
                yield b"%b/%b" % (path, name)


def await_step(top: int, youngest: int, stop: threading.Event) -> int:
    """Wait until the clock of a file system has gone on, but not for long; return the time by it.

    Args:
        top: open descriptor of a directory there.
        youngest: the time that is to be over.
        stop: set when nobody wants to know any more.

    Raises:
        OSError: the directory cannot be written to.
        NotToBeNoted: ``stop`` was set.
    """
    end = time.monotonic_ns() + PATIENCE
    while (now := file_clock(top)) <= youngest and time.monotonic_ns() < end:
        stop.wait(0.001)
        check(stop)
    return now


def check(stop: threading.Event) -> None:
    """Raise ``NotToBeNoted`` if nobody wants to know any more."""
    if stop.is_set():
        raise NotToBeNoted("nobody waits for it any more")


class _Edit:
    """Changes some entries of many folders, each folder only once."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._open: dict[bytes, dict[bytes, bytes]] = {}

    def entries(self, path: bytes) -> dict[bytes, bytes]:
        """Return the entries of a directory that is noted, to be changed."""
        found = self._open.get(path)
        if found is None:
            found = self._open[path] = self.view.folders[path].entries()
        return found

    def directory(self, path: bytes, mode: int) -> None:
        """Note a directory, in place of whatever was there."""
        above, _, name = path.rpartition(b"/")
        old = self.view.folders.get(path)
        if old is None:
            self.view.folders[path] = Folder(mode)
            if above:
                self.entries(above).pop(name, None)
        else:
            self.view.folders[path] = Folder(mode, old.names, old.stats)

    def pass_through(self, path: bytes, way: Way) -> os.stat_result:
        """Return what a path is like, and note the directories on the way there that are new."""
        above, _, name = path.rpartition(b"/")
        if not above:
            return os.fstat(way.to(path))
        at = -1
        while at != len(above):
            at = above.find(b"/", at + 1)
            at = len(above) if at < 0 else at
            if above[:at] not in self.view.folders:
                self.view.gone.discard(above[:at])
                self.directory(above[:at], os.fstat(way.to(above[:at])).st_mode)
        return os.stat(name, dir_fd=way.to(above), follow_symlinks=False)

    def forget(self, path: bytes) -> None:
        """Drop what is noted of a path, which is no directory now; what was in it is gone."""
        above, _, name = path.rpartition(b"/")
        if above in self.view.folders:
            self.entries(above).pop(name, None)
        if path not in self.view.folders:
            return
        start = path + b"/"
        for one in [one for one in self.view.folders if one == path or one.startswith(start)]:
            self.view.gone.update(b"%b/%b" % (one, inner) for inner in self.entries(one))
            if one != path:
                self.view.gone.add(one)
            del self.view.folders[one], self._open[one]

    def done(self) -> View:
        """Return the view with all changes."""
        for path, entries in self._open.items():
            self.view.folders[path] = Folder.of(self.view.folders[path].mode, entries)
        return self.view


def _look_into(view: View, path: bytes, fd: int, trust: Trust) -> list[bytes]:
    """Note what is in a directory; return the directories in it."""
    names: list[str] = []
    stats: list[bytes] = []
    inner: list[bytes] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = entry.name
            if name == _PARTIAL:
                continue
            inside = b"%b/%b" % (path, os.fsencode(name))
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                view.gone.add(inside)
                continue
            if stat.S_ISDIR(status.st_mode):
                inner.append(os.fsencode(name))
                continue
            names.append(name)
            stats.append(_noted(view, inside, status, trust))
            if len(names) > MOST_PATHS:
                raise NotToBeNoted(f"it has more than {MOST_PATHS} paths")
    mode = os.fstat(fd).st_mode
    view.folders[path] = Folder(mode, os.fsencode("\0".join(names)), b"".join(stats))
    return inner


def _noted(view: View, path: bytes, status: os.stat_result, trust: Trust) -> bytes:
    modified = status.st_mtime_ns
    step = STEP if modified % _SECOND else COARSE_STEP
    if modified >= trust.begun - step:
        view.doubts.add(path)
        return NOBODY_KNOWS
    if status.st_ctime_ns >= trust.now:
        view.doubts.add(path)
        if status.st_ctime_ns < trust.now + PATIENCE:
            view.young.add(path)
        return NOBODY_KNOWS
    return packed(status)


def _normal(name: bytes) -> bytes | None:
    """Return a path in the mirror as notes have it; None for one that is in none.

    Raises:
        NotToBeNoted: it is no path in a mirror.
    """
    words = [word for word in name.split(b"/") if word not in (b"", b".")]
    inside = bool(words) and words[0] in PARTS and b".." not in words
    if not inside or b"\0" in name or name.startswith(b"/"):
        raise NotToBeNoted(f"{printable(name)} is not a path in it")
    path = b"/".join(words)
    return None if PARTIAL_DIR in words or len(path) > LONGEST_PATH else path
