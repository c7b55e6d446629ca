"""What rsync prints while it works and when it is done. No I/O.

The format is that of ``--info=progress2,stats2,name1 --no-human-readable``: a progress line begins
with a carriage return, everything else ends with a line feed.
"""

from __future__ import annotations

import re

import msgspec

from psync.sync.blame import unescape, unescaped

_PROGRESS = re.compile(
    rb"\s*(?P<bytes>\d+)\s+(?P<percent>\d+)%\s+(?P<rate>[\d.]+)(?P<unit>[kMGTP]?)B/s\s+\S+"
    rb"(?:\s+\(xfr#(?P<files>\d+), (?:to|ir)-chk=(?P<left>\d+)/(?P<total>\d+)\))?\s*"
)
_STATISTIC = re.compile(rb"(Number of (?:regular )?files transferred|Total bytes sent): (\d+)")
_ITEM = re.compile(rb"[<>c][fLDS][^ ]{9} (.+)")
_DELETING = re.compile(rb"deleting (.+)")
_UNSAFE = re.compile(rb'ignoring unsafe symlink "?(.*?)"? -> "?(.*?)"?')
_SPECIAL = re.compile(rb'skipping non-regular file "(.*)"')
_UNIT = {b"": 1, b"k": 1 << 10, b"M": 1 << 20, b"G": 1 << 30, b"T": 1 << 40, b"P": 1 << 50}
_LONGEST_LINE = 65536


class Progress(msgspec.Struct, frozen=True):
    """How far a transfer is.

    Attributes:
        bytes: of the files' contents, done so far, skipped ones not counted.
        percent: of all bytes to be considered, 0 to 100.
        rate: bytes per second.
        files: files sent so far.
        checked: files and directories looked at so far, or 0 while that is not known.
        total: all files and directories, or 0 while that is not known.
    """

    bytes: int
    percent: int
    rate: float
    files: int = 0
    checked: int = 0
    total: int = 0


class OutputParser:
    """Reads rsync's stdout in pieces of any size.

    Attributes:
        progress: the latest, or None.
        files: regular files transferred; final when rsync has ended.
        bytes_sent: bytes that went to the other side, protocol included; likewise.
        sent: names of a dry run with ``--out-format="%i %n"``.
        removed: names of what was removed. Of use only where rsync was not asked to
            name what it sends: a name may look like that.
        warnings: what was left out and why; the caller may take them away.
    """

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.files = 0
        self.removed: list[bytes] = []
        self.sent: list[bytes] = []
        self.bytes_sent = 0
        self.warnings: list[str] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = self._rest[-_LONGEST_LINE:]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        if found := _PROGRESS.fullmatch(line):
            last = self.progress
            total = int(found["total"] or 0)
            self.progress = Progress(
                bytes=int(found["bytes"]),
                percent=min(100, int(found["percent"])),
                rate=float(found["rate"]) * _UNIT[found["unit"]],
                files=int(found["files"] or 0) or (last.files if last else 0),
                checked=total - int(found["left"]) if total else (last.checked if last else 0),
                total=total or (last.total if last else 0),
            )
        elif found := _STATISTIC.match(line):
            if found[1].startswith(b"Number"):
                self.files = int(found[2])
            else:
                self.bytes_sent = int(found[2])
        elif found := _DELETING.fullmatch(line):
            self.removed.append(unescaped(found[1]))
        elif found := _ITEM.fullmatch(line):
            self.sent.append(unescaped(found[1]))
        elif found := _UNSAFE.fullmatch(line):
            link = f"{unescape(found[1])} -> {unescape(found[2])}"
            self.warnings.append(f"not sent: the link {link} leaves the project")
        elif found := _SPECIAL.fullmatch(line):
            self.warnings.append(f"not sent: {unescape(found[1])} is not a regular file")
