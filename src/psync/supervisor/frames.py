"""Frames of a byte stream: length of the payload and type (``!IB``, big-endian), then the payload.

Sans I/O: ``Frame.encode`` makes bytes, ``FrameDecoder`` makes frames of them, however they were
split. What frames there are stands in ``wire``.
"""

from __future__ import annotations

from struct import Struct

HEADER = Struct("!IB")

MAX_PAYLOAD = 64 * 1024 + 8
"""Longest payload there is, a full ``Stdin``; a longer one is garbage."""


class WireError(Exception):
    """The bytes are no frames of this protocol; the connection they came from is of no more use."""


class Frame:
    """Base of all frames. ``TYPE`` is the number on the wire, ``SIZE`` a fixed payload's length."""

    __slots__ = ()
    TYPE = 0
    SIZE: int | None = 0

    def payload(self) -> bytes:
        """Return the frame's payload."""
        return b""

    @classmethod
    def parse(cls, payload: bytes) -> Frame:
        """Make a frame of a payload whose length was checked against ``SIZE``."""
        return cls()

    def encode(self) -> bytes:
        """Return the whole frame, header included."""
        payload = self.payload()
        return HEADER.pack(len(payload), self.TYPE) + payload

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.payload() == other.payload()

    def __hash__(self) -> int:
        return hash((self.TYPE, self.payload()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.payload()!r})"


class FrameDecoder:
    """Makes frames of one direction's bytes, however they were split.

    Args:
        kinds: what may come: ``FROM_DAEMON``, ``FROM_SUPERVISOR``, ``TO_LAUNCHER`` or
            ``FROM_LAUNCHER``.
    """

    def __init__(self, kinds: dict[int, type[Frame]]) -> None:
        self._kinds = kinds
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes.

        Raises:
            WireError: an unknown type, or a payload of the wrong length. The decoder is of no more
                use; frames that ``data`` completed before the bad one are lost.
        """
        if self._rest:
            data = self._rest + data
        frames: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= 5:
            size, number = HEADER.unpack_from(data, at)
            kind = self._kinds.get(number)
            if kind is None:
                raise WireError(f"no frame of type {number} is expected here")
            if size != kind.SIZE and (kind.SIZE is not None or size > MAX_PAYLOAD):
                raise WireError(f"{kind.__name__} with a payload of {size} bytes")
            if end - at - 5 < size:
                break
            frames.append(kind.parse(data[at + 5 : at + 5 + size]))
            at += 5 + size
        self._rest = data[at:]
        return frames

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are held; 0 at the end of a whole stream."""
        return len(self._rest)
