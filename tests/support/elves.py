"""ELF files made by hand: for CPUs that no compiler here builds for."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def elf(
    *,
    number: int = 62,
    bits: int = 64,
    little: bool = True,
    kind: int = 2,
    interpreter: bytes | None = None,
    needed: Sequence[bytes] = (),
    rpath: bytes | None = None,
    runpath: bytes | None = None,
    sections: Sequence[tuple[bytes, int]] = (),
    escape: bool = False,
) -> bytes:
    """Return an ELF file.

    Args:
        number: ``e_machine``.
        bits: 32 or 64.
        little: little-endian.
        kind: ``e_type``.
        interpreter: the dynamic loader.
        needed: libraries.
        rpath: ``DT_RPATH``.
        runpath: ``DT_RUNPATH``.
        sections: names and sizes of sections, which hold zeros.
        escape: put the counts into the first section header, as a file with very many does.
    """
    order, wide = "<" if little else ">", bits == 64
    header, segment, section, word = (64, 56, 64, "Q") if wide else (52, 32, 40, "I")
    base = 0x400000

    def pack(layout: str, *values: int) -> bytes:
        return struct.pack(order + layout, *values)

    strings, places = b"\0", []
    for text in (*needed, rpath, runpath):
        places.append(len(strings))
        strings += (text or b"") + b"\0"
    pairs = [(1, place) for place in places[: len(needed)]]
    pairs += [(15, places[-2])] if rpath is not None else []
    pairs += [(29, places[-1])] if runpath is not None else []
    count = 1 + (interpreter is not None) + bool(pairs)
    start = header + segment * count
    body = interpreter + b"\0" if interpreter is not None else b""
    strings_at = start + len(body)
    body += strings
    dynamic_at = start + len(body)
    dynamic = b""
    if pairs:
        pairs += [(5, base + strings_at), (10, len(strings)), (0, 0)]
        dynamic = b"".join(pack(word * 2, *pair) for pair in pairs)
    body += dynamic

    def program(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return pack("IIQQQQQQ", kind, 5, offset, base + offset, 0, size, size, 1)
        return pack("IIIIIIII", kind, offset, base + offset, 0, size, size, 5, 1)

    table = program(1, 0, start + len(body))
    table += program(3, start, len(interpreter) + 1) if interpreter is not None else b""
    table += program(2, dynamic_at, len(dynamic)) if pairs else b""

    names, rows, at = b"\0", [], start + len(body)
    numbers = (len(sections) + 2, len(sections) + 1, count)
    if escape:
        rows.append((0, 0, 0, numbers[0], numbers[1], numbers[2]))
    elif sections:
        rows.append((0, 0, 0, 0, 0, 0))
    for name, size in sections:
        rows.append((len(names), 1, at, size, 0, 0))
        names += name + b"\0"
        body += bytes(size)
        at += size
    if rows:
        rows.append((len(names), 3, at, len(names) + 10, 0, 0))
        names += b".shstrtab\0"
        body += names
    sections_at = start + len(body) if rows else 0
    for row in rows:
        body += (
            pack("IIQQQQIIQQ", row[0], row[1], 0, 0, *row[2:], 1, 0)
            if wide
            else pack("IIIIIIIIII", row[0], row[1], 0, 0, *row[2:], 1, 0)
        )
    ident = b"\x7fELF" + bytes([bits // 32, 1 if little else 2, 1]) + bytes(9)
    head = ident + pack("HHI" + word * 3, kind, number, 1, base, header, sections_at)
    shown = (0xFFFF, 0, 0xFFFF) if escape else (count, len(rows), max(0, len(rows) - 1))
    head += pack("IHHHHHH", 0, header, segment, shown[0], section, shown[1], shown[2])
    return head + table + body
