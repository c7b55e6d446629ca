"""What earlier transfers to a target told of the way there, kept in the client's state.

    <state>/links/<destination>     JSON: bytes per second, and what deltas saved for each project

A transfer's bytes per second are those of the slowest of the link, both disks and both processors.
Only where it took much longer than rsync needs for as many bytes, they are the link's; otherwise
the link is at least that fast. What was measured is forgotten after a while: laptops move.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable

import msgspec

from psync.paths import private_directory, write_atomic
from psync.sync.choose import (
    NEAR_RATE,
    SMALL,
    UNKNOWN_RATE,
    ZSTD_SPEED,
    Choice,
    choose,
)
from psync.sync.sample import compressed_ratio

RATE_LIFE = 7 * 86400.0
"""Seconds for which a measured rate is believed."""

LITERAL_LIFE = 86400.0
"""Seconds for which it is believed what deltas save. Without them nothing new is learned of it."""

MEASURED_BYTES, MEASURED_SECONDS = 4_000_000, 0.5
"""A transfer of so many bytes, or of so many seconds, tells something of the link."""

PROCESSING = 100e6
"""Bytes per second of files' contents that rsync reads, compares, compresses and writes at the
least, on a small board."""

TOLD_BYTES = 1_000_000
"""Bytes of changed files from which on it is worth noting what a delta saved."""

MOST_PROJECTS = 64
"""Projects of which that is known."""

NEWS = 0.2
"""What differs by less from what is known is no news, and not written down."""

TYPICAL_RATIO = 0.5
"""What compression leaves of most files."""


class Measured(msgspec.Struct, frozen=True):
    """What a transfer was like.

    Attributes:
        wire: bytes that went to the other side.
        content: bytes of the files that were transferred.
        literal: of these, what the other side did not have.
        seconds: from the first thing that rsync said to its end.
        created: whether it made files that were not there; then deltas had nothing to save.
    """

    wire: int = 0
    content: int = 0
    literal: int = 0
    seconds: float = 0.0
    created: bool = False


class _Literal(msgspec.Struct, frozen=True):
    share: float
    at: float


class _Record(msgspec.Struct, frozen=True):
    rate: float | None = None
    at: float = 0.0
    literal: dict[str, _Literal] = {}


class Link:
    """The way to one target. Nothing it does ever fails: without its notes it guesses.

    Args:
        state: the client's state directory.
        destination: names the target's host.
        near: the target is this very machine.
    """

    def __init__(self, state: str, destination: str, *, near: bool = False) -> None:
        name = hashlib.sha256(os.fsencode(destination)).hexdigest()[:24]
        self._path = f"{state}/links/{name}"
        self._near = near

    @property
    def guess(self) -> float:
        """Bytes per second that it is taken for where nothing was measured."""
        return NEAR_RATE if self._near else UNKNOWN_RATE

    def rate(self) -> float | None:
        """Return bytes per second as measured, None where that was not, or long ago."""
        return self._rate(self._read(), time.time())

    def choose(
        self, project: str, files: Iterable[tuple[bytes, int]], *, speed: float = ZSTD_SPEED
    ) -> Choice:
        """Return how to transfer files.

        Args:
            project: ID of the project.
            files: paths and sizes.
            speed: see ``choose.choose``.
        """
        files = list(files)
        now = time.time()
        record = self._read()
        known = record.literal.get(project)
        fresh = known is not None and 0 <= now - known.at < LITERAL_LIFE
        # what is small is over before that was found out, whatever it is
        small = sum(size for _, size in files) < SMALL
        return choose(
            self._rate(record, now) or self.guess,
            TYPICAL_RATIO if small else compressed_ratio(files),
            literal=known.share if known is not None and fresh else None,
            speed=speed,
        )

    def learn(self, project: str, measured: Measured, choice: Choice) -> None:
        """Note what a transfer told.

        Args:
            project: ID of the project.
            measured: what it was like.
            choice: how it was done.
        """
        now = time.time()
        before = self._read()
        record = self._with_rate(before, measured, now)
        told = measured.content >= TOLD_BYTES and not (choice.whole or measured.created)
        if told:
            share = min(1.0, measured.literal / measured.content)
            record = _with_literal(record, project, _Literal(round(share, 3), now))
        if record != before:
            self._write(record)

    def _with_rate(self, record: _Record, measured: Measured, now: float) -> _Record:
        long = measured.seconds >= MEASURED_SECONDS
        if measured.seconds <= 0 or not (measured.wire >= MEASURED_BYTES or long):
            return record
        seen = measured.wire / measured.seconds
        known = self._rate(record, now)
        if measured.content / PROCESSING > measured.seconds / 2:
            # something else than the link may have been what took its time
            if seen <= (known or self.guess):
                return record
            rate = seen
        else:
            rate = seen if known is None else (known + seen) / 2
        if rate <= 0 or (known is not None and abs(rate - known) < NEWS * known):
            return record
        return msgspec.structs.replace(record, rate=round(rate), at=now)

    def _rate(self, record: _Record, now: float) -> float | None:
        fresh = 0 <= now - record.at < RATE_LIFE  # and not from a future that a clock was set to
        return record.rate if fresh and record.rate and record.rate > 0 else None

    def _read(self) -> _Record:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(65536), type=_Record)
        except (OSError, msgspec.MsgspecError, ValueError):
            return _Record()

    def _write(self, record: _Record) -> None:
        from psync.errors import ConfigError

        try:
            private_directory(os.path.dirname(self._path))
            write_atomic(self._path, msgspec.json.encode(record))
        except (OSError, ConfigError):
            pass  # the next transfer is chosen by what is known now, nothing worse


def _with_literal(record: _Record, project: str, literal: _Literal) -> _Record:
    """Return the record with what is known of a project; the oldest make room."""
    known = record.literal.get(project)
    recent = known is not None and 0 <= literal.at - known.at < LITERAL_LIFE / 4
    if known is not None and recent and abs(known.share - literal.share) < NEWS:
        return record
    both = {**record.literal, project: literal}
    latest = sorted(both.items(), key=lambda item: item[1].at)[-MOST_PROJECTS:]
    return msgspec.structs.replace(record, literal=dict(latest))
