"""What an ELF file says of itself: for which CPU it is, which loader and libraries it needs, and
how much of it is only for debuggers. No I/O of its own.

The layout is that of the System V ABI, "Object Files" (gABI, chapters 4 and 5) and ``elf(5)``. A
file may be anybody's: every count and length in it is bounded before it is believed, and nothing in
it is followed in a circle, so that the worst one costs a few megabytes of reading.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

MAGIC = b"\x7fELF"

Read = Callable[[int, int], bytes]
"""Returns up to so many bytes (the second) from an offset (the first); fewer at the file's end."""

MOST_SEGMENTS = 4096
MOST_SECTIONS = 1 << 17
MOST_DYNAMIC = 1 << 16
MOST_LIBRARIES = 1024
LONGEST_NAME = 4096
LONGEST_SEARCH = 64 * 1024
_LONGEST_NAMES = 4 << 20
_LONGEST_TABLE = 16 << 20

_CORE = 4
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
_NOBITS = 8
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29
_ESCAPE = 0xFFFF  # the real number is in the first section header (PN_XNUM, SHN_XINDEX)
_DEBUG = (b".debug_", b".zdebug_")

# e_machine -> (little-endian 32 bits, little-endian 64, big-endian 32, big-endian 64), as uname -m
# calls them; the numbers are those of elf.h.
_MACHINES: dict[int, tuple[str, str, str, str]] = {
    2: ("", "", "sparc", "sparc64"),
    3: ("i386", "", "", ""),
    8: ("mipsel", "mips64el", "mips", "mips64"),
    18: ("", "", "sparc", ""),
    20: ("", "", "ppc", ""),
    21: ("", "ppc64le", "", "ppc64"),
    22: ("", "", "s390", "s390x"),
    40: ("arm", "", "armeb", ""),
    43: ("", "", "", "sparc64"),
    62: ("x32", "x86_64", "", ""),
    183: ("", "aarch64", "", "aarch64_be"),
    243: ("riscv32", "riscv64", "", ""),
    258: ("loongarch32", "loongarch64", "", ""),
}


class ElfError(ValueError):
    """The file begins as an ELF file does and goes on as none can."""


class Header(msgspec.Struct, frozen=True):
    """The beginning of an ELF file.

    Attributes:
        bits: 32 or 64.
        little: little-endian.
        number: ``e_machine``.
        machine: the same as ``uname -m`` would call it; empty for one that psync does not know.
        core: it is a memory dump.
    """

    bits: int
    little: bool
    number: int
    machine: str
    core: bool


class Elf(msgspec.Struct, frozen=True):
    """A program or a shared library.

    Attributes:
        header: for which machine it is.
        interpreter: path of the dynamic loader; None for a static program and most libraries.
        needed: names of the shared libraries that it is linked with, in order.
        rpath: where they are looked for, the outdated way (``DT_RPATH``); empty where ``runpath``
            is there, which makes loaders ignore it.
        runpath: where they are looked for (``DT_RUNPATH``).
    """

    header: Header
    interpreter: bytes | None = None
    needed: tuple[bytes, ...] = ()
    rpath: tuple[bytes, ...] = ()
    runpath: tuple[bytes, ...] = ()


def parse_header(head: bytes) -> Header | None:
    """Return what the first 20 bytes say, None where they are not those of an ELF file."""
    if len(head) < 20 or head[:4] != MAGIC or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    little = head[5] == 1
    kind, number = struct.unpack_from("<HH" if little else ">HH", head, 16)
    bits = 32 * head[4]
    names = _MACHINES.get(number, ("", "", "", ""))
    return Header(bits, little, number, names[2 * (not little) + (bits == 64)], kind == _CORE)


def parse_elf(read: Read) -> Elf | None:
    """Return what a file needs to be executed, None where it is no ELF file.

    Args:
        read: reads from it.

    Raises:
        ElfError: it is damaged.
    """
    file = _File.open(read)
    if file is None:
        return None
    interpreter: bytes | None = None
    dynamic = b""
    loads = []
    for kind, offset, address, size in file.segments():
        if kind == _LOAD:
            loads.append((address, offset, size))
        elif kind == _INTERP and interpreter is None:
            interpreter = _name(file.read(offset, min(size, LONGEST_NAME)))
        elif kind == _DYNAMIC and not dynamic:
            dynamic = file.read(offset, min(size, MOST_DYNAMIC * 16))
    needed, rpath, runpath = _linked(file, dynamic, loads)
    return Elf(file.header, interpreter, needed, () if runpath else rpath, runpath)


def debug_size(read: Read) -> int:
    """Return how many bytes of a file are sections for debuggers; 0 where it is no ELF file.

    Args:
        read: reads from it.

    Raises:
        ElfError: it is damaged.
    """
    file = _File.open(read)
    if file is None:
        return 0
    sections, names = file.sections()
    return sum(
        size for name, kind, size in sections if kind != _NOBITS and names.startswith(_DEBUG, name)
    )


class _File:
    """The tables of one file, read as they are asked for."""

    def __init__(self, read: Read, header: Header, head: bytes) -> None:
        self.header = header
        self._read = read
        self._order = "<" if header.little else ">"
        self._wide = header.bits == 64
        (
            self._segments_at,
            self._sections_at,
            self._segment_size,
            self._segment_count,
            self._section_size,
            self._section_count,
            self._names_index,
        ) = self._unpack("8xQQ6xHHHHH" if self._wide else "4xII6xHHHHH", head, 24)

    @classmethod
    def open(cls, read: Read) -> _File | None:
        head = read(0, 64)
        header = parse_header(head)
        if header is None:
            return None
        if len(head) < (64 if header.bits == 64 else 52):
            raise ElfError("it ends in its header")
        return cls(read, header, head)

    def read(self, offset: int, size: int) -> bytes:
        if offset + size > 1 << 62:
            raise ElfError("it points out of any file")
        return self._read(offset, size)

    def words(self, data: bytes) -> list[tuple[int, int]]:
        """Return the pairs of words that a dynamic section is made of."""
        width = 16 if self._wide else 8
        whole = data[: len(data) - len(data) % width]
        return list(struct.iter_unpack(self._order + ("QQ" if self._wide else "II"), whole))

    def segments(self) -> list[tuple[int, int, int, int]]:
        """Return the program headers: type, offset, address, size in the file."""
        count = self._segment_count
        if count == _ESCAPE:
            count = self._first_section()[2]
        layout = "I4xQQ8xQ" if self._wide else "III4xI"
        least = 56 if self._wide else 32
        found = []
        for row in self._table(
            self._segments_at, self._segment_size, count, least, MOST_SEGMENTS, "segments"
        ):
            kind, offset, address, size = self._unpack(layout, row)
            found.append((kind, offset, address, size))
        return found

    def sections(self) -> tuple[list[tuple[int, int, int]], bytes]:
        """Return the section headers (place of the name, type, size), and the names."""
        count, index = self._section_count, self._names_index
        if not self._sections_at:
            return [], b""
        if count == 0 or index == _ESCAPE:
            first = self._first_section()
            count = count or first[0]
            index = first[1] if index == _ESCAPE else index
        found, names = [], b""
        layout = "II16xQQ" if self._wide else "II8xII"
        least = 64 if self._wide else 40
        rows = self._table(
            self._sections_at, self._section_size, count, least, MOST_SECTIONS, "sections"
        )
        for number, row in enumerate(rows):
            name, kind, offset, size = self._unpack(layout, row)
            found.append((name, kind, size))
            if number == index and kind != _NOBITS:
                names = self.read(offset, min(size, _LONGEST_NAMES))
        return found, names

    def _first_section(self) -> tuple[int, int, int]:
        """Return what does not fit into the header: sections, index of their names, segments."""
        if not self._sections_at:
            raise ElfError("it says that its counts are in a section and has none")
        size = 64 if self._wide else 40
        row = self.read(self._sections_at, size)
        if len(row) < size:
            raise ElfError("it ends in its section headers")
        count, link, info = self._unpack("32xQII" if self._wide else "20xIII", row)
        return count, link, info

    def _table(
        self, offset: int, size: int, count: int, least: int, most: int, what: str
    ) -> list[bytes]:
        if count == 0 or offset == 0:
            return []
        if size < least or count > most or size * count > _LONGEST_TABLE:
            raise ElfError(f"it has {count} {what} of {size} bytes")
        data = self.read(offset, size * count)
        if len(data) < size * count:
            raise ElfError(f"it ends in its {what} headers")
        return [data[start : start + size] for start in range(0, size * count, size)]

    def _unpack(self, layout: str, data: bytes, offset: int = 0) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, data, offset)


def _linked(
    file: _File, dynamic: bytes, loads: list[tuple[int, int, int]]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    """Return what a dynamic section says: needed libraries, rpath, runpath."""
    needed: list[int] = []
    single: dict[int, int] = {}
    for tag, value in file.words(dynamic):
        if tag == _DT_NULL:
            break
        if tag == _DT_NEEDED:
            needed.append(value)
        else:
            single.setdefault(tag, value)
    if len(needed) > MOST_LIBRARIES:
        raise ElfError(f"it needs {len(needed)} libraries")
    if _DT_STRTAB not in single:
        if needed:
            raise ElfError("it needs libraries without names")
        return (), (), ()
    table = single[_DT_STRTAB]
    # In the file the address is one in memory; the segment that it falls into says where that is.
    start = next((o + table - a for a, o, size in loads if a <= table < a + size), None)
    if start is None:
        raise ElfError("the names of its libraries are in no segment")
    end = start + single.get(_DT_STRSZ, 0)

    def text(place: int, longest: int) -> bytes:
        return _name(file.read(start + place, max(0, min(longest, end - start - place))))

    names = tuple(text(place, LONGEST_NAME) for place in needed)
    paths = [
        tuple(part for part in text(single[tag], LONGEST_SEARCH).split(b":") if part)
        if tag in single
        else ()
        for tag in (_DT_RPATH, _DT_RUNPATH)
    ]
    return tuple(name for name in names if name), paths[0], paths[1]


def _name(data: bytes) -> bytes:
    return data.partition(b"\0")[0]
