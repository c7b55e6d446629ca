"""Tables: aligned, cut, harmless."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from psync.cli.table import columns, cut, table, terminal_width

TITLES = ("ID", "COMMAND", "SIZE")
ROWS = [("a1", "sleep 100", "1.0 kB"), ("b22", "./game --level 3 --fullscreen", "17 bytes")]


def test_as_wide_as_it_takes() -> None:
    assert table(TITLES, ROWS, right=("SIZE",)).splitlines() == [
        "ID   COMMAND                            SIZE",
        "a1   sleep 100                        1.0 kB",
        "b22  ./game --level 3 --fullscreen  17 bytes",
    ]


def test_what_may_be_cut_is_cut_to_the_terminal() -> None:
    shown = table(TITLES, ROWS, width=32, right=("SIZE",), least={"COMMAND": 5})
    assert shown.splitlines() == [
        "ID   COMMAND                SIZE",
        "a1   sleep 100            1.0 kB",
        "b22  ./game --level 3…  17 bytes",
    ]


def test_a_terminal_that_is_far_too_narrow() -> None:
    shown = table(TITLES, ROWS, width=12, least={"COMMAND": 5})
    assert shown.splitlines() == ["ID   COMM… …", "a1   slee… …", "b22  ./ga… …"]


def test_wide_characters_count_twice_and_marks_nothing() -> None:
    shown = table(("NAME", "X"), [("日本", "1"), ("e\u0301", "2"), ("abcd", "3")]).splitlines()
    assert shown == ["NAME  X", "日本  1", "e\u0301     2", "abcd  3"]


def test_cells_are_made_harmless() -> None:
    shown = table(("NAME",), [("a\x1b[2J\n\u202eb",)])
    assert shown == "NAME\na\\x1b[2J\\n\\u202eb\n"


def test_no_rows() -> None:
    assert table(TITLES, []) == "ID  COMMAND  SIZE\n"


@pytest.mark.parametrize(
    ("text", "room", "kept"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("ab", 1, "…"),
    ],
)
def test_cutting(text: str, room: int, kept: str) -> None:
    assert cut(text, room) == kept


@given(st.text(), st.integers(1, 30))
def test_what_is_cut_always_fits(text: str, room: int) -> None:
    assert columns(cut(text, room)) <= room


def test_no_terminal_has_no_width(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        assert terminal_width({"COLUMNS": "50"}, file.fileno()) is None


def test_columns_overrides_the_terminal() -> None:
    code = (
        "import os; from psync.cli.table import terminal_width; print(terminal_width(os.environ))"
    )
    sources = str(Path(__file__).parents[2] / "src")
    for environ, width in (({"COLUMNS": "37"}, "37"), ({"COLUMNS": "wide"}, "80"), ({}, "80")):
        ours, theirs = os.openpty()
        try:
            subprocess.run(
                [sys.executable, "-c", code],
                stdout=theirs,
                env={"PYTHONPATH": sources, **environ},
                check=True,
                timeout=50,
            )
            assert os.read(ours, 100).decode().strip() == width
        finally:
            os.close(ours)
            os.close(theirs)
