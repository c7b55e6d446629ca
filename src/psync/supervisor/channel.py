"""The daemon's way in: the listening socket ``ctl`` and the one connection that counts."""

from __future__ import annotations

import os
import select
import socket

from psync.supervisor import record
from psync.supervisor.loop import Loop
from psync.supervisor.wire import (
    FROM_DAEMON,
    Exited,
    Frame,
    FrameDecoder,
    Grew,
    StdinTaken,
    WireError,
)

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable

_GREW = Grew().encode()
_ACCEPT_PAUSE = 0.5  # seconds
_LAST_WORDS = 4  # reads, more than a socket's buffer holds


def listen(run_dir: str) -> socket.socket:
    """Bind and listen on ``ctl``, mode 0600; the process's directory is ``/`` afterwards.

    The address is relative, because there is not much room in one.

    Raises:
        OSError: there is one already, or the directory is not writable.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        os.chdir(run_dir)
        listener.bind(record.CTL)
        listener.listen(8)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.chdir("/")
    return listener


class Channel:
    """Talks with the daemon, whichever it is at the moment.

    What is sent is either said once (``send``) or a state of which the newest counts (``grew``,
    ``stdin_taken``), so a daemon that does not read costs no memory.

    Args:
        greet: makes the first frame of a connection.
        receive: gets each frame; a ``WireError`` that it raises closes the connection.
        lost: called after the connection has gone, or was replaced.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        *,
        greet: Callable[[], Frame],
        receive: Callable[[Frame], None],
        lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._greet = greet
        self._receive = receive
        self._lost = lost
        self._connection: socket.socket | None = None
        self._decoder = FrameDecoder(FROM_DAEMON)
        self._unsent = b""
        self._grew = False
        self._taken = 0
        self._told = 0
        self._leaving = False
        self._listen()

    def send(self, frame: Frame) -> None:
        """Send a frame now, or as soon as the daemon reads; nothing happens if there is none."""
        if self._connection is not None:
            self._unsent += frame.encode()
            self._flush()

    def update(self, *, grew: bool, stdin_taken: int) -> None:
        """Tell the daemon what is new, if it is. To be called once per turn of the loop."""
        self._grew |= grew
        self._taken = stdin_taken
        if self._connection is not None and (self._grew or stdin_taken != self._told):
            self._flush()

    def close(self) -> None:
        """Say ``Exited`` and close everything; waits up to a second for a daemon that is slow."""
        if self._connection is not None:
            self._connection.settimeout(1.0)
            try:
                self._connection.sendall(self._unsent + Exited().encode())
            except OSError:
                pass
            self._connection.close()
        self._listener.close()

    def _listen(self) -> None:
        self._loop.watch(self._listener.fileno(), select.POLLIN, self._on_accept)

    def _on_accept(self, events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:  # it is gone again
            return
        except OSError:  # no descriptor is free; it stays in line
            self._loop.unwatch(self._listener.fileno())
            self._loop.call_in("accept", _ACCEPT_PAUSE, self._listen)
            return
        self._hear_out()
        connection.setblocking(False)
        self._connection = connection
        self._decoder = FrameDecoder(FROM_DAEMON)
        self._grew = False
        self._told = self._taken
        self._loop.watch(connection.fileno(), select.POLLIN, self._on_ready)
        self.send(self._greet())

    def _on_ready(self, events: int) -> None:
        if events & select.POLLOUT:
            self._flush()
        if events & ~select.POLLOUT:
            self._on_readable()

    def _hear_out(self) -> None:
        """Drop the connection; a kill from a daemon that died right after it still counts."""
        if self._leaving:
            return  # an answer to one of those words cannot be said
        self._leaving = True
        try:
            for _ in range(_LAST_WORDS):
                self._on_readable()
        finally:
            self._leaving = False
        self._drop()

    def _on_readable(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            data = connection.recv(131072)
            if not data:
                self._drop()
                return
            for frame in self._decoder.feed(data):
                self._receive(frame)
                if self._connection is not connection:
                    return
        except BlockingIOError:
            return
        except (OSError, WireError):
            # Only of this connection: ``receive`` raises no OSError.
            self._drop()

    def _flush(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            while self._unsent or self._add_news():
                self._unsent = self._unsent[connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._hear_out()
            return
        wanted = select.POLLIN | (select.POLLOUT if self._unsent else 0)
        self._loop.watch(connection.fileno(), wanted, self._on_ready)

    def _add_news(self) -> bool:
        if self._taken != self._told:
            self._unsent += StdinTaken(self._taken).encode()
            self._told = self._taken
        if self._grew:
            self._unsent += _GREW
            self._grew = False
        return bool(self._unsent)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._loop.unwatch(connection.fileno())
            connection.close()
            self._unsent = b""
            self._lost()
