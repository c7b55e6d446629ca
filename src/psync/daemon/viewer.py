"""One client's view of one run: reads the log from an offset and sends it, as fast as both allow.

A viewer holds no output: it reads the log file when the connection takes more, so that a slow
client costs the daemon no memory and delays nobody else. It is driven by three events (the log
grew, the connection drained, the client acknowledged), all of which come to ``pump``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from psync.daemon.ending import Ending
from psync.daemon.holders import Who
from psync.daemon.pace import Pace
from psync.errors import ConnectionLost, ProtocolError, PsyncError, Refused
from psync.protocol import messages as m
from psync.supervisor.log import Gap, LogDamaged, LogReader
from psync.transport.link import HEADROOM, Link

PIECE = m.MAX_DATA - 64
"""Bytes of output in a message. With all its headers it fills four TLS records of 16 KiB; a full
message would need a fifth one for the last few bytes."""

SMALL_PIECE = 4096
"""Bytes that are worth a message although there is more output than room for it."""

CLOSE_BY = 8 * 1024 * 1024
"""Bytes from the end within which a viewer counts as having caught up."""

LEAD = 2
"""Windows that a program may be ahead of the first of its viewers before it has to wait, as on a
full pipe. Enough for the connection never to be idle; so little that Ctrl-C is not followed by
minutes of output that was written before it. Without a viewer, and until one has caught up, only
the log's own limit counts."""

logger = logging.getLogger("psync.viewer")


class Viewer:
    """A client attached to a run on one channel of its connection.

    Args:
        link: the client's connection, which is open.
        channel: the client's number for this attachment.
        directory: the run's directory, where its log is.
        offset: where to begin.
        on_over: called once when the viewer has nothing more to say: with None after the ending was
            sent, with an error when there will be none. Whoever is called closes the viewer.
        who: which attachment this is, whatever its connection.
        lasting: it can come back as the same on another connection.
        name: the client's, for people.
        read_only: the run neither waits for it nor lives for it. It is told what it missed.
        times: tell it when output was written.

    Attributes:
        acked: everything below is written out by the client.
        caught_up: it has been close to the end, so the program is to wait for it.
        done: ``on_over`` was called, or the viewer is closed.
        shares: its client understands that stdin may be another's.
    """

    def __init__(
        self,
        link: Link,
        channel: int,
        directory: str,
        offset: int,
        on_over: Callable[[PsyncError | None], None],
        *,
        who: Who,
        lasting: bool = True,
        name: str = "",
        read_only: bool = False,
        times: bool = False,
    ) -> None:
        self.link = link
        self.channel = channel
        self.who = who
        self.lasting = lasting
        self.name = name
        self.read_only = read_only
        self.acked = offset
        self.done = False
        self.caught_up = False
        self.shares = "viewers" in link.peer.features
        self._times = times
        self._stamp: int | None = None  # the last one told
        self._directory = directory
        self._on_over = on_over
        self._reader: LogReader | None = None
        self._sent = offset
        self._gaps: deque[tuple[int, int]] = deque()  # told, and not acknowledged: end, bytes
        self._lost = 0  # bytes of all gaps ever told
        self._lost_acked = 0  # of those that are acknowledged
        self._clock = asyncio.get_running_loop().time
        self._pace = Pace(min(link.peer.limits.window, m.WINDOW_OUTPUT), offset)
        self._piece = min(link.peer.limits.data, PIECE)
        self._ending: Ending | None = None

    @property
    def lead(self) -> int:
        """How far the program may be ahead of ``acked``."""
        return LEAD * self._pace.window

    @property
    def end_of_log(self) -> int:
        """How long the output is now."""
        return 0 if self._reader is None else self._reader.end

    def begin(self) -> None:
        """Open the log, which exists once the run has started; a run lost before that has none."""
        if self._reader is not None or self.done:
            return
        try:
            self._reader = LogReader(self._directory, times=self._times)
        except FileNotFoundError:
            pass  # if there was output, its absence is noticed at the end
        except (OSError, LogDamaged) as error:
            self._unreadable(error)
            return
        end = self._reader.end if self._reader is not None else 0
        self.caught_up = end - self._sent <= CLOSE_BY
        if self._sent > end:
            self.fail(Refused(f"the output of this run ends at {end}; there is no {self._sent}"))

    def pump(self) -> None:
        """Send what there is, as far as the window and the connection's buffer allow."""
        if self.done or not self.link.open:
            return
        try:
            self._send_output()
        except ConnectionLost:
            return  # the link tells its owner, who detaches this viewer
        except (OSError, LogDamaged, ValueError) as error:
            self._unreadable(error)

    def end(self, ending: Ending) -> None:
        """Take note of how the run ended; it is told after the last byte of output."""
        self._ending = ending
        self.pump()

    def fail(self, error: PsyncError) -> None:
        """Give up: there will be no ending for this client."""
        if not self.done:
            self.done = True
            self._on_over(error)

    def ack(self, offset: int) -> None:
        """Take the client's acknowledgement and go on.

        Raises:
            ProtocolError: bytes are acknowledged that were never sent.
        """
        if offset > self._sent:
            raise ProtocolError(f"offset {offset} acknowledged, only {self._sent} sent")
        if offset > self.acked:
            self.acked = offset
            while self._gaps and self._gaps[0][0] <= offset:
                self._lost_acked += self._gaps.popleft()[1]
            self._pace.acked(offset - self._lost_acked, self._clock())
            if not self.caught_up and self._reader is not None:
                self.caught_up = self._reader.end - offset <= CLOSE_BY
            self.pump()

    def close(self) -> None:
        """Let go of the log."""
        self.done = True
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # -- inside ------------------------------------------------------------------------

    def _send_output(self) -> None:
        while self._reader is not None and self.link.writable:
            available = self._reader.end - self._sent
            if available <= 0:
                self._pace.idle()
                break
            window = self._pace.window
            room = window - (self._sent - self._lost) + (self.acked - self._lost_acked)
            # A window of few messages would leave the link idle between them.
            size = min(room, self._piece, max(SMALL_PIECE, window // 4), available)
            if size < min(SMALL_PIECE, self._piece, window, available):
                break
            buffer = bytearray(HEADROOM + size)
            try:
                with memoryview(buffer) as view:
                    stream, count = self._reader.read_into(self._sent, view[HEADROOM:])
            except Gap as gap:
                self._tell_gap(gap.end)
                continue
            if count < size:
                del buffer[HEADROOM + count :]
            if self._times and self._reader.stamp != self._stamp:
                self._tell_time(self._reader.stamp)
            self.link.send_data(self.channel, stream, self._sent, buffer)
            self._sent += count
            self._pace.sent(self._sent - self._lost, self._clock())
        ending = self._ending
        if ending is None:
            return
        if self._sent >= ending.end:
            self._finish(ending)
        elif self._reader is None or self._reader.end < ending.end:
            raise LogDamaged(f"{self._directory}: the log is shorter than the exit record says")

    def _tell_gap(self, end: int) -> None:
        """Tell that what follows was recycled: only a client for which nobody waits is that slow,
        or one that came late."""
        self.link.send(m.Gap(channel=self.channel, start=self._sent, end=end))
        # What was sent before it is still on its way, and counts until it is acknowledged.
        self._gaps.append((end, end - self._sent))
        self._lost += end - self._sent
        self._sent = end

    def _tell_time(self, stamp: int) -> None:
        self._stamp = stamp
        self.link.send(m.Times(channel=self.channel, stamps=((self._sent, stamp),)))

    def _finish(self, ending: Ending) -> None:
        self.link.send(
            m.Exited(
                channel=self.channel,
                end=ending.end,
                status=ending.status,
                error=ending.error,
                message=ending.message,
            )
        )
        self.done = True
        self._on_over(None)

    def _unreadable(self, error: Exception) -> None:
        logger.error("the output in %s cannot be read: %s", self._directory, error)
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        self.fail(
            PsyncError(
                f"the output of this run cannot be read on the daemon host: {reason}",
                hint="the daemon's log says more",
            )
        )
