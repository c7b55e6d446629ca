"""What every path of a mirror was like when a sync had ended, and the file that says so.

    <project>/note       a line that names the format, the CRC-32 of the rest, the rest in msgpack

A mirror may have half a million paths, and its note is read, compared and written while somebody
waits. So there is one record for each directory and not for each path: its names, and one after
another what is known of each. That is some 50 bytes for a path, in memory and on the disk, and
takes milliseconds to read.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Mapping
from typing import Self

import msgspec

FORMAT = b"psync note 1\n"

MOST_BYTES = 1 << 30
"""Bytes of a note that is read; there is none so large."""

_CRC = struct.Struct("<I")
_STATUS = struct.Struct("<IqqqQ")

NOBODY_KNOWS = bytes(_STATUS.size)
"""What is noted of a path of which nobody can tell whether it changed. No path is like that."""


def packed(status: os.stat_result) -> bytes:
    """Return what is noted of a path: kind and mode, size, times of modification and of change in
    nanoseconds, inode."""
    try:
        return _STATUS.pack(
            status.st_mode,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        )
    except struct.error:  # a time centuries away
        return NOBODY_KNOWS


class Folder(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One directory.

    Attributes:
        mode: kind and mode.
        names: of what is in it and is no directory, a NUL byte between any two.
        stats: for each of them what ``packed`` returned, or ``NOBODY_KNOWS``.
    """

    mode: int
    names: bytes = b""
    stats: bytes = b""

    @classmethod
    def of(cls, mode: int, entries: Mapping[bytes, bytes]) -> Self:
        """Return the record of a directory from its entries."""
        return cls(mode, b"\0".join(entries), b"".join(entries.values()))

    @property
    def count(self) -> int:
        """How many names there are."""
        return len(self.stats) // _STATUS.size

    def listed(self) -> list[bytes]:
        """Return the names."""
        return self.names.split(b"\0") if self.names else []

    def entries(self) -> dict[bytes, bytes]:
        """Return what is noted, by name."""
        size = _STATUS.size
        stats = self.stats
        pieces = [stats[at : at + size] for at in range(0, len(stats), size)]
        return dict(zip(self.listed(), pieces, strict=True))

    def differing(self, directory: int) -> list[bytes]:
        """Return the names that are not what they were, or of which nobody can tell.

        Args:
            directory: open descriptor of what is there now.
        """
        # 100,000 names come through here while somebody waits: nothing is called that need not be.
        changed = []
        look, pack, stats, size = os.stat, _STATUS.pack, self.stats, _STATUS.size
        at = 0
        for name in self.listed():
            end = at + size
            try:
                now = look(name, dir_fd=directory, follow_symlinks=False)
                same = stats[at:end] == pack(
                    now.st_mode, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino
                )
            except (OSError, struct.error):
                same = False
            if not same:
                changed.append(name)
            at = end
        return changed


Folders = dict[bytes, Folder]
"""By path in the mirror, such as ``tree/assets``."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What a mirror was like.

    Attributes:
        seal: names the note.
        inode: of the project's directory; another one is another mirror.
        folders: all directories.
        gone: paths that should perhaps be there and were not: nobody can tell whether the sync
            removed them or somebody else did.
    """

    seal: str
    inode: int
    folders: Folders
    gone: frozenset[bytes] = frozenset()


class NoteDamaged(Exception):
    """The file is not a whole note of this version."""


def read_note(path: str) -> Note:
    """Read a note.

    Raises:
        OSError: it cannot be read.
        NoteDamaged: it is not whole, or of another version.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NoteDamaged("it is no file")
        data = memoryview(file.read(MOST_BYTES))
    start = len(FORMAT) + _CRC.size
    if data[: len(FORMAT)] != FORMAT or len(data) < start:
        raise NoteDamaged("it is of another version")
    if _CRC.unpack(data[len(FORMAT) : start])[0] != zlib.crc32(data[start:]):
        raise NoteDamaged("its sum is not right")
    try:
        return msgspec.msgpack.decode(data[start:], type=Note)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NoteDamaged(str(error)) from error


def write_note(path: str, note: Note) -> None:
    """Replace a note. It is not forced on to the disk: one that is damaged when the host stops
    costs one whole look, and this is done after every sync.

    Raises:
        OSError: it cannot be written; the old one is untouched.
    """
    body = msgspec.msgpack.encode(note)
    new = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(FORMAT + _CRC.pack(zlib.crc32(body)))
            file.write(body)
        os.replace(new, path)
    except OSError:
        remove(new)
        raise


def remove(path: str) -> None:
    """Remove a file if it is there and that is possible."""
    try:
        os.unlink(path)
    except OSError:
        pass
