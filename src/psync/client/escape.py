"""Escape keys in what is typed, as in ssh: a tilde at the beginning of a line, and one key more.

    ~d   detach: leave the run going on        ~.   end the connection
    ~?   say which keys there are              ~~   one tilde

A state machine over bytes, whatever pieces they come in. No I/O.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from psync.errors import UsageError

DEFAULT_ESCAPE = b"~"

NEWLINES = b"\r\n"
"""What ends a line: Return is a newline in a cooked terminal and a carriage return in a raw one."""


class Key(Enum):
    """What somebody asked for."""

    DETACH = "d"
    DISCONNECT = "."
    HELP = "?"


class _State(Enum):
    LINE_START = "at the beginning of a line"
    INSIDE = "within a line"
    ESCAPE = "after an escape character"
    AFTER_KEY = "after a key: the newline that sent it is not the program's"


class Typed(msgspec.Struct, frozen=True):
    """What came of a piece of input: the bytes before a key, and the key, where there is one."""

    data: bytes
    key: Key | None = None


class Escapes:
    """Finds escape keys in what is typed.

    Args:
        char: the escape character, one byte; None finds nothing and passes everything on.
        cooked: the terminal sends whole lines. Then the newline behind a key was only typed to send
            the key, and goes nowhere.
    """

    def __init__(self, char: bytes | None = DEFAULT_ESCAPE, *, cooked: bool = True) -> None:
        self._char = char
        self._cooked = cooked
        self._state = _State.LINE_START

    @property
    def held_back(self) -> bytes:
        """The escape character that was typed last, while it is not known what it begins."""
        return self._char if self._state is _State.ESCAPE and self._char is not None else b""

    def feed(self, data: bytes) -> list[Typed]:
        """Take what was typed; return what is to be done about it, in order."""
        if self._char is None:
            return [Typed(data)] if data else []
        found: list[Typed] = []
        out = bytearray()
        escape = self._char[0]
        for byte in data:
            state = self._state
            newline = byte in NEWLINES
            if state is _State.AFTER_KEY and newline:
                self._state = _State.LINE_START
                continue
            if state is _State.ESCAPE:
                key = _KEYS.get(byte) if byte != escape else None
                if key is not None:
                    found.append(Typed(bytes(out), key))
                    out.clear()
                    self._state = _State.AFTER_KEY if self._cooked else _State.LINE_START
                    continue
                out.append(escape)
                if byte == escape:  # typed twice: one of them is the program's
                    self._state = _State.INSIDE
                    continue
            elif byte == escape and state in (_State.LINE_START, _State.AFTER_KEY):
                self._state = _State.ESCAPE
                continue
            out.append(byte)
            self._state = _State.LINE_START if newline else _State.INSIDE
        if out:
            found.append(Typed(bytes(out)))
        return found

    def end(self) -> bytes:
        """Nothing more is typed: return what was held back."""
        rest, self._state = self.held_back, _State.INSIDE
        return rest


_KEYS = {ord(key.value): key for key in Key}


def parse_escape(word: str) -> bytes | None:
    """Return the byte that ``--escape`` names: a character, ``^X``, or ``none``.

    Raises:
        UsageError: it is none of these.
    """
    if word == "none":
        return None
    data = word.encode("utf-8", "surrogateescape")
    if len(data) == 2 and data[:1] == b"^" and 0x3F <= data[1] <= 0x7F:
        data = bytes((data[1] ^ 0x40 if data[1] == 0x3F else data[1] & 0x1F,))
    if len(data) != 1 or data in (b"\r", b"\n"):
        raise UsageError(
            f"the escape character {word!r} is not one character",
            hint="write -E CHAR, -E ^X or -E none",
        )
    return data


def shown(char: bytes) -> str:
    """Return how an escape character is written: ``~``, ``^]``."""
    code = char[0]
    if code < 0x20 or code == 0x7F:
        return f"^{chr(code ^ 0x40)}"
    return char.decode("latin-1") if code < 0x80 else f"\\x{code:02x}"


def help_text(char: bytes) -> str:
    """Return which keys there are, in one line."""
    key = shown(char)
    return (
        f"{key}d detach, the run goes on; {key}. end the connection; {key}? this help; "
        f"{key}{key} one {key}; all of them at the beginning of a line, then Enter"
    )
