"""Other programs' output made harmless for a terminal, as a stream.

What a program wrote may move the cursor, change the window's title, fill the clipboard or make the
terminal answer as if somebody had typed. What passes here is text, and its colours:

    passes    printable ASCII, tab, newline, CR before a newline, valid UTF-8, SGR (``ESC [ … m``)
    visible   C0 controls and DEL as ``^[``, ``^G``, ``^?``; C1 controls and bytes that are no UTF-8
              as ``\\x9b``; characters that reorder text (bidirectional overrides) as ``\\u202e``

No other sequence needs to be understood: without the ESC that begins it, it is text.
"""

from __future__ import annotations

import re

_LONGEST = 60
"""Bytes of parameters an SGR sequence may have: some fifteen attributes. A terminal takes few."""

_SGR = rb"\x1b\[[0-9;:]{0,%d}m" % _LONGEST

# What is well-formed UTF-8 (Unicode 15, table 3-7) without U+0080-9F, U+202A-202E, U+2066-2069.
_TEXT = (
    rb"[\t\n -~]+"
    rb"|[\xc3-\xdf][\x80-\xbf]|\xc2[\xa0-\xbf]"
    rb"|[\xe1\xe3-\xec\xee\xef][\x80-\xbf]{2}|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xe2(?:\x80[\x80-\xa9\xaf-\xbf]|\x81[\x80-\xa5\xaa-\xbf]|[\x82-\xbf][\x80-\xbf])"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}|\xf0[\x90-\xbf][\x80-\xbf]{2}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)

# A program that ends its lines with CR LF gets another CR from its terminal.
_GOOD = rb"(?:" + _TEXT + rb"|\r{1,2}\n|" + _SGR + rb")+"

# Bytes that begin nothing good come in one piece: files of another kind consist of them.
_PIECES = re.compile(
    rb"(" + _GOOD + rb")"
    rb"|(\xc2[\x80-\x9f])|(\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9])"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\xc1\xf5-\xff]+|[\x00-\xff]"
)

# The beginning of a piece that the next bytes may complete; every one begins where a piece does.
_CUT = re.compile(
    rb"(?:\r{1,2}|\x1b(?:\[[0-9;:]{0,%d})?" % _LONGEST
    + rb"|[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z"
)

_CLEAN = bytes([*b"\t\n", *range(0x20, 0x7F)])

_NOTATION = [
    b"^%c" % (byte ^ 0x40) if byte < 0x20 or byte == 0x7F else b"\\x%02x" % byte
    for byte in range(256)
]

_RESET = b"\x1b[0m"


class TerminalFilter:
    """Makes one stream harmless. However it is cut into pieces, the result is the same.

    Keeps at most the beginning of one sequence or character, some sixty bytes.
    """

    def __init__(self) -> None:
        self._held = b""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """Return what may be shown of ``data``, and of what was held back before."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.translate(None, _CLEAN):  # a gigabyte a second
            return data
        cut = _CUT.search(data, max(0, len(data) - _LONGEST - 4))
        if cut is not None:
            self._held = cut.group()
            data = data[: cut.start()]
        return self._show(data)

    def finish(self) -> bytes:
        """Return what is still to be shown at the end: what was held back, and a reset.

        The reset is there only where colours were left on. The filter is as new then.
        """
        rest = self._show(self._held)
        if self._coloured:
            rest += _RESET
        self._held = b""
        self._coloured = False
        return rest

    def _show(self, data: bytes) -> bytes:
        shown = _PIECES.sub(_visible, data)
        last = shown.rfind(b"\x1b[")  # nothing else in there begins with ESC
        if last >= 0:
            parameters = shown[last + 2 : shown.index(b"m", last)]
            self._coloured = bool(parameters.strip(b"0;"))
        return shown


def _visible(piece: re.Match[bytes]) -> bytes:
    which = piece.lastindex
    found = piece.group()
    if which == 1:
        return found
    if which == 2:
        return b"\\x%02x" % found[1]
    if which == 3:
        return b"\\u%04x" % ord(found.decode())
    return b"".join([_NOTATION[byte] for byte in found])
