"""The daemon's end of a supervisor's socket: frames out, events in, never blocking.

The supervisor is another process that outlives this one. Frames sent before the socket is
connected wait, and so do those that a supervisor does not read.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from psync.supervisor import wire
from psync.supervisor.record import connect_path

MOST_WAITING = 4 * 1024 * 1024
"""Bytes that may wait for one supervisor, many times what the window of stdin lets through. Only a
client that sends signals without end to a supervisor that hangs gets there; then frames are
dropped. Stdin that is dropped is noticed by the supervisor, and sent again."""

logger = logging.getLogger("psync.supervised")


def _ignore(*_arguments: object) -> None:
    return None


class SupervisorLink(asyncio.Protocol):
    """A connection to one run's supervisor.

    Attributes:
        on_frame: called with every frame the supervisor sends.
        on_closed: called once when the supervisor has ended the connection, or garbage came from
            it; not after ``close``, and not if there never was a connection.

    One object is one connection; to connect again, make another.
    """

    def __init__(self) -> None:
        self.on_frame: Callable[[wire.Frame], None] = _ignore
        self.on_closed: Callable[[], None] = _ignore
        self._decoder = wire.FrameDecoder(wire.FROM_SUPERVISOR)
        self._transport: asyncio.WriteTransport | None = None
        self._waiting = bytearray()
        self._dropping = False
        self._closed = False

    async def connect(self, run_directory: str) -> None:
        """Connect to the supervisor of the run in that directory.

        Raises:
            OSError: nobody listens there.

        Cancellation leaves nothing open.
        """
        path, fd = connect_path(run_directory)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, path)
        finally:
            if fd is not None:
                os.close(fd)

    def send(self, frame: bytes) -> None:
        """Send an encoded frame; dropped silently once the supervisor is gone.

        Beyond ``MOST_WAITING`` it is dropped too, which is logged once.
        """
        transport = self._transport
        waiting = len(self._waiting) if transport is None else transport.get_write_buffer_size()
        if waiting + len(frame) > MOST_WAITING:
            if not self._dropping:
                self._dropping = True
                logger.error("a supervisor does not read; what is sent to it is dropped")
        elif transport is not None:
            transport.write(frame)
        elif not self._closed:
            self._waiting += frame

    def close(self) -> None:
        """Close the connection for good; the run goes on. What is sent from now on is dropped."""
        self._closed = True
        self._waiting.clear()
        if self._transport is not None:
            self._transport.close()

    # -- what asyncio calls ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        if self._closed:
            transport.close()
            return
        self._transport = transport
        if self._waiting:
            transport.write(bytes(self._waiting))
            self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._decoder.feed(data)
        except wire.WireError:
            logger.exception("a supervisor sent garbage; its connection is dropped")
            if self._transport is not None:
                self._transport.close()
            return
        for frame in frames:
            self.on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            self.on_closed()
