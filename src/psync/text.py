"""Bytes and foreign text made harmless for messages.

File names, ssh's and rsync's words and everything a peer says may hold control sequences, newlines
and bytes that are no UTF-8. A program's own output never passes through here.
"""

from __future__ import annotations


def printable(text: bytes | str) -> str:
    """Return ``text`` on one line, with nothing in it that a terminal would act on.

    Control and format characters (also the bidirectional ones), line separators and unassigned
    code points become ``\\n``, ``\\x1b``, ``\\u202e`` and the like, undecodable bytes ``\\xff``;
    everything else stays as it is.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape made of a byte
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
