"""Patterns in the syntax of .gitignore."""

import pytest

from psync.sync.ignore import RuleSet, parse_lines


def rules(*lines: bytes, directory: bytes = b"/p") -> RuleSet:
    return RuleSet(lines, source=b"/p/.psyncignore", directory=directory)


@pytest.mark.parametrize(
    ("pattern", "path", "directory", "matches"),
    [
        (b"*.o", b"/p/a/b.o", False, True),
        (b"*.o", b"/p/a/b.c", False, False),
        (b"/x", b"/p/x", False, True),
        (b"/x", b"/p/a/x", False, False),
        (b"build/", b"/p/build", True, True),
        (b"build/", b"/p/build", False, False),
        (b"a/**/z", b"/p/a/b/c/z", False, True),
        (b"x", b"/elsewhere/x", False, False),
        (b"x", b"/px", False, False),
        (b"\xff*", b"/p/\xff\xfe", False, True),
        (b"\\#x", b"/p/#x", False, True),
        (b"new\\\nline", b"/p/other", False, False),
    ],
)
def test_a_pattern_matches_as_with_git(
    pattern: bytes, path: bytes, directory: bool, matches: bool
) -> None:
    assert (rules(pattern).match(path, directory=directory) is not None) == matches


def test_the_last_pattern_decides_and_is_named() -> None:
    some = rules(b"# comment", b"", b"*.log", b"!keep.log")
    left = some.match(b"/p/x.log", directory=False)
    kept = some.match(b"/p/a/keep.log", directory=False)
    assert left is not None and kept is not None
    assert (left.source, left.line, left.pattern, left.keep) == (
        b"/p/.psyncignore",
        3,
        b"*.log",
        False,
    )
    assert (kept.line, kept.keep) == (4, True)


def test_what_is_no_pattern_is_passed_over() -> None:
    assert len(rules(b"!", b"x").rules) == 1


def test_lines_end_as_on_either_system() -> None:
    assert parse_lines(b"\xef\xbb\xbfa\r\nb\nc") == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    ("pattern", "directory", "may"),
    [
        (b"build", b"/p/build", False),  # leaves out, brings nothing back
        (b"!game.dat", b"/p/node_modules", True),
        (b"!/build/game.dat", b"/p/build", True),
        (b"!/build/game.dat", b"/p/node_modules", False),
        (b"!build/*/x", b"/p/build/y", True),
        (b"!build/a/x", b"/p/build/b", False),
        (b"!**/x", b"/p/y/z", True),
    ],
)
def test_what_may_be_brought_back_is_looked_for(
    pattern: bytes, directory: bytes, may: bool
) -> None:
    assert rules(pattern).may_keep(directory) == may
