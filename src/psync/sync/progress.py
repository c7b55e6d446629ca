"""What rsync prints while it works and when it is done. No I/O.

The format is that of ``--info=progress2,stats2,name1 --no-human-readable``: a progress line begins
with a carriage return, everything else begins where a line feed was. rsync escapes both in names,
so no name can be taken for progress.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from psync.sync.blame import unescape, unescaped

_PROGRESS = re.compile(
    rb"\s*(?P<bytes>\d+)\s+(?P<percent>\d+)%\s+(?P<rate>[\d.]+)(?P<unit>[kMGTP]?)B/s\s+\S+"
    rb"(?:\s+\(xfr#(?P<files>\d+), (?:to|ir)-chk=(?P<left>\d+)/(?P<total>\d+)\))?\s*"
)
_STATISTIC = re.compile(
    rb"(Number of (?:regular )?files transferred|Total bytes sent|Total transferred file size"
    rb"|Literal data): (\d+)"
)
_STATISTICS = {
    b"regular files transferred": "files",
    b"files transferred": "files",
    b"Total bytes sent": "bytes_sent",
    b"Total transferred file size": "content",
    b"Literal data": "literal",
}
_CREATED = re.compile(rb"Number of created files: \d+ \(reg: ")
_ITEM = re.compile(rb"[<>c][fLDS][^ ]{9} (.+)")
_DELETING = re.compile(rb"deleting (.+)")
_UNSAFE = re.compile(rb'ignoring unsafe symlink "?(.*?)"? -> "?(.*?)"?')
_SPECIAL = re.compile(rb'skipping non-regular file "(.*)"')
_UNIT = {b"": 1, b"k": 1 << 10, b"M": 1 << 20, b"G": 1 << 30, b"T": 1 << 40, b"P": 1 << 50}
_LONGEST_LINE = 65536

FileName = bytes


class Progress(msgspec.Struct, frozen=True):
    """How far a transfer is.

    Attributes:
        bytes: of the files' contents, done so far, skipped ones not counted.
        percent: of all bytes to be considered, 0 to 100.
        rate: bytes per second.
        files: files sent so far.
        checked: files and directories looked at so far, or 0 while that is not known.
        total: all files and directories, or 0 while that is not known.
        file: the file that is being sent, as rsync names it: relative to what is synced; empty
            where it is not known.
        expected: bytes of all files that will be sent, None while that is not known.
    """

    bytes: int
    percent: int
    rate: float
    files: int = 0
    checked: int = 0
    total: int = 0
    file: FileName = b""
    expected: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds until all is sent at this rate, None while that is not known."""
        if self.expected is None or self.rate <= 0:
            return None
        return max(0, self.expected - self.bytes) / self.rate


class Tally:
    """Adds up the progress of transfers that make up one sync, some of them at the same time.

    Args:
        tell: called with the progress of all of them.
        expected: bytes of all files that will be sent, None where that is not known.
    """

    def __init__(self, tell: Callable[[Progress], None], expected: int | None = None) -> None:
        self._tell = tell
        self._expected = expected
        self._latest: list[Progress] = []

    def transfer(self) -> Callable[[Progress], None]:
        """Return what the next transfer reports to."""
        number = len(self._latest)
        self._latest.append(Progress(0, 0, 0.0))

        def report(progress: Progress) -> None:
            self._latest[number] = progress
            self._tell(self._sum(progress))

        return report

    def _sum(self, last: Progress) -> Progress:
        every = self._latest
        done = sum(one.bytes for one in every)
        # What a file grew by since it was counted makes the count wrong.
        known = self._expected is not None and done <= self._expected
        # Those that have ended keep the rate that they had.
        going = [one.rate for one in every if one.percent < 100] or [last.rate]
        return Progress(
            bytes=done,
            percent=last.percent if len(every) == 1 else min(one.percent for one in every),
            rate=sum(going),
            files=sum(one.files for one in every),
            checked=sum(one.checked for one in every),
            total=sum(one.total for one in every),
            file=last.file,
            expected=self._expected if known else None,
        )


class OutputParser:
    """Reads rsync's stdout in pieces of any size.

    Attributes:
        progress: the latest, or None.
        files: regular files transferred; final when rsync has ended.
        bytes_sent: bytes that went to the other side, protocol included; likewise.
        content: bytes of the files that were transferred; likewise.
        literal: of these, what the other side did not have already; likewise.
        created: whether there were files among them that the other side did not have at all.
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
        self.content = 0
        self.literal = 0
        self.created = False
        self.warnings: list[str] = []
        self._rest = b""
        self._file = b""
        self._names = True

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        # Each piece but the first one begins with what ended the line before it.
        *lines, rest = re.split(rb"(?=[\r\n])", self._rest + data)
        self._rest = rest if len(rest) <= _LONGEST_LINE else rest[:1] + rest[1 - _LONGEST_LINE :]
        for line in lines:
            if line.startswith(b"\r"):
                self._progress(line[1:])
            elif line:  # before the first one there may be nothing at all
                self._line(line.removeprefix(b"\n"))

    def _progress(self, line: bytes) -> None:
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
                file=self._file,
            )

    def _line(self, line: bytes) -> None:
        if found := _STATISTIC.match(line):
            setattr(self, _STATISTICS[found[1].removeprefix(b"Number of ")], int(found[2]))
        elif _CREATED.match(line):
            self.created = True
        elif found := _DELETING.fullmatch(line):
            self.removed.append(unescaped(found[1]))
        elif found := _ITEM.fullmatch(line):
            self.sent.append(unescaped(found[1]))
        elif found := _UNSAFE.fullmatch(line):
            link = f"{unescape(found[1])} -> {unescape(found[2])}"
            self.warnings.append(f"not sent: the link {link} leaves the project")
        elif found := _SPECIAL.fullmatch(line):
            self.warnings.append(f"not sent: {unescape(found[1])} is not a regular file")
        elif line.startswith(b"Number of files: "):
            self._names = False  # that were all
        elif line and self._names and not line.endswith(b"/") and b" -> " not in line:
            self._file = unescaped(line)
