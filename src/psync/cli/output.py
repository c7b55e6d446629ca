"""What psync itself says: one line on stderr each, beginning with ``psync:``.

    psync: MESSAGE; HINT

A program's own output never passes through here.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING

from psync.errors import PsyncError
from psync.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from psync.sync.lock import Holder
    from psync.sync.rsync import Progress, Summary

BAR_AFTER = 0.3
"""Seconds a transfer may take before a progress bar appears: what is over sooner needs none."""


LONGEST = 4000
"""Characters of a line. Longer ones are not psync's own words, and nobody reads them."""

AT_ONCE, A_SECOND = 20, 2.0
"""Lines that the other side may cause at once and in a second, while a run goes on."""


def show(text: str) -> None:
    """Print what was asked for (a list, a help text) on stdout; that nobody reads it is no failure.

    Raises:
        PsyncError: it could not be written.
    """
    if sys.stdout is None:  # closed before this process began
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise PsyncError(f"stdout could not be written: {error.strerror}") from error


def say(text: str, *, wait: bool = True) -> None:
    """Print one line for people on stderr.

    Args:
        text: the line; made harmless, since parts of it may come from elsewhere.
        wait: False drops the line if stderr cannot take it at once, for use in an event loop.
    """
    shown = printable(text[: LONGEST + 1])
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}…"
    line = f"psync: {shown}\n".encode("utf-8", "backslashreplace")
    try:
        if not wait:
            poll = select.poll()
            poll.register(2, select.POLLOUT)
            if not poll.poll(0):
                return
        while line:
            line = line[os.write(2, line) :]
    except OSError:
        return  # nobody reads it; psync's own words are never a reason to fail


class _Pace:
    """How many lines may still be said without a wait."""

    def __init__(self) -> None:
        self._left = float(AT_ONCE)
        self._since = time.monotonic()
        self.withheld = 0

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(AT_ONCE, self._left + (now - self._since) * A_SECOND)
        self._since = now
        if self._left < 1:
            self.withheld += 1
            return False
        self._left -= 1
        return True


_pace = _Pace()


def say_now(text: str) -> None:
    """Print one line if that does not wait, and if there were not too many."""
    if not _pace.take():
        return
    if _pace.withheld:
        text += f" ({_pace.withheld} lines before this one were left out)"
        _pace.withheld = 0
    say(text, wait=False)


def report(error: PsyncError) -> int:
    """Print an error and return the exit status it stands for."""
    say(str(error))
    return error.exit_status


def size(count: float) -> str:
    """Return a number of bytes for people: ``17 bytes``, ``1.2 MB``."""
    if count < 1000:
        return f"{count:.0f} byte{'' if count == 1 else 's'}"
    unit = "kB"
    for larger in ("MB", "GB"):
        if count < 999_950:
            break
        count /= 1000
        unit = larger
    return f"{count / 1000:.1f} {unit}"


def span(seconds: float) -> str:
    """Return a time for people, as a duration is typed: ``0.4s``, ``42s``, ``7m30s``, ``2d04h``."""
    seconds = min(max(seconds, 0.0), 1e11)  # clocks differ, and some are far off
    if seconds < 10:
        return f"{int(seconds * 10) / 10:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02}h" if days else f"{hours}h{minutes:02}m"


class SyncReport:
    """Shows a sync on stderr: a bar on a terminal, one line afterwards.

    Args:
        verbose: say the line also where stderr is no terminal.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._terminal = os.isatty(2)
        self._verbose = verbose
        self._began = 0.0
        self._bar: Bar | None = None

    def progress(self, progress: Progress) -> None:
        """Show how far a transfer is."""
        now = time.monotonic()
        self._began = self._began or now  # what came before was not the transfer's time
        if not self._terminal or now - self._began < BAR_AFTER:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
            self._bar.add_task("sync", total=100, text="")
        left = progress.total - progress.checked
        self._bar.update(
            self._bar.task_ids[0],
            completed=progress.percent,
            text=f"{size(progress.bytes)}, {size(progress.rate)}/s"
            + (f", {left} files to go" if progress.total and left else ""),
        )

    def warning(self, text: str) -> None:
        """Pass on what was left out."""
        say(f"warning: {text}")

    def waiting(self, holder: Holder | None) -> None:
        """Say who is syncing the same project."""
        say(f"waiting for another sync of this project: {holder or 'unknown process'}")

    def end(self, summary: Summary | None = None) -> None:
        """Take the bar away; with a summary, say what was done."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if summary is None or not (self._terminal or self._verbose):
            return
        if summary.files:
            what = f"sent {summary.files} file{'' if summary.files == 1 else 's'}"
        elif not summary.removed:
            what = "nothing had changed"
        else:
            what = "sent nothing"
        if summary.removed:
            what += f", removed {summary.removed}"
        say(f"{what}, {size(summary.bytes_sent)} in {summary.seconds:.1f} s")


def _new_bar() -> Bar:
    """Make a bar; rich is imported only when there is something to watch."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("psync: syncing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(file=sys.stderr),
        transient=True,
        refresh_per_second=10,
    )
