from hypothesis import given
from hypothesis import strategies as st

from psync.text import printable


def test_ordinary_text_stays() -> None:
    assert printable("Größe/λ 1.txt") == "Größe/λ 1.txt"
    assert printable("Größe".encode()) == "Größe"


def test_control_sequences_and_undecodable_bytes_are_escaped() -> None:
    assert printable(b"a\x1b[31mb\nc\xff") == "a\\x1b[31mb\\nc\\xff"
    assert printable("\u202egnp.exe\u2028") == "\\u202egnp.exe\\u2028"


@given(st.one_of(st.binary(), st.text(alphabet=st.characters())))
def test_the_result_is_always_printable_utf8(value: bytes | str) -> None:
    shown = printable(value)
    assert shown.isprintable()
    shown.encode("utf-8")
