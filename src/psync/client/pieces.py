"""What a run's output is made of, for whoever reads it."""

from __future__ import annotations

from collections import deque

import msgspec

from psync.errors import ProtocolError
from psync.model import Stream

MOST_STAMPS = 1 << 18
"""Times a daemon may tell ahead of the output they belong to; an honest one tells a few hundred."""


class Output(msgspec.Struct, frozen=True):
    """A piece of a run's output.

    Attributes:
        stream: ``STDOUT`` or ``STDERR``.
        offset: position of its first byte in the run's output, both streams counted together.
        data: the bytes as the program wrote them; pieces do not follow lines.
        time: when it was written, in nanoseconds since the epoch by the daemon host's clock; 0
            where that was not asked for.
    """

    stream: Stream
    offset: int
    data: bytes
    time: int = 0

    @property
    def end(self) -> int:
        """Position after its last byte."""
        return self.offset + len(self.data)


class Gap(msgspec.Struct, frozen=True):
    """Output from ``offset`` to ``end`` was dropped on the daemon host, by the overflow policy."""

    offset: int
    end: int


class Stamps:
    """When the output that is to come was written. No I/O."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._time = 0

    def learn(self, stamps: tuple[tuple[int, int], ...]) -> None:
        """Take note of pairs of an offset and a time; what is known already changes nothing.

        Raises:
            ProtocolError: there are too many.
        """
        for offset, time in stamps:
            if not self._waiting or offset > self._waiting[-1][0]:
                self._waiting.append((offset, time))
        if len(self._waiting) > MOST_STAMPS:
            raise ProtocolError("the daemon tells times of output that does not come")

    def forget(self) -> None:
        """The connection is another one; it is all told again."""
        self._waiting.clear()

    def split(self, stream: Stream, offset: int, data: bytes) -> list[Output]:
        """Return new output as pieces that were written at one time each."""
        pieces = []
        end = offset + len(data)
        at = offset
        while at < end:
            while self._waiting and self._waiting[0][0] <= at:
                self._time = self._waiting.popleft()[1]
            until = min(end, self._waiting[0][0]) if self._waiting else end
            pieces.append(Output(stream, at, data[at - offset : until - offset], self._time))
            at = until
        return pieces
