"""On which line of a TOML file a key stands; tomllib does not tell.

A scanner of its own, for text that tomllib has accepted: it finds table headers and the keys of
``key = value``, and steps over values. Keys inside of inline tables are not looked at; who asks for
one gets the line of the key that holds the table.
"""

from __future__ import annotations

import tomllib

Key = tuple[str, ...]

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def line_of(text: str, key: Key) -> int:
    """Return the line, from 1, where ``key`` first stands, else that of the nearest key around it.

    Args:
        text: a TOML document that tomllib accepts.
        key: the names from the top of the document down.
    """
    lines = _Scanner(text).scan()
    while key and key not in lines:
        key = key[:-1]
    return lines.get(key, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Key, int] = {}

    def scan(self) -> dict[Key, int]:
        table: Key = ()
        while self.skip(" \t\r\n"):
            if self.text[self.at] == "#":
                self.skip_line()
            elif self.text[self.at] == "[":
                line = self.line()
                self.skip("[ \t")
                table = self.key(())
                self.record(table, (), line)
                self.skip_line()
            else:
                line = self.line()
                self.record(self.key(table), table, line)
                self.skip_value()
        return self.lines

    def record(self, key: Key, table: Key, line: int) -> None:
        for length in range(len(table) + 1, len(key) + 1):
            self.lines.setdefault(key[:length], line)

    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def skip(self, characters: str) -> bool:
        """Step over ``characters``; return whether anything is left."""
        while self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1
        return self.at < len(self.text)

    def skip_line(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def key(self, table: Key) -> Key:
        """Read a dotted key up to its ``=`` or ``]``."""
        while True:
            start = self.at
            if self.text[self.at] in "\"'":
                self.skip_string()
                quoted: str = tomllib.loads(f"k={self.text[start : self.at]}")["k"]
                table = (*table, quoted)
            else:
                while self.text[self.at] in _BARE:
                    self.at += 1
                table = (*table, self.text[start : self.at])
            self.skip(" \t")
            if self.text[self.at] != ".":
                return table
            self.skip(". \t")

    def skip_string(self) -> None:
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(fence)
        while not self.text.startswith(fence, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(fence)
        if len(fence) == 3:  # up to two quotes may stand right before the closing three
            self.skip(quote)

    def skip_value(self) -> None:
        """Step over a value to the end of its line, over many lines where brackets are open."""
        depth = 0
        while self.at < len(self.text):
            character = self.text[self.at]
            if character in "\"'":
                self.skip_string()
                continue
            if character == "#":
                self.skip_line()
                continue
            if character == "\n" and depth == 0:
                return
            depth += (character in "[{") - (character in "]}")
            self.at += 1
