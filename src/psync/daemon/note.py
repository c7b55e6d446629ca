"""What every path of a mirror is like: made after a sync, compared before the next one.

    <project>/note       a line of JSON, then msgpack of what the line has the CRC of

A path is noted as ``Looked``. A file's times tell whether it was written to since: but only if they
are older than the sync itself. rsync gives a file the time that it has at its source, so one with a
newer time was written by somebody else while the sync went on, or is so young that a later change
could bear the same time. Of such a file the note says that nobody can tell.

Nothing here follows a link in the mirror, which programs may write to.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from psync.paths import write_atomic

FORMAT = 1

PARTS = (b"tree", b"outside")

PARTIAL_DIR = b".psync-partial"
"""Where unfinished files wait; not part of the mirror."""

STEP = 20_000_000
"""Nanoseconds within which two writes may bear the same time; Linux's clock for it steps every
10 ms at most (CONFIG_HZ=100)."""

COARSE_STEP = 2_000_000_000
"""The same where times have whole seconds: FAT's step."""

_SECOND = 1_000_000_000

Looked = tuple[int, ...]
"""Mode, size, time of modification and of change in nanoseconds, inode; of a directory only the
mode; empty where nobody can tell."""

Paths = dict[bytes, Looked]
"""By path in the mirror, such as ``tree/game``."""


class NoteDamaged(Exception):
    """The file is not a whole note of this version."""


class Note(msgspec.Struct, frozen=True):
    """What a mirror was like.

    Attributes:
        seal: names the note.
        inode: of the project's directory; another one is another mirror.
        paths: see ``Paths``.
    """

    seal: str
    inode: int
    paths: Paths


class _Header(msgspec.Struct, frozen=True):
    format: int
    seal: str
    inode: int
    crc: int


def look(directory: str, begun: int) -> Paths:
    """Look at a whole mirror.

    Args:
        directory: the project's directory.
        begun: when the sync began, in nanoseconds since the epoch, by the clock of the file system.

    Raises:
        OSError: a directory cannot be read.
    """
    found: Paths = {}
    top = os.fsencode(directory)
    left = list(PARTS)
    while left:
        path = left.pop()
        try:
            fd = os.open(os.path.join(top, path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it went away meanwhile
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if name == PARTIAL_DIR:
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    inner = path + b"/" + name
                    found[inner] = _settled(_looked(status), begun)
                    if stat.S_ISDIR(status.st_mode):
                        left.append(inner)
        finally:
            os.close(fd)
    return found


def look_again(directory: str, before: Paths, names: Iterable[bytes], begun: int) -> Paths:
    """Return a note's paths, some of which were looked at again.

    Args:
        directory: the project's directory.
        before: what the note says.
        names: paths in the mirror; the directories above them are looked at as well.
        begun: as for ``look``.
    """
    found = dict(before)
    top = os.fsencode(directory)
    seen: set[bytes] = set()
    for name in names:
        for path in _above(name.rstrip(b"/")):
            if path in seen:
                continue
            seen.add(path)
            try:
                one = _looked(os.lstat(os.path.join(top, path)))
            except OSError:
                found.pop(path, None)
                continue
            found[path] = _settled(one, begun)
            if len(one) != 1:
                break  # what is below a link, or a file, is not in the mirror
    return found


def differing(directory: str, paths: Paths) -> Iterator[bytes]:
    """Yield the paths that are not what the note says, or of which nobody can tell.

    What is below a directory that is none any more differs as well, whatever is found there.
    """
    top = os.fsencode(directory) + b"/"
    gone: set[bytes] = set()  # and what was below it
    for path in sorted(paths):
        noted = paths[path]
        if gone and path.rpartition(b"/")[0] in gone:
            gone.add(path)
            yield path
            continue
        try:
            now = _looked(os.lstat(top + path))
        except OSError:
            now = ()
        if not noted or now != noted:
            if len(noted) == 1 and len(now) != 1:
                gone.add(path)
            yield path


def read_note(path: str) -> Note:
    """Read a note.

    Raises:
        FileNotFoundError: there is none.
        NoteDamaged: it is not whole, or of another version.
    """
    try:
        with open(path, "rb") as file:
            header = msgspec.json.decode(file.readline(1024), type=_Header)
            body = file.read()
        if header.format != FORMAT or header.crc != zlib.crc32(body):
            raise NoteDamaged(path)
        paths = msgspec.msgpack.decode(body, type=Paths)
    except FileNotFoundError:
        raise
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise NoteDamaged(path) from error
    return Note(header.seal, header.inode, paths)


def write_note(path: str, note: Note) -> None:
    """Write a note, as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    body = msgspec.msgpack.encode(note.paths)
    header = _Header(FORMAT, note.seal, note.inode, zlib.crc32(body))
    write_atomic(path, msgspec.json.encode(header) + b"\n" + body)


def _looked(status: os.stat_result) -> Looked:
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)
    return (
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    )


def _settled(one: Looked, begun: int) -> Looked:
    if len(one) == 1:
        return one
    step = STEP if one[2] % _SECOND else COARSE_STEP
    return one if one[2] < begun - step else ()


def _above(path: bytes) -> list[bytes]:
    """Return the directories above a path, from outside inwards, and the path itself."""
    words = path.split(b"/")
    return [b"/".join(words[:count]) for count in range(2, len(words) + 1)]
