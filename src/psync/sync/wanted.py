"""Names in a mirror that somebody asks for, as rsync's filter rules and as a test of names. No I/O.

A name stands for a file, a link, or a directory with all it holds. In each of its components ``*``,
``?`` and ``[…]`` are wildcards, as in a shell, but for a name that begins with a dot, which they
match as well; a backslash before one takes its meaning away. rsync finds what matches, on the
daemon host: the sender keeps to the rules and goes through no link. What comes is then compared
with what was asked for, whoever sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from psync.sync.listing import RESERVED

INSIDE, ABOVE, STRANGE = "inside", "above", "strange"
"""What a name in the mirror is: asked for, a directory on the way to such a name, or neither."""

_WILD = re.compile(rb"[*?\[]")
_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"!-~",
    b"lower": rb"a-z",
    b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb" \t-\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


class Wanted:
    """A set of names, relative to one directory.

    Args:
        names: normal relative paths; ``b"."`` is all there is.
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.everything = b"." in self.names
        self._plain: set[bytes] = set()
        self._above: set[bytes] = set()
        self._wild: list[tuple[bytes, tuple[re.Pattern[bytes], ...]]] = []
        for name in self.names:
            if is_wild(name):
                self._wild.append((name, tuple(map(_component, name.split(b"/")))))
            self._plain.add(name)
            self._above.update(_above(name))

    def rules(self) -> list[bytes]:
        """Return patterns for rsync's ``--include``; everything else is to be excluded."""
        found: dict[bytes, None] = {}
        for name in self.names:
            for parts in _readings(name):
                for depth in range(1, len(parts)):
                    found[_rule(parts[:depth], b"/")] = None
                found[_rule(parts, b"")] = None
                found[_rule(parts, b"/***")] = None
        return list(found)

    def relation(self, name: bytes) -> str:
        """Return what a path relative to the directory is: one of the three words above."""
        parts = name.split(b"/")
        if any(part.lower() in RESERVED or part in (b"", b".", b"..") for part in parts):
            return STRANGE
        if self.everything or any(True for _ in self.reached(name)):
            return INSIDE
        if name in self._above or any(
            len(parts) < len(patterns) and all(map(_matches, patterns, parts))
            for _, patterns in self._wild
        ):
            return ABOVE
        return STRANGE

    def reached(self, name: bytes) -> Iterator[bytes]:
        """Yield those of the names that a path, which lies inside some of them, belongs to."""
        if self.everything:
            yield b"."
        for one in (*_above(name), name):
            if one in self._plain:
                yield one
        parts = name.split(b"/")
        for word, patterns in self._wild:
            if len(parts) >= len(patterns) and all(map(_matches, patterns, parts)):
                yield word


def is_wild(name: bytes) -> bool:
    """Whether there is a wildcard in a name."""
    return _WILD.search(name) is not None


def fixed_part(name: bytes) -> bytes:
    """Return the directories of a name before its first wildcard; all of one without."""
    parts = name.split(b"/")
    for index, part in enumerate(parts):
        if is_wild(part):
            return b"/".join(parts[:index])
    return name


def _above(name: bytes) -> list[bytes]:
    parts = name.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(1, len(parts))]


def _readings(name: bytes) -> list[tuple[bytes, ...]]:
    """A name as patterns: what its wildcards stand for, and the file that is called just so."""
    if name == b".":
        return []
    parts = name.split(b"/")
    literal = tuple(re.sub(rb"([*?\[\\])", rb"\\\1", part) for part in parts)
    if not is_wild(name):
        return [literal]
    wild = (_one_level(part) if is_wild(part) else part.replace(b"\\", b"\\\\") for part in parts)
    return [tuple(wild), literal]


def _one_level(part: bytes) -> bytes:
    """Write ``**``, which would go through directories, as ``*``."""
    return re.sub(rb"(\\.)|\*+", lambda found: found[1] or b"*", part, flags=re.DOTALL)


def _rule(parts: tuple[bytes, ...], end: bytes) -> bytes:
    rule = b"/" + b"/".join(parts) + end
    if not is_wild(rule):  # then rsync takes backslashes for themselves
        rule = rule.replace(b"\\\\", b"\\")
    return rule


def _matches(pattern: re.Pattern[bytes], part: bytes) -> bool:
    return pattern.fullmatch(part) is not None


def _component(part: bytes) -> re.Pattern[bytes]:
    """Translate one component as rsync's wildmatch() understands it."""
    if not is_wild(part):
        return re.compile(re.escape(part), re.DOTALL)
    found = b""
    at = 0
    while at < len(part):
        char = part[at : at + 1]
        at += 1
        if char == b"*":
            found += b".*"
        elif char == b"?":
            found += b"."
        elif char == b"\\" and at < len(part):
            found += re.escape(part[at : at + 1])
            at += 1
        elif char == b"[" and (end := _end_of_set(part, at)):
            found += _set(part[at : end - 1])
            at = end
        else:
            found += re.escape(char)
    return re.compile(re.sub(rb"(?:\.\*)+", b".*", found), re.DOTALL)


def _end_of_set(part: bytes, at: int) -> int:
    """Return the position after the bracket that ends a set, 0 where none does."""
    start = at + (part[at : at + 1] in (b"!", b"^"))
    at = start
    while at < len(part):
        char = part[at : at + 1]
        if char == b"]" and at > start:
            return at + 1
        if char == b"[" and part[at + 1 : at + 2] == b":" and (end := part.find(b":]", at + 2)) > 0:
            at = end + 2
        else:
            at += 2 if char == b"\\" else 1
    return 0


def _set(inner: bytes) -> bytes:
    negated = inner[:1] in (b"!", b"^")
    inner = inner[1:] if negated else inner
    found = b""
    for item in re.finditer(rb"\[:(\w+):\]|\\(.)|(-)|(.)", inner, re.DOTALL):
        if item[1]:
            found += _CLASSES.get(item[1], b"")
        elif item[3] and 0 < item.start() < len(inner) - 1:
            found += b"-"
        else:
            found += re.escape(item[2] or item[3] or item[4])
    try:
        re.compile(b"[" + found + b"]")
    except re.error:  # nothing, or a range that runs backwards: it matches nothing
        return b"." if negated else b"(?!)"
    return b"[" + (b"^" if negated else b"") + found + b"]"
