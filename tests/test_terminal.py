"""Whatever a program writes, a terminal gets text and colours."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, strategies as st

from psync.terminal import TerminalFilter

COLOUR = re.compile(rb"\x1b\[[0-9;:]*m")
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

# What hostile output is made of, whole and in halves.
PARTS = [
    *(b"\x1b", b"[", b"\x1b[", b"31", b";", b":", b"m", b"\x1b[1;38:5:9m", b"\x1b[m", b"\x1b[2J"),
    *(
        b"\x1b]0;title\x07",
        b"\x1b]52;c;cm0=\x1b\\",
        b"\x1bP",
        b"\x1b_",
        b"\x1b^",
        b"\x1bX",
        b"\x1bc",
    ),
    *(b"\x9b", b"\x9d", b"\x90", b"\xc2\x9b", b"\xc2", b"\x9c", b"\x07", b"\x08", b"\x7f", b"\0"),
    *(b"\r", b"\n", b"\r\n", b"\t", b" ", b"word", b"\xff", b"\xc0\x9b", b"\xed\xa0\x80"),
    *("ü".encode(), "日本".encode(), "🎮".encode(), b"\xf0\x9f", b"\xe2\x80", b"\xae"),
    *(char.encode() for char in BIDI),
    b"\x1b[" + b"1;" * 40 + b"m",
]
hostile = st.one_of(st.binary(), st.lists(st.sampled_from(PARTS)).map(b"".join))


def show(*pieces: bytes) -> bytes:
    """Return what a terminal would get."""
    terminal = TerminalFilter()
    return b"".join([*map(terminal.feed, pieces), terminal.finish()])


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (b"a\tb\n", b"a\tb\n"),
        (b"one\r\ntwo\r\r\n", b"one\r\ntwo\r\r\n"),
        ("Größe λ 日本 🎮 👩\u200d🚀\n".encode(), "Größe λ 日本 🎮 👩\u200d🚀\n".encode()),
        (
            b"\x1b[1;31mred\x1b[0m\x1b[38:2::1:2:3m\x1b[m",
            b"\x1b[1;31mred\x1b[0m\x1b[38:2::1:2:3m\x1b[m",
        ),
        (b"100 %\rdone\n", b"100 %^Mdone\n"),
        (b"\x1b[2J\x1b[H\x1b[?1049h\x1b[6n", b"^[[2J^[[H^[[?1049h^[[6n"),
        (b"\x1b[>4;1m\x1b[?1m\x1b[1 m\x1b[1$m", b"^[[>4;1m^[[?1m^[[1 m^[[1$m"),
        (b"\x1b]0;title\x07", b"^[]0;title^G"),
        (b"\x1b]52;c;cm0gLXJm\x1b\\", b"^[]52;c;cm0gLXJm^[\\"),
        (b"\x1b]8;;http://x/\x1b\\link\x1b]8;;\x1b\\", b"^[]8;;http://x/^[\\link^[]8;;^[\\"),
        (b"\x1bPq\x1b_a\x1b^p\x1bXs\x1bc\x1b", b"^[Pq^[_a^[^p^[Xs^[c^["),
        (b"\x9b2J\x9d0;t\x9c", b"\\x9b2J\\x9d0;t\\x9c"),
        ("\x9b2J\x85".encode(), b"\\x9b2J\\x85"),
        (b"\0\x07\x08\x0b\x0c\x0e\x0f\x7f", b"^@^G^H^K^L^N^O^?"),
        (b"\xff\xc0\x80\xed\xa0\x80\xf5", b"\\xff\\xc0\\x80\\xed\\xa0\\x80\\xf5"),
        ("a\u202ecod.exe\u2066".encode(), b"a\\u202ecod.exe\\u2066"),
        (b"\xf0\x9f\x8e", b"\\xf0\\x9f\\x8e"),
    ],
)
def test_what_passes_and_what_is_made_visible(output: bytes, shown: bytes) -> None:
    assert show(output) == shown


@pytest.mark.parametrize(
    ("output", "ending"),
    [
        (b"\x1b[31mred", b"\x1b[0m"),
        (b"\x1b[38;5;0m", b"\x1b[0m"),
        (b"\x1b[0;1m", b"\x1b[0m"),
        (b"\x1b[31mred\x1b[0m", b""),
        (b"\x1b[31mred\x1b[m", b""),
        (b"\x1b[31mred\x1b[00;0m plain\n", b""),
        (b"\x1b[2J", b""),
        (b"plain", b""),
    ],
)
def test_colours_do_not_outlast_the_output(output: bytes, ending: bytes) -> None:
    terminal = TerminalFilter()
    terminal.feed(output)
    assert terminal.finish() == ending
    assert terminal.finish() == b""


def test_what_is_whole_is_shown_at_once() -> None:
    terminal = TerminalFilter()
    assert terminal.feed(b"prompt> ") == b"prompt> "
    assert terminal.feed(b"\x1b[3") == b""
    assert terminal.feed(b"1mred") == b"\x1b[31mred"
    assert terminal.feed("ü".encode()[:1]) == b""
    assert terminal.feed("ü".encode()[1:]) == "ü".encode()


@given(hostile)
@example(b"".join(PARTS))
def test_nothing_reaches_the_terminal_but_text_and_colours(output: bytes) -> None:
    shown = show(output)
    rest = COLOUR.sub(b"", shown).replace(b"\r\n", b"\n").replace(b"\r\n", b"\n")
    text = rest.decode("utf-8")  # and is valid, with no colour hiding in a character
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert not set(text) & set(BIDI)


@given(hostile, st.lists(st.integers(0, 200)))
@example(b"".join(PARTS), list(range(400)))
@example(b"\r\r\r\n" * 3, [1, 2, 3, 4, 5])
def test_cutting_changes_nothing(output: bytes, cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(output)})
    pieces = [output[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]
    assert show(*pieces) == show(output)


@given(hostile)
def test_little_is_held_back(output: bytes) -> None:
    terminal = TerminalFilter()
    for index in range(len(output)):
        terminal.feed(output[index : index + 1])
        assert len(terminal._held) <= 63


@given(
    st.text(
        alphabet=st.characters(
            exclude_categories=["Cc", "Cs"], exclude_characters=BIDI, include_characters="\t\n"
        )
    )
)
def test_clean_text_stays_as_it_is(text: str) -> None:
    assert show(text.encode()) == text.encode()


@given(hostile)
def test_what_was_made_harmless_stays_as_it_is(output: bytes) -> None:
    assert show(show(output)) == show(output)
