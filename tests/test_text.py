import unicodedata

import pytest
from hypothesis import given, strategies as st

from psync.text import printable


def test_ordinary_text_stays() -> None:
    assert printable("Größe/λ 1.txt") == "Größe/λ 1.txt"
    assert printable("Größe".encode()) == "Größe"
    assert printable("日本 🎮") == "日本 🎮"


def test_control_sequences_and_undecodable_bytes_are_escaped() -> None:
    assert printable(b"a\x1b[31mb\nc\xff") == "a\\x1b[31mb\\nc\\xff"
    assert printable("\u202egnp.exe\u2028") == "\\u202egnp.exe\\u2028"


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_no_control_character_passes(code: int) -> None:
    assert printable(chr(code)).isascii()
    assert printable(chr(code)).startswith("\\")
    assert printable(bytes([code])).startswith("\\")


@pytest.mark.parametrize(
    "char", "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\U000e0041"
)
def test_nothing_that_is_invisible_or_reorders_text_passes(char: str) -> None:
    assert unicodedata.category(char)[0] in "CZ"
    assert printable(f"a{char}b").isascii()
    assert printable(f"a{char}b".encode()).isascii()


@pytest.mark.parametrize("hostile", [b"\x9b2J", b"\xc2\x9b2J", b"\xed\xb2\x9b", b"\xf0\x9f\x1b["])
def test_no_encoding_smuggles_a_control_character_through(hostile: bytes) -> None:
    shown = printable(hostile)
    assert shown.isascii()
    assert shown.isprintable()


@given(st.one_of(st.binary(), st.text(alphabet=st.characters())))
def test_the_result_is_always_printable_utf8(value: bytes | str) -> None:
    shown = printable(value)
    assert shown.isprintable()
    shown.encode("utf-8")
