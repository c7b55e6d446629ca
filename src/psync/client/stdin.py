"""This process's stdin, forwarded to a run: read only as fast as the run takes it.

What is not read stays in the pipe, so a producer on this side is slowed down as by a local program.
``O_NONBLOCK`` is never set: it belongs to the open file, which other processes share.
"""

from __future__ import annotations

import asyncio
import os

from psync.client.run import RemoteRun
from psync.protocol.messages import MAX_DATA, WINDOW_STDIN

LEAST_ROOM = 32 * 1024
"""Reading goes on once so many bytes may be sent, so that a slow reader there does not make for
thousands of small messages."""


class StdinPump:
    """Reads a descriptor and sends what it reads to a run, up to and with its end.

    Args:
        run: a run that has begun; its ``on_stdin_room`` is taken over.
        fd: the descriptor; stays open.
    """

    def __init__(self, run: RemoteRun, fd: int = 0) -> None:
        self._run = run
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._pollable = True
        self._watching = False
        self._scheduled: asyncio.Handle | None = None
        self._done = False

    def start(self) -> None:
        """Begin; from now on everything happens in the event loop."""
        self._run.on_stdin_room(self._update)
        self._update()

    def stop(self) -> None:
        """Read nothing more; what was sent stays sent."""
        self._done = True
        self._run.on_stdin_room(lambda: None)
        self._unwatch()

    def _update(self) -> None:
        """Read or wait, as the room for more has it."""
        if self._done:
            return
        if self._run.stdin_closed:
            self.stop()
        elif self._run.stdin_room >= min(LEAST_ROOM, WINDOW_STDIN):
            self._watch()
        else:
            self._unwatch()

    def _watch(self) -> None:
        if self._watching or self._scheduled is not None:
            return
        if self._pollable:
            try:
                self._loop.add_reader(self._fd, self._read)
            except PermissionError:  # epoll: regular files and /dev/null are always readable
                self._pollable = False
            else:
                self._watching = True
                return
        self._scheduled = self._loop.call_soon(self._read)

    def _unwatch(self) -> None:
        if self._watching:
            self._loop.remove_reader(self._fd)
            self._watching = False
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def _read(self) -> None:
        self._scheduled = None
        try:
            data = os.read(self._fd, min(self._run.stdin_room, MAX_DATA))
        except (BlockingIOError, InterruptedError):
            return  # somebody else read it, or made it non-blocking
        except OSError:
            data = b""  # the terminal is gone, or it is a directory: nothing more will come
        if data:
            self._run.send_stdin(data)
            self._update()
        else:
            self._run.close_stdin()
            self.stop()
