"""Escape keys, in whatever pieces they are typed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from psync.client.escape import Escapes, Key, help_text, parse_escape, shown
from psync.errors import UsageError


def typed(*pieces: bytes, char: bytes | None = b"~", cooked: bool = True) -> list[bytes | Key]:
    """Return what is passed on, joined, and the keys between."""
    escapes = Escapes(char, cooked=cooked)
    found: list[bytes | Key] = []

    def add(data: bytes) -> None:
        if data and found and isinstance(found[-1], bytes):
            found[-1] += data
        elif data:
            found.append(data)

    for piece in pieces:
        for part in escapes.feed(piece):
            add(part.data)
            if part.key is not None:
                found.append(part.key)
    add(escapes.end())
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"~d", [Key.DETACH]),
        (b"abc\n~d\n", [b"abc\n", Key.DETACH]),
        (b"abc\r~.", [b"abc\r", Key.DISCONNECT]),
        (b"~?\nls\n", [Key.HELP, b"ls\n"]),
        (b"~?\n~d\n", [Key.HELP, Key.DETACH]),
        (b"~?~d", [Key.HELP, Key.DETACH]),
        (b"~~\n", [b"~\n"]),
        (b"~~d\n", [b"~d\n"]),
        (b"~~~d\n", [b"~~d\n"]),
        (b"~~\n~d\n", [b"~\n", Key.DETACH]),
        (b"a~d\n", [b"a~d\n"]),
        (b"~x\n", [b"~x\n"]),
        (b"~\n~d\n", [b"~\n", Key.DETACH]),
        (b"~/bin\n", [b"~/bin\n"]),
        (b"~", [b"~"]),
        (b"\n\n", [b"\n\n"]),
    ],
)
def test_what_is_a_key_and_what_is_not(text: bytes, found: list[bytes | Key]) -> None:
    assert typed(text) == found
    assert typed(*(bytes((byte,)) for byte in text)) == found


def test_in_a_raw_terminal_a_newline_after_a_key_is_the_programs() -> None:
    assert typed(b"~?\r", cooked=False) == [Key.HELP, b"\r"]


def test_another_character_and_none() -> None:
    assert typed(b"~d\n\x1dd\n", char=b"\x1d") == [b"~d\n", Key.DETACH]
    assert typed(b"~d\n~.\n", char=None) == [b"~d\n~.\n"]
    assert typed(b"ddd", char=b"d") == [b"dd"]  # twice is once, then inside of the line


def test_an_escape_character_that_is_a_key_too_is_no_key() -> None:
    assert typed(b"..\n", char=b".") == [b".\n"]


@given(st.lists(st.sampled_from([b"~", b"d", b".", b"?", b"\n", b"\r", b"x", b"\xff"])), st.data())
def test_pieces_do_not_matter(letters: list[bytes], data: st.DataObject) -> None:
    text = b"".join(letters)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert typed(*pieces) == typed(text)


@given(st.binary())
def test_without_the_character_every_byte_arrives(text: bytes) -> None:
    text = text.replace(b"~", b"")
    assert b"".join(part for part in typed(text) if isinstance(part, bytes)) == text


@given(st.binary(), st.lists(st.binary(min_size=1)))
def test_inside_of_a_line_every_byte_arrives(first: bytes, lines: list[bytes]) -> None:
    text = b"".join(b"x" + line.replace(b"\n", b"").replace(b"\r", b"") + b"\n" for line in lines)
    assert typed(text) == ([text] if text else [])


@given(st.binary())
def test_doubling_each_tilde_at_the_beginning_of_a_line_passes_anything(text: bytes) -> None:
    doubled = bytearray()
    start = True
    for byte in text:
        if start and byte == ord("~"):
            doubled.append(byte)
        doubled.append(byte)
        start = byte in b"\r\n"
    assert typed(bytes(doubled)) == ([text] if text else [])


@pytest.mark.parametrize(
    ("word", "char"),
    [("~", b"~"), ("none", None), ("^]", b"\x1d"), ("^?", b"\x7f"), ("^a", b"\x01"), ("^", b"^")],
)
def test_how_it_is_written(word: str, char: bytes | None) -> None:
    assert parse_escape(word) == char


@pytest.mark.parametrize("word", ["", "ab", "None", "ü", "\n", "^\x01", "^J", "^m"])
def test_what_is_no_character(word: str) -> None:
    with pytest.raises(UsageError, match="escape character"):
        parse_escape(word)


def test_it_is_shown_as_it_is_written() -> None:
    assert [shown(char) for char in (b"~", b"\x1d", b"\x7f", b"\xfc")] == ["~", "^]", "^?", "\\xfc"]
    assert help_text(b"\x1d").startswith("^]d detach")
    assert help_text(b"~").endswith("then Enter")  # a cooked terminal sends whole lines
