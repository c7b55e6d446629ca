"""Tables for people: aligned with spaces, cut to the width of the terminal.

What stands in the cells may come from elsewhere; it is made harmless here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from psync.text import printable

GAP = "  "
ELLIPSIS = "…"


def terminal_width(environ: Mapping[str, str], fd: int = 1) -> int | None:
    """Return how many columns a terminal has; None where ``fd`` leads to something else.

    ``COLUMNS`` overrides what the terminal says.
    """
    if not os.isatty(fd):
        return None
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(fd).columns or 80
    except OSError:
        return 80


def table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int | None = None,
    right: Sequence[str] = (),
    least: Mapping[str, int] | None = None,
) -> str:
    """Return a table, its titles first, each line with its newline.

    Args:
        titles: of the columns.
        rows: a cell for each column.
        width: how many columns of a terminal there are, None for as many as it takes.
        right: titles of the columns that are aligned on their right.
        least: the columns that may be cut, by title, and the width that is left to them.
    """
    lines = [list(titles), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(columns, cells)) for cells in zip(*lines, strict=True)]
    if width is not None:
        _narrow(widths, titles, width, least or {})
    shown = []
    for cells in lines:
        parts = [
            _align(cut(cell, room), room, title in right)
            for cell, room, title in zip(cells, widths, titles, strict=True)
        ]
        line = GAP.join(parts).rstrip()
        shown.append(line if width is None else cut(line, width))
    return "".join(f"{line}\n" for line in shown)


def columns(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(char) in ("Mn", "Me", "Cf") else 2 if east_asian_width(char) in "WF" else 1
        for char in text
    )


def cut(text: str, room: int) -> str:
    """Return ``text``, shortened to ``room`` columns, with an ellipsis where something is gone."""
    if columns(text) <= room:
        return text
    kept = text[: max(room - 1, 0)]
    while kept and columns(kept) > room - 1:
        kept = kept[:-1]
    return kept + ELLIPSIS


def _align(text: str, room: int, right: bool) -> str:
    fill = " " * (room - columns(text))
    return fill + text if right else text + fill


def _narrow(widths: list[int], titles: Sequence[str], width: int, least: Mapping[str, int]) -> None:
    """Take from the widest columns that may be cut until the line fits, or nothing is left."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        spare = [
            (widths[i], i)
            for i, title in enumerate(titles)
            if least.get(title, 1 << 30) < widths[i]
        ]
        if not spare:
            return
        _, widest = max(spare)
        widths[widest] -= 1
        excess -= 1
