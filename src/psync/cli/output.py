"""What psync itself says: one line on stderr each, beginning with ``psync:``, or with ``--json`` an
event, see ``events``. Which of the two it is, is decided here and nowhere else.

    psync: MESSAGE; HINT

A program's own output never passes through here. How a sync goes is shown by ``syncreport``.
"""

from __future__ import annotations

import sys
import time

from psync.cli import events
from psync.cli.events import Value
from psync.errors import PsyncError
from psync.text import printable

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


def say(text: str, *, wait: bool = True, event: str = "message", **fields: Value) -> None:
    """Print one line for people on stderr, or with ``--json`` an event with the same message.

    Args:
        text: the line; made harmless, since parts of it may come from elsewhere.
        wait: False drops the line if it cannot be written at once, for use in an event loop.
        event: what happened.
        fields: of the event, besides the message; not for people.
    """
    shown = _shown(text)
    if events.is_json():
        events.emit(event, wait=wait, message=shown, **fields)
        return
    line = f"{_drawn.clearing()}psync: {shown}\n".encode("utf-8", "backslashreplace")
    try:
        events.write(2, line, wait=wait)
    except OSError:
        return  # nobody reads it; psync's own words are never a reason to fail


def _shown(text: str) -> str:
    """Return a text made harmless and not too long.

    What is left out is its middle: what failed stands at the beginning, why and what helps at the
    end, and a path of thousands of bytes in between.
    """
    return _cut(printable(_cut(text)))  # making it harmless makes it longer


def _cut(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]}…{text[-half:]}"


class _Drawn:
    """The line on a terminal that is drawn again and again, and makes room for any other."""

    def __init__(self) -> None:
        self._there = False

    def draw(self, text: str) -> None:
        """Show a line in place of the last one; it must fit on the terminal."""
        self._there = True
        self._write(f"{_CLEAR}{text}")

    def erase(self) -> None:
        """Take the line away."""
        self._write(self.clearing())

    def clearing(self) -> str:
        """Return what takes the line away, if it is there."""
        there, self._there = self._there, False
        return _CLEAR if there else ""

    def _write(self, text: str) -> None:
        try:
            events.write(2, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass


_CLEAR = "\r\x1b[K"
_drawn = _Drawn()


def drawn() -> _Drawn:
    """Return the line that is drawn again and again."""
    return _drawn


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


def say_now(text: str, *, event: str = "message") -> None:
    """Print one line if that does not wait, and if there were not too many; see ``say``."""
    if not _pace.take():
        return
    if _pace.withheld:
        text += f" ({_pace.withheld} lines before this one were left out)"
        _pace.withheld = 0
    say(text, wait=False, event=event)


def report(error: PsyncError) -> int:
    """Print an error and return the exit status it stands for."""
    if events.is_json():
        events.emit(
            "error",
            code=error.code,
            message=_shown(error.message),
            hint=_shown(error.hint),
            exit_status=error.exit_status,
        )
    else:
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
