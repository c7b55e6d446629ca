"""How a sync goes, for people or as events.

On a terminal one line that is drawn again while data flows, elsewhere a line now and then; nothing
where it is over soon. There are no colours, and a terminal that cannot erase a line gets lines.
"""

from __future__ import annotations

import os
import time

from psync.cli import events
from psync.cli.output import drawn, say, size, span
from psync.errors import PsyncError
from psync.sync.lock import Holder
from psync.sync.rsync import Progress, Summary
from psync.text import printable

LINE_AFTER = 1.0
"""Seconds that files may flow before there is a line on a terminal: what is over sooner needs
none."""

REDRAWN_EVERY = 0.1
"""Seconds between two looks of that line at the least; small files would change it more often."""

LOGGED_EVERY = 10.0
"""Seconds before a line, and between two, where stderr is no terminal."""

EVENT_EVERY = 1.0
"""Seconds between two events of the name ``progress``, at the least."""

DEFAULT_WIDTH = 80
"""Columns of a terminal that does not tell."""

LEAST_NAME = 8
"""Characters of a name that tell something."""

_MORE = "…"


class SyncReport:
    """Shows a sync on stderr, or as events.

    Args:
        verbose: say afterwards what was done also where stderr is no terminal.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._terminal = os.isatty(2)
        # TERM is empty or "dumb" where a line cannot be erased, as in the shell of an editor
        self._redraws = self._terminal and os.environ.get("TERM", "") not in ("", "dumb")
        self._verbose = verbose
        self._began: float | None = None
        self._shown = 0.0

    def begin(self, target: str, project: str) -> None:
        """Say, as an event only, what is synced.

        Args:
            target: its name.
            project: its name.
        """
        events.emit("sync-started", target=printable(target), project=printable(project))

    def share_terminal(self) -> None:
        """From now on a program writes to the terminal as well: draw no line on it."""
        self._redraws = False

    def progress(self, progress: Progress) -> None:
        """Show how far the files are; called as often as something is known."""
        now = time.monotonic()
        first = self._began is None
        if self._began is None:
            self._began = now  # what came before was not the transfer's time
            self._shown = now - (LOGGED_EVERY if events.is_json() else 0.0)
        if events.is_json():
            if now - self._shown >= EVENT_EVERY:
                self._shown = now
                _emit(progress)
        elif self._redraws:
            if not first and now - self._began >= LINE_AFTER and now - self._shown >= REDRAWN_EVERY:
                self._shown = now
                drawn().draw(progress_line(progress, _width()))
        elif now - self._shown >= LOGGED_EVERY:
            self._shown = now
            name = [printable(progress.file)] if progress.file else []
            say(f"syncing: {', '.join((*_parts(progress), *name))}")

    def warning(self, text: str) -> None:
        """Pass on what was left out."""
        say(text if events.is_json() else f"warning: {text}", event="warning")

    def waiting(self, holder: Holder | None) -> None:
        """Say who is syncing the same project."""
        say(
            f"waiting for another sync of this project: {holder or 'unknown process'}",
            event="waiting",
            pid=None if holder is None else holder.pid,
            command=None if holder is None else printable(holder.command),
        )

    def end(self, summary: Summary | None = None) -> None:
        """Take the line away; with a summary, say what was done.

        Raises:
            PsyncError: with a summary, if events could not be written.
        """
        drawn().erase()
        self._began = None
        if summary is None:
            return
        if events.is_json():
            _emit_end(summary)
        elif self._terminal or self._verbose:
            say(_told(summary))


def progress_line(progress: Progress, width: int) -> str:
    """Return what fits on one line: the more there is room for, the more is told.

    Args:
        progress: how far it is.
        width: columns; the last one stays free, since some terminals would begin another line.
    """
    line, separator = "psync: ", ""
    for part in _parts(progress):
        if len(line) + len(separator) + len(part) >= width:
            return line[: max(0, width - 1)]
        line, separator = f"{line}{separator}{part}", ", "
    name = ""
    if progress.file:
        name = _ending(printable(progress.file), width - 1 - len(line) - len(separator))
    return f"{line}{separator}{name}" if name else line


def _parts(progress: Progress) -> list[str]:
    """Return what there is to say, the most important first."""
    parts = [size(progress.bytes)]
    if progress.expected:
        share = min(99, progress.bytes * 100 // progress.expected)
        parts = [f"{share}%", f"{parts[0]} of {size(progress.expected)}"]
    if progress.rate:
        parts.append(f"{size(progress.rate)}/s")
    if progress.left is not None:
        parts.append(f"{span(progress.left)} left")
    return parts


def _ending(text: str, room: int) -> str:
    """Return the last part of a name, with a mark that there is more; nothing where that tells
    nothing."""
    if _columns(text) <= room:
        return text
    kept: list[str] = []
    left = room - _columns(_MORE)
    for char in reversed(text):
        left -= _columns(char)
        if left < 0:
            break
        kept.append(char)
    return _MORE + "".join(reversed(kept)) if len(kept) >= LEAST_NAME else ""


def _columns(text: str) -> int:
    """Return how wide a text is on a terminal, or a little more."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(char) in "WFA" else 1 for char in text)


def _width() -> int:
    try:
        return os.get_terminal_size(2).columns or DEFAULT_WIDTH
    except OSError:
        return DEFAULT_WIDTH


def _emit(progress: Progress) -> None:
    events.emit(
        "progress",
        bytes=progress.bytes,
        total=progress.expected,
        rate=round(progress.rate),
        left=progress.left,
        files=progress.files,
        file=progress.file,
    )


def _emit_end(summary: Summary) -> None:
    events.emit(
        "sync-ended",
        files=summary.files,
        bytes=summary.bytes_sent,
        removed=summary.removed,
        seconds=float(summary.seconds),
        skipped=summary.skipped,
    )
    failure = events.failure()
    if failure is not None:
        raise PsyncError(f"events could not be written: {failure.strerror}")


def _told(summary: Summary) -> str:
    if summary.files:
        what = f"sent {summary.files} file{'' if summary.files == 1 else 's'}"
    elif not summary.removed:
        what = "nothing had changed"
    else:
        what = "sent nothing"
    if summary.removed:
        what += f", removed {summary.removed}"
    return f"{what}, {size(summary.bytes_sent)} in {summary.seconds:.1f} s"
