"""One client's view of one run: reads the log from an offset and sends it, as fast as both allow.

A viewer holds no output: it reads the log file when the connection takes more, so that a slow
client costs the daemon no memory and delays nobody else. It is driven by three events (the log
grew, the connection drained, the client acknowledged), all of which come to ``pump``.
"""

from __future__ import annotations

import logging

from psync.daemon.ending import Ending
from psync.errors import ConnectionLost, ProtocolError
from psync.protocol import messages as m
from psync.supervisor.log import Gap, LogDamaged, LogReader
from psync.transport.link import Link

logger = logging.getLogger("psync.viewer")


class Viewer:
    """A client attached to a run on one channel of its connection.

    Args:
        link: the client's connection.
        channel: the client's number for this attachment.
        directory: the run's directory, where its log is.
        offset: where to begin.
        window: how many unacknowledged bytes the client takes.

    Attributes:
        acked: everything below is written out by the client.
        done: the ending has been sent; the viewer has nothing more to say.
    """

    def __init__(self, link: Link, channel: int, directory: str, offset: int, window: int) -> None:
        self.link = link
        self.channel = channel
        self.acked = offset
        self.done = False
        self._directory = directory
        self._reader: LogReader | None = None
        self._sent = offset
        self._window = window
        self._ending: Ending | None = None

    def begin(self) -> None:
        """Open the log, which exists once the run has started; a run lost before that has none."""
        if self._reader is None:
            try:
                self._reader = LogReader(self._directory)
            except (OSError, LogDamaged):
                logger.warning("no log in %s", self._directory)

    def pump(self) -> None:
        """Send what there is, as far as the window and the connection's buffer allow."""
        if self.done or not self.link.open:
            return
        try:
            while self._reader is not None and self.link.writable:
                room = self._window - (self._sent - self.acked)
                if room <= 0:
                    return
                try:
                    stream, data = self._reader.read(self._sent, min(room, m.MAX_DATA))
                except Gap as gap:
                    self.link.send(m.Gap(channel=self.channel, start=self._sent, end=gap.end))
                    self._sent = gap.end
                    self.acked = max(self.acked, gap.end)
                    continue
                if not data:
                    break
                self.link.send_data(self.channel, stream, self._sent, data)
                self._sent += len(data)
            self._finish()
        except ConnectionLost:
            return  # the link tells its owner, who detaches this viewer

    def end(self, ending: Ending) -> None:
        """Take note of how the run ended; it is told after the last byte of output."""
        self._ending = ending
        self.pump()

    def ack(self, offset: int) -> None:
        """Take the client's acknowledgement and go on.

        Raises:
            ProtocolError: bytes are acknowledged that were never sent.
        """
        if offset > self._sent:
            raise ProtocolError(f"offset {offset} acknowledged, only {self._sent} sent")
        if offset > self.acked:
            self.acked = offset
            self.pump()

    def close(self) -> None:
        """Let go of the log."""
        self.done = True
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _finish(self) -> None:
        ending = self._ending
        if ending is None or self.done or self._sent < ending.end:
            return
        self.done = True
        self.link.send(
            m.Exited(
                channel=self.channel,
                end=ending.end,
                status=ending.status,
                error=ending.error,
                message=ending.message,
            )
        )
