"""On which line a key stands."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, strategies as st

from psync.config.lines import Key, line_of

DOCUMENT = '''\
# [not.a.table] = "comment"
top = 1 # [nor.this]

[plain]
a = "x # no comment"
"quoted.key" = 'single "quotes"'
b.c.d = [
  1, # ]
  "]", [2,
  3]]
e = """
[plain.inner]
f = 1 \\""" still the string"""""
g = {inline = 1, table = {h = 2}}

  [ spaced . "out" ]
  i = \'\'\'
j = 1\'\'\'
  k = 2
[plain.b.x]
[[list]]
l = 1
[[list]]
l = 2
m = 3'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("top",), 2),
        (("plain",), 4),
        (("plain", "a"), 5),
        (("plain", "quoted.key"), 6),
        (("plain", "b"), 7),
        (("plain", "b", "c"), 7),
        (("plain", "b", "c", "d"), 7),
        (("plain", "e"), 11),
        (("plain", "g"), 14),
        (("plain", "g", "table", "h"), 14),
        (("spaced", "out"), 16),
        (("spaced", "out", "i"), 17),
        (("spaced", "out", "k"), 19),
        (("plain", "b", "x"), 20),
        (("list",), 21),
        (("list", "l"), 22),
        (("list", "m"), 25),
        (("plain", "inner", "f"), 4),
        (("j",), 1),
        ((), 1),
    ],
)
def test_lines(key: Key, line: int) -> None:
    assert line_of(DOCUMENT, key) == line


def test_windows_line_ends() -> None:
    assert line_of("a = 1\r\n\r\nb = 2\r\n", ("b",)) == 3


def test_the_document_of_these_tests_is_toml() -> None:
    assert tomllib.loads(DOCUMENT)["plain"]["quoted.key"] == 'single "quotes"'


KEYS = st.text(min_size=1).filter(lambda k: k.isprintable())
VALUES = st.one_of(
    st.integers().map(str),
    st.text().map(lambda s: f'"{_escaped(s)}"'),
    st.text().map(lambda s: f'"""\n{_escaped(s)}\n"""'),
    st.sampled_from(["[\n1,\n2]", "{a = '}'}", "'''\n''' ", '"\\""', "[{x=[\n'#']}] # ]", "''"]),
)


def _escaped(text: str) -> str:
    return "".join(
        c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}"
        for c in text
        if not "\ud800" <= c <= "\udfff"
    )


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_every_key_is_found_where_it_was_put(entries: dict[str, str]) -> None:
    text, expected = "[table]\n", {}
    for key, value in entries.items():
        expected[key] = text.count("\n") + 1
        text += f'"{_escaped(key)}" = {value}\n'
    assert tomllib.loads(text)["table"].keys() == expected.keys()
    for key, line in expected.items():
        assert line_of(text, ("table", key)) == line
