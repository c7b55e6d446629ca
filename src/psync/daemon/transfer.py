"""One transfer over the websocket: a client's channel, connected to an rsync here.

    Data stdin ──▶ queue, at most a window ──▶ pipe ──▶ rsync --server ──▶ pipe ──▶ Data stdout

Everything is driven by the event loop: a pipe or the connection has room, or something to read.
What rsync writes is read only when the connection takes it and the client's window has room, so
that nothing of it is held here. What the client sends beyond its window is a breach.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice

from psync.daemon.rsyncgate import Job
from psync.daemon.rsyncserver import RsyncServer
from psync.daemon.viewer import PIECE, SMALL_PIECE
from psync.errors import ConnectionLost, ProtocolError
from psync.model import Stream
from psync.protocol import messages as m
from psync.transport.link import HEADROOM, Link

BURST = 8
"""Pieces that are sent before others have their turn."""

MOST_PIECES = 64
"""Pieces that are written with one system call."""

ACK_EARLY = m.WINDOW_TRANSFER // 8
"""Bytes that rsync took of which the client is told. It need not know of fewer: its window is many
times that."""


class Transfer:
    """One rsync, connected to a channel.

    Args:
        link: the client's connection, which is open.
        channel: the client's number for it.
        rsync: path of the executable.
        job: what it is to do.
        directory: open descriptor of the part of the mirror.
        client_id: the client's.
        on_over: called once, when rsync is gone and all there was to say is said.

    Raises:
        OSError: rsync cannot be started.
    """

    def __init__(
        self,
        link: Link,
        channel: int,
        rsync: str,
        job: Job,
        directory: int,
        client_id: str,
        on_over: Callable[[Transfer], None],
    ) -> None:
        self.link = link
        self.channel = channel
        self.project = job.project
        self.client_id = client_id
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._window = min(link.peer.limits.window, m.WINDOW_TRANSFER)
        self._piece = min(link.peer.limits.data, PIECE)
        self._status: int | None = None
        self._over = False
        self._silent = False  # nothing is said any more
        self._dropped = False  # what comes from either side is thrown away
        # stdin
        self._queue: deque[memoryview] = deque()
        self._received = 0
        self._taken = 0
        self._acked = 0  # as the client was told
        self._ended = False
        self._writing = False
        # stdout
        self._sent = 0
        self._sent_acked = 0
        self._reading = False
        # stderr
        self._errors = bytearray()
        self._errors_sent = 0
        self._rsync = RsyncServer(rsync, job, directory, self._on_error, self._on_ended)
        self._read(True)

    # -- from the client ---------------------------------------------------------------

    def data(self, message: m.Data) -> None:
        """Take what is for rsync's stdin.

        Raises:
            ProtocolError: it is not what comes next, or more than the client may send.
        """
        if self._dropped:
            return
        if message.offset != self._received or self._ended:
            raise ProtocolError(
                f"stdin of a transfer at {message.offset}, which "
                + (f"ended at {self._received}" if self._ended else f"goes on at {self._received}")
            )
        self._received += len(message.data)
        if self._received - self._acked > m.WINDOW_TRANSFER:
            raise ProtocolError(
                f"{self._received - self._acked} bytes of a transfer are on their way, "
                f"{m.WINDOW_TRANSFER} are allowed"
            )
        if message.data:
            self._queue.append(memoryview(message.data))
            if not self._writing:
                self._write()

    def end_stdin(self, offset: int) -> None:
        """rsync's stdin ends at ``offset``.

        Raises:
            ProtocolError: it does not.
        """
        if self._dropped:
            return
        if offset != self._received:
            raise ProtocolError(f"stdin of a transfer ends at {self._received}, not {offset}")
        self._ended = True
        if not self._queue:
            self._close_stdin()

    def ack(self, offset: int) -> None:
        """Take the client's acknowledgement and go on.

        Raises:
            ProtocolError: bytes are acknowledged that were never sent.
        """
        if offset > self._sent:
            raise ProtocolError(f"offset {offset} acknowledged, only {self._sent} sent")
        if offset > self._sent_acked:
            self._sent_acked = offset
            self.pump()

    def cancel(self) -> None:
        """End rsync, which keeps what is unfinished; only its end is told any more."""
        if self._over or self._dropped:
            return
        self._dropped = True
        self._rsync.terminate()
        self._close_stdin()
        self._skip()
        self._errors.clear()
        if self._status is not None:
            self._close_stdout()
            self._finish()
        elif not self._rsync.stdout.closed:
            self._read(True)  # it may have something to say before it can end

    def abandon(self) -> None:
        """The same, and nothing is told any more."""
        self._silent = True
        self.cancel()

    def kill(self) -> None:
        """End rsync at once."""
        self._rsync.kill()

    def pump(self) -> None:
        """Send what there is, as far as the window and the connection's buffer allow."""
        if self._over:
            return
        self._say_errors()
        if not self._reading:
            self._read_stdout()
        self._finish()

    # -- stdin -------------------------------------------------------------------------

    def _write(self) -> None:
        """Give rsync what its pipe takes."""
        rsync = self._rsync
        while self._queue:
            if rsync.stdin.closed:
                self._skip()
                break
            try:
                count = os.writev(rsync.stdin.fileno(), list(islice(self._queue, MOST_PIECES)))
            except BlockingIOError:
                break
            except BrokenPipeError:  # it does not want more; why, it says itself
                self._close_stdin()
                continue
            self._taken += count
            while count:
                piece = self._queue[0]
                if count < len(piece):
                    self._queue[0] = piece[count:]
                    break
                count -= len(piece)
                self._queue.popleft()
        self._want_write(bool(self._queue))
        if self._ended and not self._queue:
            self._close_stdin()
        if self._taken - self._acked >= ACK_EARLY:
            self._send_ack()

    def _skip(self) -> None:
        self._taken = self._received
        self._queue.clear()

    def _want_write(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._rsync.stdin.fileno(), self._write)
            else:
                self._loop.remove_writer(self._rsync.stdin.fileno())

    def _close_stdin(self) -> None:
        if not self._rsync.stdin.closed:
            self._want_write(False)
            self._rsync.stdin.close()

    def _send_ack(self) -> None:
        if self._audible and not self._dropped and self._taken > self._acked:
            self._acked = self._taken
            self.link.send(m.Ack(self.channel, self._acked))

    # -- stdout ------------------------------------------------------------------------

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._rsync.stdout.fileno(), self._on_stdout)
            else:
                self._loop.remove_reader(self._rsync.stdout.fileno())

    def _on_stdout(self) -> None:
        self._read_stdout()
        self._finish()

    def _read_stdout(self) -> None:
        """Send a burst of what rsync has written; wait for what is in the way of more."""
        rsync = self._rsync
        if rsync.stdout.closed:
            return
        for _ in range(BURST):
            room = self._room()
            if room == 0:
                self._read(False)
                return
            buffer = bytearray(HEADROOM + room)
            try:
                with memoryview(buffer) as view, view[HEADROOM:] as piece:
                    count = os.readv(rsync.stdout.fileno(), [piece])
            except BlockingIOError:
                break
            if count == 0:
                self._close_stdout()
                return
            if self._dropped:
                continue
            if count < room:
                del buffer[HEADROOM + count :]
            try:
                self.link.send_data(self.channel, Stream.STDOUT, self._sent, buffer)
            except ConnectionLost:  # the link tells its owner
                self.abandon()
                return
            self._sent += count
        self._read(True)

    def _room(self) -> int:
        """Return how much of stdout may be sent now; nothing rather than a crumb."""
        if self._dropped:
            return self._piece
        if not self.link.writable:
            return 0
        room = min(self._window - (self._sent - self._sent_acked), self._piece)
        return room if room >= min(SMALL_PIECE, self._piece, self._window) else 0

    def _close_stdout(self) -> None:
        if not self._rsync.stdout.closed:
            self._read(False)
            self._rsync.stdout.close()

    # -- stderr ------------------------------------------------------------------------

    def _on_error(self, said: bytes) -> None:
        if not self._dropped:
            self._errors += said
            self._say_errors()

    def _say_errors(self) -> None:
        while self._errors and self._audible and self.link.writable:
            piece = bytes(self._errors[: self._piece])
            del self._errors[: self._piece]
            message = m.Data(self.channel, Stream.STDERR, self._errors_sent, piece)
            self._errors_sent += len(piece)
            self.link.send(message)

    # -- the end -----------------------------------------------------------------------

    @property
    def _audible(self) -> bool:
        return not self._silent and self.link.open

    def _on_ended(self, status: int) -> None:
        self._status = status
        self._close_stdin()
        self._skip()
        if self._dropped:
            self._close_stdout()  # nobody is left who could write to it
        self._finish()

    def _finish(self) -> None:
        """Be over, if rsync is gone and everything was said."""
        if self._over or self._status is None or not self._rsync.stdout.closed:
            return
        if self._audible and self._errors:
            return
        self._over = True
        self._send_ack()
        if self._audible:
            self.link.send(m.TransferEnded(channel=self.channel, status=self._status))
        self._on_over(self)
