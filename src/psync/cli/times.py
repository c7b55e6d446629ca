"""Times as people write and read them."""

from __future__ import annotations

import argparse
import time

from psync.config import parse_duration
from psync.errors import UsageError


def duration(word: str) -> float:
    """Return the seconds of a duration on the command line."""
    try:
        return parse_duration(word)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def moment(word: str) -> float:
    """Return the seconds since the epoch of a time, or of a duration before now.

    ``10m``, ``2026-11-22``, ``2026-11-22T10:00``, ``2026-11-22T10:00:00.5+01:00``, ``…Z``; without
    an offset it is local time.
    """
    try:
        return max(time.time() - parse_duration(word), 0.0)
    except UsageError:
        pass
    from datetime import datetime

    try:
        return max(datetime.fromisoformat(word).timestamp(), 0.0)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{word!r} is neither a duration (10m) nor a time (2026-11-22T10:00)"
        ) from None


def utc(seconds: float | None) -> str | None:
    """Return a time as RFC 3339 has it, in UTC with milliseconds; None stays None."""
    if seconds is None:
        return None
    thousandths = round(min(max(seconds, 0.0), 1e11) * 1000)  # whatever a daemon says
    shown = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(thousandths // 1000))
    return f"{shown}.{thousandths % 1000:03}Z"


class LineStamper:
    """Writes a time at the beginning of every line of one stream, however the stream is cut.

    Times are local, as RFC 3339 has them: ``2026-11-22T10:00:00.123+01:00``.
    """

    def __init__(self) -> None:
        self._begins = True
        self._second = -1
        self._before = b""
        self._after = b""

    def feed(self, data: bytes, nanoseconds: int) -> bytes:
        """Return ``data``, which was written then, with the times of the lines it begins."""
        if not data:
            return data
        stamp = self._stamp(nanoseconds)
        begins, self._begins = self._begins, data.endswith(b"\n")
        body = data[:-1] if self._begins else data
        stamped = body.replace(b"\n", b"\n" + stamp) + data[len(body) :]
        return stamp + stamped if begins else stamped

    def _stamp(self, nanoseconds: int) -> bytes:
        second, rest = divmod(nanoseconds, 10**9)
        if second != self._second:
            local = time.localtime(second)
            self._second = second
            self._before = time.strftime("%Y-%m-%dT%H:%M:%S.", local).encode()
            minutes = local.tm_gmtoff // 60
            sign = "-" if minutes < 0 else "+"
            self._after = f"{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02} ".encode()
        return b"%b%03d%b" % (self._before, rest // 10**6, self._after)
