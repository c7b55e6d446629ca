"""The output of one attachment on its way to whoever reads it. Nothing here sends or waits.

The owner hands in what the daemon says; pieces go to a sink or wait to be taken. What the reader
has dealt with is acknowledged: at once when it is much, after a moment when it is little.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from psync.client.pieces import Gap, Output, Stamps
from psync.errors import ProtocolError
from psync.protocol import messages as wire
from psync.protocol.flow import Inbound

ACK_BYTES = 256 * 1024
"""So many bytes written out are acknowledged at once; a sixteenth of the window."""

ACK_DELAY = 0.05
"""Seconds after which fewer bytes are acknowledged as well."""


class Incoming:
    """Output from ``offset`` on.

    Args:
        offset: where it begins.
        acknowledge: called with an offset below which everything has been dealt with.

    Attributes:
        consumed: everything below has been dealt with by the reader.
        waiting: pieces that nobody has taken yet.
        news: set when ``waiting`` has grown.
    """

    def __init__(self, offset: int, acknowledge: Callable[[int], None]) -> None:
        self.consumed = offset
        self.waiting: deque[Output | Gap] = deque()
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._acknowledge = acknowledge
        self._inbound = Inbound(offset)
        self._stamps = Stamps()
        self._sink: Callable[[Output | Gap], None] | None = None
        self._dropped = 0
        self._acked = offset
        self._timer: asyncio.TimerHandle | None = None

    @property
    def end(self) -> int:
        """Position after the last byte that came."""
        return self._inbound.offset

    def deliver_to(self, sink: Callable[[Output | Gap], None]) -> None:
        """Have ``sink`` called with every piece from now on, those that wait first."""
        self._sink = sink
        while self.waiting:
            sink(self.waiting.popleft())

    def on_data(self, message: wire.Data) -> None:
        """Take output; what is known already is dropped.

        Raises:
            ProtocolError: bytes are missing before it, or it is more than the window allows.
        """
        data = self._inbound.accept(message.offset, message.data)
        if not data:
            return
        end = self._inbound.offset
        if end - self.consumed - self._dropped > wire.WINDOW_OUTPUT:
            raise ProtocolError("the daemon sends more output than was asked for")
        for piece in self._stamps.split(message.stream, end - len(data), data):
            self._emit(piece)

    def on_gap(self, message: wire.Gap) -> None:
        """Take note of output that is gone; raises ``ProtocolError`` where it does not fit."""
        lost = self._inbound.skip(message.start, message.end)
        if lost:
            self._dropped += lost
            self._emit(Gap(message.end - lost, message.end))

    def on_times(self, message: wire.Times) -> None:
        """Take note of when the output to come was written."""
        self._stamps.learn(message.stamps)

    def reader_at(self, offset: int) -> None:
        """Everything below ``offset`` has been dealt with and need never be sent again."""
        if offset <= self.consumed:
            return
        self.consumed = offset
        if offset >= self._inbound.offset:
            self._dropped = 0
        if offset - self._acked >= ACK_BYTES:
            self._send_ack()
        elif self._timer is None:
            self._timer = self._loop.call_later(ACK_DELAY, self._send_ack)

    def resume(self) -> int:
        """Return where a new connection has to begin.

        What waits here unconsumed is sent once more and dropped. Asking for what follows it would
        save that, and let the daemon send a whole window on top at every reconnection.
        """
        self._stamps.forget()
        self._acked = self.consumed
        return self.consumed

    def close(self) -> None:
        """Acknowledge nothing more; wake whoever waits for pieces."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.news.set()

    def _emit(self, piece: Output | Gap) -> None:
        if self._sink is not None:
            self._sink(piece)
        else:
            self.waiting.append(piece)
            self.news.set()

    def _send_ack(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.consumed > self._acked:
            self._acked = self.consumed
            self._acknowledge(self.consumed)
