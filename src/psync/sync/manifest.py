"""What psync has brought into a part of a mirror, so that it can take away what is gone here.

One directory per part of a mirror, in the client's state:

    <state>/mirrors/<mirror>/<part>/manifest       a JSON line, then names that end with NUL bytes
    <state>/mirrors/<mirror>/<part>/mark/.psync-mirror

The mark is also put into the part itself, by rsync. Before anything is removed rsync is asked
whether it is still there: another mirror at the same place, made after a daemon lost its state for
instance, has none, and what was brought into the old one says nothing about it.

The names of directories end with a slash. The file is written before a transfer begins, with what
it may bring, and once more after something was removed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import msgspec

from psync.paths import private_directory, write_atomic
from psync.sync.listing import MARK_NAME, Listing
from psync.sync.plan import Tree

FORMAT = 1


class Header(msgspec.Struct, frozen=True):
    """The first line.

    Attributes:
        format: version of the format.
        mark: content of the mark.
        placed: the mark is in the mirror.
        inode: of the project's root.
        mounts: directories that were mount points.
        named: files that were named on their own.
    """

    format: int = FORMAT
    mark: str = ""
    placed: bool = False
    inode: int = 0
    mounts: tuple[bytes, ...] = ()
    named: tuple[bytes, ...] = ()


class Changes(msgspec.Struct, frozen=True):
    """What is to be removed, and why some of it is not.

    Attributes:
        first: names that are in the way of what is sent, to be removed before.
        then: all others.
        kept: number of names that stay although they are gone here, and the reason, for people.
    """

    first: tuple[bytes, ...] = ()
    then: tuple[bytes, ...] = ()
    kept: tuple[tuple[int, str], ...] = ()


class Manifest:
    """The record of one part of one mirror, as this process found it.

    Args:
        state: the client's state directory.
        place: tells this mirror from all others.
        part: of the mirror.

    Raises:
        ConfigError: the directory cannot be used.
    """

    def __init__(self, state: str, place: bytes, part: bytes) -> None:
        key = hashlib.sha256(place).hexdigest()[:24]
        self._directory = f"{state}/mirrors/{key}/{os.fsdecode(part)}"
        self._file = f"{self._directory}/manifest"
        self.header = Header()
        self._body: bytes = b""
        self._names: set[bytes] | None = None
        try:
            with open(self._file, "rb") as file:
                header = msgspec.json.decode(file.readline(), type=Header)
                if header.format == FORMAT:
                    self.header = header
                    self._body = file.read()
        except (OSError, msgspec.MsgspecError, ValueError):
            pass  # then nothing is known, and nothing is removed

    @property
    def skeleton(self) -> bytes:
        """The directory that holds the mark."""
        return os.fsencode(f"{self._directory}/mark")

    @contextmanager
    def way_to(self, names: tuple[bytes, ...]) -> Iterator[bytes]:
        """A directory that holds the directories above these names, as long as this lasts."""
        way = os.fsencode(f"{self._directory}/way")
        shutil.rmtree(way, ignore_errors=True)
        os.mkdir(way, 0o700)
        try:
            for directory in {os.path.dirname(name) for name in names}:
                os.makedirs(os.path.join(way, directory), exist_ok=True)
            yield way
        finally:
            shutil.rmtree(way, ignore_errors=True)

    @property
    def names(self) -> set[bytes]:
        """What directories have brought; directories with a slash at the end."""
        if self._names is None:
            # behind the last NUL there may be half a name, of a write that was cut
            self._names = set(self._body.split(b"\0")[:-1])
        return self._names

    def forget(self) -> None:
        """Know nothing: the mirror is not there, or is another one."""
        self.header = Header()
        self._body = b""
        self._names = set()
        shutil.rmtree(self._directory, ignore_errors=True)

    def compare(self, tree: Tree, listing: Listing, inode: int) -> Changes:
        """Return what is to be removed from the mirror.

        Args:
            tree: what is sent.
            listing: what it holds.
            inode: of the project's root.
        """
        now = {*listing.entries, *(name + b"/" for name in listing.directories)}

        def is_gone(name: bytes) -> bool:
            return name in listing.never or _is_gone(tree.base, name)

        gone = [
            name
            for name in self.header.named
            if name not in now and is_gone(name) and _stands(tree.base, name)
        ]
        kept: list[tuple[int, str]] = []
        if listing.scope:
            filled = _ancestors(listing.entries)
            lost = [m for m in self.header.mounts if m not in listing.mounts]
            for scope in listing.scope:
                found = [
                    name
                    for name in self.names
                    if name not in now and _covers(scope, name) and is_gone(name)
                ]
                shown = tree.base if scope == b"." else os.path.join(tree.base, scope)
                if found and scope not in filled:
                    kept.append((len(found), f"{os.fsdecode(shown)} is empty"))
                    continue
                for mount in lost:
                    below = {name for name in found if _covers(mount, name)}
                    if below:
                        path = os.fsdecode(os.path.join(tree.base, mount))
                        kept.append((len(below), f"nothing is mounted on {path}"))
                        found = [name for name in found if name not in below]
                gone += found
        if gone and self.header.inode not in (0, inode):
            kept.append((len(gone), "the project's directory is not the one that it was"))
            gone = []
        blocked = set(listing.entries).difference(listing.directories)
        first = [name for name in gone if _parents(name).intersection(blocked)]
        first += [name for name in gone if name[:-1] in blocked and name.endswith(b"/")]
        then = set(gone).difference(first)
        return Changes(tuple(sorted(set(first))), tuple(sorted(then)), tuple(kept))

    def expect(self, tree: Tree, listing: Listing, changes: Changes, inode: int) -> None:
        """Write down what a transfer is about to bring; everything else is known on.

        Raises:
            OSError, ConfigError: it cannot be written.
        """
        header = self.header
        directories = set(listing.directories)
        named = {
            name
            for name in (*tree.entries, *tree.inner)
            if name not in listing.scope and name not in directories
        }
        if changes.kept:  # until nothing is missing any more
            inode = header.inode
            mounts = {*header.mounts, *listing.mounts}
        elif listing.scope:
            others = [
                m for m in header.mounts if not any(_covers(scope, m) for scope in listing.scope)
            ]
            mounts = {*others, *listing.mounts}
        else:
            mounts = set(header.mounts)
        new = msgspec.structs.replace(
            header,
            mark=header.mark or os.urandom(16).hex(),
            inode=inode,
            mounts=tuple(sorted(mounts)),
            named=tuple(sorted(named.union(header.named))),
        )
        added: set[bytes] = set()
        if listing.scope:
            added = {*listing.entries, *(name + b"/" for name in listing.directories)}
            added -= self.names
        if new == header and not added:
            return
        if added:
            turned = {name[:-1] if name.endswith(b"/") else name + b"/" for name in added}
            self._names = (self.names - turned.difference(changes.first, changes.then)) | added
        self._write(new)

    def add(self, names: Collection[bytes]) -> None:
        """Write down more of what a transfer is about to bring, directories with a slash.

        What it costs follows from these names, not from what is known already.

        Raises:
            OSError: it cannot be written.
        """
        added = b"".join(name + b"\0" for name in sorted(names))
        with open(self._file, "ab", buffering=0) as file:
            file.write(added)
        self._body += added
        self._names = None

    def removed(self, names: tuple[bytes, ...]) -> None:
        """Forget names that are not in the mirror any more; raises as ``expect``."""
        gone = set(names)
        self._names = self.names - gone
        named = tuple(name for name in self.header.named if name not in gone)
        self._write(msgspec.structs.replace(self.header, named=named))

    def unplaced(self) -> None:
        """Note that the mirror is another one: it holds only what is sent from now on."""
        self._write(
            msgspec.structs.replace(self.header, mark=os.urandom(16).hex(), placed=False),
            renew=True,
        )

    def placed(self) -> None:
        """Note that the mark is in the mirror; raises as ``expect``."""
        self._write(msgspec.structs.replace(self.header, placed=True))

    def _write(self, header: Header, *, renew: bool = False) -> None:
        private_directory(self._directory)
        mark = os.path.join(os.fsdecode(self.skeleton), os.fsdecode(MARK_NAME))
        if renew or not os.path.exists(mark):
            private_directory(os.path.dirname(mark))
            write_atomic(mark, header.mark.encode() + b"\n")
        if self._names is not None:
            self._body = b"".join(name + b"\0" for name in sorted(self._names))
        write_atomic(self._file, msgspec.json.encode(header) + b"\n" + self._body)
        self.header = header


def levels(names: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Divide names into rounds: files, then directories, what is inside before what is outside."""
    files = tuple(name for name in names if not name.endswith(b"/"))
    rounds: dict[int, list[bytes]] = {}
    for name in names:
        if name.endswith(b"/"):
            rounds.setdefault(name.count(b"/"), []).append(name[:-1])
    found = [tuple(rounds[depth]) for depth in sorted(rounds, reverse=True)]
    return [files, *found] if files else found


def _is_gone(base: bytes, name: bytes) -> bool:
    """Whether the source has no such file, or no such directory; an error is no answer."""
    try:
        status = os.lstat(os.path.join(base, name.rstrip(b"/")))
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return name.endswith(b"/") and not stat.S_ISDIR(status.st_mode)


def _stands(base: bytes, name: bytes) -> bool:
    """Whether there is something left in the directory of a name."""
    try:
        return bool(os.listdir(os.path.dirname(os.path.join(base, name))))
    except OSError:
        return False


def _covers(outer: bytes, name: bytes) -> bool:
    return outer == b"." or name.startswith(outer + b"/")


def _parents(name: bytes) -> set[bytes]:
    found = set()
    name = name.rstrip(b"/")
    while name := os.path.dirname(name):
        found.add(name)
    return found


def _ancestors(names: tuple[bytes, ...]) -> set[bytes]:
    found = {b"."} if names else set()
    for name in names:
        name = os.path.dirname(name)
        while name and name not in found:
            found.add(name)
            name = os.path.dirname(name)
    return found
