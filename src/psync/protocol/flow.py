"""Offsets and windows of one stream, one class per direction. No I/O.

A byte's offset is its position since the stream began, whatever connection carried it. That is what
makes resuming exact: the receiver knows what it has, the sender what was acknowledged.
"""

from __future__ import annotations

from collections import deque

from psync.errors import ProtocolError


class Inbound:
    """The receiving end: drops what came before, refuses what leaves a hole.

    Attributes:
        offset: where the next new byte stands; everything below has been delivered.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def accept(self, offset: int, data: bytes) -> bytes:
        """Return the part of ``data`` that is new, which may be nothing.

        Raises:
            ProtocolError: bytes between the last delivered one and ``offset`` are missing.
        """
        if offset > self.offset:
            raise ProtocolError(f"bytes {self.offset} to {offset} of the stream are missing")
        known = self.offset - offset
        if known:
            data = data[known:]
        self.offset += len(data)
        return data

    def skip(self, start: int, end: int) -> int:
        """Take note of an announced gap; return how many bytes of it are news.

        Raises:
            ProtocolError: the gap does not begin at or before what was delivered, or is empty.
        """
        if start > self.offset or end <= start:
            raise ProtocolError(f"a gap from {start} to {end} does not fit offset {self.offset}")
        lost = max(0, end - self.offset)
        self.offset += lost
        return lost


class Outbound:
    """The sending end: keeps what is not acknowledged yet and how much more may go.

    The owner hands in bytes with ``push`` as long as ``room`` is not zero, and gets them back from
    ``unacknowledged`` to send again on a new connection.

    Args:
        window: how many unacknowledged bytes are allowed.

    Attributes:
        offset: where the next byte to be pushed stands.
        acked: everything below is acknowledged.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._kept: deque[bytes] = deque()
        self.offset = 0
        self.acked = 0

    @property
    def room(self) -> int:
        """How many bytes may be pushed now."""
        return max(0, self._window - (self.offset - self.acked))

    def push(self, data: bytes) -> int:
        """Keep ``data`` as sent; return the offset to send it with.

        Raises:
            ValueError: more than ``room``; the owner has miscounted.
        """
        if len(data) > self.room:
            raise ValueError(f"{len(data)} bytes pushed into room for {self.room}")
        at = self.offset
        if data:
            self._kept.append(data)
            self.offset += len(data)
        return at

    def ack(self, offset: int) -> None:
        """Forget everything below ``offset``; a repeated or older acknowledgement changes nothing.

        Raises:
            ProtocolError: bytes are acknowledged that were never sent.
        """
        if offset > self.offset:
            raise ProtocolError(f"offset {offset} acknowledged, only {self.offset} sent")
        while self.acked < offset:
            head = self._kept.popleft()
            part = offset - self.acked
            if part < len(head):
                self._kept.appendleft(head[part:])
                self.acked = offset
            else:
                self.acked += len(head)

    def unacknowledged(self) -> list[tuple[int, bytes]]:
        """Return what is sent and not acknowledged, as (offset, bytes), oldest first."""
        pieces = []
        at = self.acked
        for data in self._kept:
            pieces.append((at, data))
            at += len(data)
        return pieces
