"""The stdin of one attachment on its way to the program: what was sent, who holds it.

Of several clients attached to a run one holds stdin at a time. Offsets count what the program was
sent by all of them, so a new holder goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from psync.errors import Refused
from psync.model import Stream
from psync.protocol import messages as wire
from psync.protocol.flow import Outbound


class Outgoing:
    """Stdin for a run.

    Args:
        send: sends a message if there is a connection, and drops it otherwise; all of this is said
            again on the next one.
        held: whether it may be sent before the daemon has said whose stdin is.

    Attributes:
        channel: the attachment; set by the owner.
        holder: who holds stdin where it is not this attachment, for people; None while it is, and
            while nobody has said so.
        held: whether this attachment holds stdin.
        begun: whether it is known who does.
        paused: nothing is sent until the daemon has said where to go on.
        closed: the program closed its stdin, or the run is over; sending more is pointless.
        on_room: called when there may be more room, and when ``closed`` has become True.
        on_holder: called when stdin changed hands, with how many bytes from here the program
            perhaps never got.
    """

    def __init__(self, send: Callable[[wire.Message], None], *, held: bool) -> None:
        self.channel = 0
        self.holder: str | None = None
        self.held = held
        self.closed = False
        self.paused = False
        self.on_room: Callable[[], None] = lambda: None
        self.on_holder: Callable[[int], None] = lambda _dropped: None
        self._send = send
        self.begun = held
        self._ended = False
        self._outbound = Outbound(wire.WINDOW_STDIN)
        self._base = 0  # where in the run's stdin this attachment's own begins
        self._room = asyncio.Event()

    @property
    def room(self) -> int:
        """How many bytes may be sent now without waiting."""
        return 0 if self.closed or self._ended or not self.held else self._outbound.room

    @property
    def offset(self) -> int:
        """Where in the run's stdin the next byte from here stands."""
        return self._base + self._outbound.offset

    def send(self, data: bytes) -> None:
        """Send at most ``room`` bytes; ``ValueError`` if it is more."""
        for start in range(0, len(data), wire.MAX_DATA):
            piece = data[start : start + wire.MAX_DATA]
            offset = self._base + self._outbound.push(piece)
            if self.paused:
                continue
            self._send(wire.Data(self.channel, Stream.STDIN, offset, piece))

    async def write(self, data: bytes) -> None:
        """Send ``data``, waiting for room; see ``RemoteRun.write_stdin``."""
        rest = memoryview(data)
        while len(rest):
            if self.closed or self._ended:
                raise BrokenPipeError(32, "the program does not read its stdin any more")
            if self.begun and not self.held:
                raise Refused(
                    f"stdin of the run is held by {self.holder}" if self.holder
                    else "this attachment does not send stdin"
                )  # fmt: skip
            room = self.room
            if room:
                self.send(bytes(rest[:room]))
                rest = rest[room:]
            else:
                self._room.clear()
                await self._room.wait()

    def end(self) -> None:
        """End the program's stdin after what was sent; not where another attachment holds it."""
        if not self._ended:
            self._ended = True
            if self.held and not self.paused:
                self._send(wire.StdinEnd(self.channel, self.offset))

    def pause(self) -> None:
        """Keep what is to be sent until ``on_attached``: on another connection the daemon, perhaps
        another one, has to say first how much there is, or it would miss what stands before."""
        self.paused = True

    # -- what the daemon says -----------------------------------------------------------------

    def on_ack(self, offset: int) -> None:
        """The program's pipe has taken everything below ``offset``."""
        if self.held:
            self._outbound.ack(max(0, offset - self._base))
            self.changed()

    def on_attached(self, offset: int, holder: str | None) -> None:
        """Go on at ``offset``, on the first or on another connection, if stdin is ours."""
        self.paused = False
        sure = self._base + self._outbound.acked  # what came later may be another holder's
        if holder is not None:
            self._lose(holder, offset, sure)
        else:
            self._take(offset, sure)

    def on_holder_changed(self, offset: int, holder: str | None) -> None:
        """Stdin changed hands at ``offset``."""
        if holder is not None:
            self._lose(holder, offset, sure=offset)
        else:
            self._take(offset, sure=offset)

    def on_closed(self) -> None:
        """Nobody reads it any more."""
        self.closed = True
        self.changed()

    def never(self) -> None:
        """This attachment only looks."""
        self.held, self.begun = False, True
        self.changed()

    def send_again(self) -> None:
        """Send what is not acknowledged once more, on another connection."""
        for offset, data in self._outbound.unacknowledged():
            self._send(wire.Data(self.channel, Stream.STDIN, self._base + offset, data))
        if self._ended and self.held:
            self._send(wire.StdinEnd(self.channel, self.offset))

    def changed(self) -> None:
        """Wake whoever waits for room."""
        self._room.set()
        self.on_room()

    # -- inside -------------------------------------------------------------------------------

    def _take(self, offset: int, sure: int) -> None:
        news = self.begun and not self.held
        was_held, self.held, self.holder, self.begun = self.held, True, None, True
        dropped = 0
        if was_held and self._base <= offset <= self.offset:
            self._outbound.ack(offset - self._base)
            self.send_again()
        else:
            dropped = self._restart(offset, sure)
            if self._ended and was_held:
                self._send(wire.StdinEnd(self.channel, self.offset))
        if dropped or news:
            self.on_holder(dropped)
        self.changed()

    def _lose(self, holder: str, offset: int, sure: int) -> None:
        news = not self.begun or self.held or holder != self.holder
        self.held, self.holder, self.begun = False, holder, True
        dropped = self._restart(offset, sure)
        if news:
            self.on_holder(dropped)
        self.changed()

    def _restart(self, offset: int, sure: int) -> int:
        """Begin anew at ``offset``; return how many bytes sent so far lie behind ``sure``."""
        dropped = max(0, self.offset - max(self._base, sure))
        self._base, self._outbound = offset, Outbound(wire.WINDOW_STDIN)
        return dropped
