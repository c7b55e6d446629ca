"""Which shared libraries a program brings along: those that the loader finds here, and that are not
the system's.

The search is that of ``ld.so(8)``: ``RPATH`` of whoever needs the library and of those that brought
it (unless there is a ``RUNPATH``), ``LD_LIBRARY_PATH``, ``RUNPATH``, then the system, whose
libraries are the daemon host's own business. What ``RPATH`` and ``RUNPATH`` name is sent from
inside the project only: a program that was merely downloaded must not say which other files of the
user's are sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from psync.sync.elf import Elf, ElfError, parse_elf
from psync.sync.plan import mirror_path

VARIABLE = b"LD_LIBRARY_PATH"

MOST = 512
"""Libraries that are followed; no program has as many of its own."""

_SYSTEM = (
    *(b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/usr", b"/opt"),
    *(b"/nix/store", b"/gnu/store", b"/snap"),
)


class Libraries(msgspec.Struct, frozen=True):
    """What a program needs besides itself.

    Attributes:
        files: absolute paths of shared libraries that are to be sent, in the order they were found.
        directories: absolute directories in whose mirrors the loader has to be told to look.
    """

    files: tuple[bytes, ...] = ()
    directories: tuple[bytes, ...] = ()

    def library_path(self, root: bytes) -> tuple[bytes, ...]:
        """Return the directories as they are in the mirror, for ``RunSpec.library_path``.

        Args:
            root: the project's root.
        """
        return tuple(mirror_path(root, directory) for directory in self.directories)


class _Object(msgspec.Struct, frozen=True):
    """Something that was loaded: the program, or a library.

    Attributes:
        elf: what it says of itself.
        origin: the directory it lies in.
        parent: what needed it.
    """

    elf: Elf
    origin: bytes
    parent: _Object | None


def find_libraries(program: bytes, *, root: bytes, path: bytes, cwd: bytes) -> Libraries:
    """Return the shared libraries that belong to a program, and those that belong to them.

    Args:
        program: absolute path, without symbolic links.
        root: absolute path of the project's root.
        path: the value of ``LD_LIBRARY_PATH``, empty where it is not set.
        cwd: what is relative in there is relative to this directory.

    A file that is no ELF file, is damaged or cannot be read has none.
    """
    elf = _parse(program)
    if elf is None:
        return Libraries()
    search = _Search(root, path, cwd)
    search.follow(_Object(elf, os.path.dirname(program), None))
    named = [directory for directory in search.path if directory in search.directories]
    rest = [directory for directory in search.directories if directory not in named]
    return Libraries(tuple(search.files), tuple(dict.fromkeys(named + rest)))


class _Search:
    def __init__(self, root: bytes, path: bytes, cwd: bytes) -> None:
        self.files: list[bytes] = []
        self.directories: dict[bytes, None] = {}  # in order
        self._root = root
        # An empty entry is the working directory, as for the loader.
        words = path.replace(b";", b":").split(b":") if path else []
        self.path = [
            os.path.realpath(os.path.join(cwd, word)) for word in words if b"$" not in word
        ]
        self._seen: set[bytes] = set()

    def follow(self, program: _Object) -> None:
        """Find what the program needs, what that needs, and so on, in the loader's order."""
        waiting = [program]
        while waiting and len(self.files) < MOST:
            owner = waiting.pop(0)
            for name in owner.elf.needed:
                if b"/" in name or name in self._seen:
                    continue
                self._seen.add(name)
                found = self._find(name, owner, program.elf)
                if found is not None:
                    waiting.append(found)

    def _find(self, name: bytes, owner: _Object, program: Elf) -> _Object | None:
        """Return a library that is to be sent, once it is noted."""
        for directory, origin in self._places(owner):
            path = os.path.join(directory, name)
            elf = _parse(path)
            if elf is None or (elf.header.bits, elf.header.number, elf.header.little) != (
                program.header.bits,
                program.header.number,
                program.header.little,
            ):
                continue  # as the loader does
            real = os.path.realpath(path)
            if not _below(self._root, real) and (origin is not None or _of_the_system(real)):
                return None
            self._note(path, os.path.realpath(directory), directory, origin)
            return _Object(elf, os.path.dirname(path), owner)
        return None

    def _places(self, owner: _Object) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield directories, and with those of RPATH and RUNPATH what $ORIGIN is, empty without."""
        link: _Object | None = owner
        while link is not None and not owner.elf.runpath:
            if not link.elf.runpath:
                yield from _expanded(link.elf.rpath, link.origin)
            link = link.parent
        for directory in self.path:
            yield directory, None
        yield from _expanded(owner.elf.runpath, owner.origin)

    def _note(self, path: bytes, real: bytes, directory: bytes, origin: bytes | None) -> None:
        file = os.path.join(real, os.path.basename(path))
        if file not in self.files:
            self.files.append(file)
        # The mirror has the same layout, so that what is found relative to the program or library
        # here is found there, but for ways through links and from inside the project to outside.
        same = origin and real == directory and _part(self._root, origin) == _part(self._root, real)
        if not same:
            self.directories[real] = None


def _expanded(words: Sequence[bytes], origin: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    for word in words:
        full = word.replace(b"${ORIGIN}", origin).replace(b"$ORIGIN", origin)
        if full.startswith(b"/") and b"$" not in full.replace(origin, b""):
            yield os.path.normpath(full), origin if full != word else b""


def _parse(path: bytes) -> Elf | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return parse_elf(lambda offset, size: os.pread(descriptor, size, offset))
    except (OSError, ElfError):
        return None
    finally:
        os.close(descriptor)


def _below(root: bytes, path: bytes) -> bool:
    return path.startswith(root.rstrip(b"/") + b"/")


def _part(root: bytes, path: bytes) -> bool:
    return path == root or _below(root, path)


def _of_the_system(path: bytes) -> bool:
    return any(_below(directory, path) for directory in _SYSTEM)
