"""ELF files: of every machine, of a real compiler, and of somebody who means harm."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tests.support.elves import elf

from psync.sync.elf import (
    MOST_LIBRARIES,
    MOST_SEGMENTS,
    Elf,
    ElfError,
    Header,
    Read,
    debug_size,
    parse_elf,
    parse_header,
)


def reader(data: bytes) -> Read:
    def read(offset: int, size: int) -> bytes:
        assert offset >= 0
        assert size >= 0
        return data[offset : offset + size]

    return read


def parse(data: bytes) -> Elf:
    found = parse_elf(reader(data))
    assert found is not None
    return found


SHAPES = [
    (62, 64, True, "x86_64"),
    (62, 32, True, "x32"),
    (3, 32, True, "i386"),
    (183, 64, True, "aarch64"),
    (40, 32, True, "arm"),
    (243, 64, True, "riscv64"),
    (21, 64, True, "ppc64le"),
    (21, 64, False, "ppc64"),
    (22, 64, False, "s390x"),
    (258, 64, True, "loongarch64"),
    (8, 32, False, "mips"),
    (247, 64, True, ""),
]


@pytest.mark.parametrize(("number", "bits", "little", "machine"), SHAPES)
@pytest.mark.parametrize("escape", [False, True])
def test_all_of_it_is_read(
    number: int, bits: int, little: bool, machine: str, escape: bool
) -> None:
    data = elf(
        number=number,
        bits=bits,
        little=little,
        interpreter=b"/lib/ld.so",
        needed=(b"liba.so", b"libc.so.6"),
        runpath=b"$ORIGIN/../lib::/opt/x",
        sections=((b".text", 40), (b".debug_info", 70), (b".zdebug_line", 5), (b".debug", 9)),
        escape=escape,
    )
    assert parse(data) == Elf(
        Header(bits, little, number, machine, core=False),
        b"/lib/ld.so",
        (b"liba.so", b"libc.so.6"),
        (),
        (b"$ORIGIN/../lib", b"/opt/x"),
    )
    assert debug_size(reader(data)) == 75


def test_runpath_makes_rpath_void() -> None:
    assert parse(elf(needed=(b"a",), rpath=b"/r:/s")).rpath == (b"/r", b"/s")
    both = parse(elf(needed=(b"a",), rpath=b"/r", runpath=b"/u"))
    assert (both.rpath, both.runpath) == ((), (b"/u",))


def test_a_static_program_needs_nothing_and_a_dump_is_told() -> None:
    assert parse(elf()) == Elf(Header(64, True, 62, "x86_64", core=False))
    assert debug_size(reader(elf())) == 0
    header = parse_header(elf(kind=4))
    assert header is not None
    assert header.core


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" * 9, b"\x7fELF\x03\x01" * 9])
def test_what_is_no_elf_file(data: bytes) -> None:
    assert parse_header(data) is None
    assert parse_elf(reader(data)) is None
    assert debug_size(reader(data)) == 0


@pytest.mark.skipif(not (shutil.which("gcc") and shutil.which("readelf")), reason="no compiler")
def test_a_real_program_is_read_as_readelf_does(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return 0; }\n")
    program = tmp_path / "main"
    subprocess.run(
        ["gcc", "-g", "-o", program, tmp_path / "main.c", "-Wl,-rpath,$ORIGIN/lib:/y"],
        check=True,
        timeout=60,
    )
    data = program.read_bytes()
    found = parse(data)
    said = subprocess.run(
        ["readelf", "-ldSW", program], capture_output=True, check=True, timeout=60, text=True
    ).stdout
    assert found.interpreter is not None
    assert f"program interpreter: {found.interpreter.decode()}]" in said
    assert [f"[{name.decode()}]" in said for name in found.needed] == [True] * len(found.needed)
    assert len(found.needed) == said.count("(NEEDED)") > 0
    assert found.rpath + found.runpath == (b"$ORIGIN/lib", b"/y")
    rows = [line.split("]", 1)[1].split() for line in said.splitlines() if "] .debug_" in line]
    assert debug_size(reader(data)) == sum(int(row[4], 16) for row in rows) > 0


# -- harm -----------------------------------------------------------------------------------------

WHOLE = elf(
    interpreter=b"/lib/ld.so",
    needed=(b"liba.so", b"libc.so.6"),
    rpath=b"/x",
    sections=((b".text", 40), (b".debug_info", 70)),
)


def survive(data: bytes) -> None:
    """Either an answer or the one error, and reading is bounded."""
    read = 0

    def count(offset: int, size: int) -> bytes:
        nonlocal read
        assert 0 <= offset <= 1 << 62
        assert 0 <= size <= 16 << 20
        found = data[offset : offset + size]
        read += len(found) + 1
        return found

    for ask in (parse_elf, debug_size):
        read = 0
        try:
            ask(count)
        except ElfError:
            pass
        assert read <= 8 * len(data) + MOST_LIBRARIES * (len(data) + 1)


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_file_that_ends_anywhere(length: int) -> None:
    survive(WHOLE[:length])


@given(
    st.sampled_from(SHAPES),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=6),
)
def test_a_file_with_anything_in_it(
    shape: tuple[int, int, bool, str], changes: list[tuple[int, bytes]]
) -> None:
    number, bits, little, _ = shape
    data = bytearray(
        elf(
            number=number,
            bits=bits,
            little=little,
            interpreter=b"/l",
            needed=(b"a", b"b"),
            runpath=b"/x",
            sections=((b".debug_x", 3),),
        )
    )
    for place, new in changes:
        data[place : place + len(new)] = new
    survive(bytes(data))


@given(st.binary(max_size=400))
def test_a_header_with_noise_after_it(noise: bytes) -> None:
    survive(b"\x7fELF\x02\x01" + noise)
    survive(b"\x7fELF\x01\x02" + noise)


def put(data: bytes, layout: str, place: int, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into("<" + layout, changed, place, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:40], "ends in its header"),
        (put(WHOLE, "H", 56, MOST_SEGMENTS + 1), "4097 segments"),
        (put(WHOLE, "H", 56, 0xFFFF)[:0x28] + bytes(8) + WHOLE[0x30:56] + b"\xff\xff" + WHOLE[58:],
         "counts"),
        (put(WHOLE, "H", 54, 8), "segments of 8 bytes"),
        (put(WHOLE, "Q", 32, 1 << 40), "ends in its segments"),
        (put(WHOLE, "Q", 32, (1 << 64) - 1), "points out"),
        (put(WHOLE, "Q", 64 + 16, 1 << 50), "in no segment"),
    ],
)  # fmt: skip
def test_damage_has_a_name(data: bytes, words: str) -> None:
    with pytest.raises(ElfError, match=words):
        parse_elf(reader(data))


def test_more_libraries_than_any_program_has() -> None:
    with pytest.raises(ElfError, match="1025 libraries"):
        parse(elf(needed=[b"x"] * (MOST_LIBRARIES + 1)))


def test_sections_that_are_not_there() -> None:
    with pytest.raises(ElfError, match="sections"):
        debug_size(reader(put(WHOLE, "Q", 40, len(WHOLE) - 10)))
