"""The command line of ``psync attach``."""

from __future__ import annotations

import re

import pytest

from psync.cli.attach import TAIL, _parse
from psync.errors import UsageError


def test_what_is_typed_and_what_is_not() -> None:
    options = _parse([])
    assert (options.run, options.lines, options.all, options.read_only) == (
        None,
        TAIL,
        False,
        False,
    )
    assert options.escape == b"~"
    options = _parse(["--read-only", "-n", "0", "-E", "^]", "-1"])
    assert (options.run, options.lines, options.read_only) == ("-1", 0, True)
    assert options.escape == b"\x1d"
    assert _parse(["--all", "abc"]).all
    assert _parse(["-E", "none"]).escape is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "x"], "not a number of lines"),
        (["-n", "-5"], "not a number of lines|expected one argument"),
        (["--all", "-n", "3"], "not allowed with"),
        (["one", "two"], "unrecognized arguments"),
        (["-E", "ab"], "write -E CHAR"),
        ([""], "must not be empty"),
    ],
)
def test_what_cannot_be(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        _parse(words)
    assert re.search(said, str(raised.value))
