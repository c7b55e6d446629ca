"""Patterns in the syntax of ``.gitignore``: which of them decides about a path. No I/O.

Patterns come in sets, one per file (or list of the configuration), each for what lies below one
directory. Among the sets the one of the nearest directory decides, within a set the last pattern
that matches, as with git. Below a directory that is left out nothing is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_SLASH = "ps_d"
"""What pathspec calls the group of the slash after a directory."""


class Rule(msgspec.Struct, frozen=True):
    """A pattern that decided.

    Attributes:
        source: the file that it stands in, or the configuration's key; for people.
        line: its number there, from 1.
        pattern: as written.
        keep: it begins with ``!``, so what it matches is not left out.
    """

    source: bytes
    line: int
    pattern: bytes
    keep: bool


class RuleSet:
    """The patterns of one file.

    Args:
        lines: the patterns, as written.
        source: where they come from; for people.
        directory: the directory that they are about, absolute.
    """

    def __init__(self, lines: Sequence[bytes], *, source: bytes, directory: bytes) -> None:
        # Imported late: most syncs have no patterns, or leave them to git.
        from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

        self._prefix = directory.rstrip(b"/") + b"/"
        self._rules: list[tuple[re.Pattern[str], Rule]] = []
        for number, line in enumerate(lines, 1):
            try:
                pattern = GitIgnoreSpecPattern(_text(line))
            except ValueError:
                continue  # git, too, takes no notice of what is no pattern
            if pattern.regex is not None and pattern.include is not None:  # else a comment
                rule = Rule(source, number, line, not pattern.include)
                self._rules.append((pattern.regex, rule))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The patterns that can match something, in order."""
        return tuple(rule for _, rule in self._rules)

    def match(self, path: bytes, *, directory: bool) -> Rule | None:
        """Return the rule that decides about an absolute path, None where none matches.

        Args:
            path: what is asked about.
            directory: it is a directory.
        """
        if not self._rules or not path.startswith(self._prefix):
            return None
        name = _text(path[len(self._prefix) :]) + ("/" if directory else "")
        for regex, rule in reversed(self._rules):
            found = regex.match(name)
            # The expressions also match what lies below a directory that the pattern means; who
            # walks downwards has decided about that directory before.
            if found and (_below(found) in (-1, len(name) - 1)):
                return rule
        return None

    def may_keep(self, directory: bytes) -> bool:
        """Whether a pattern with ``!`` may be about something below ``directory``."""
        below = directory[len(self._prefix) :].split(b"/")
        for _, rule in self._rules:
            if not rule.keep:
                continue
            words = rule.pattern[1:].rstrip(b"/ ").split(b"/")
            if len(words) < 2:
                return True  # a bare name, which may be anywhere
            words = words[1:] if not words[0] else words
            if all(a == b or _wild(a) for a, b in zip(words, below, strict=False)) or any(
                word == b"**" for word in words
            ):
                return True
        return False


def parse_lines(text: bytes) -> list[bytes]:
    """Take a file of patterns apart, as git does: no byte order mark, and either line end."""
    return [line.removesuffix(b"\r") for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n")]


def _below(found: re.Match[str]) -> int:
    """Return where the slash of the directory is that a pattern matched, -1 where there is none."""
    return found.start(_SLASH) if _SLASH in found.re.groupindex else -1


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _wild(word: bytes) -> bool:
    return any(character in word for character in b"*?[\\")
