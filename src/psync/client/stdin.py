"""This process's stdin, forwarded to a run: read only as fast as the run takes it.

What is not read stays in the pipe, so a producer on this side is slowed down as by a local program.
A terminal is read further, for the sake of escape keys: what the run does not take yet waits here.
``O_NONBLOCK`` is never set: it belongs to the open file, which other processes share.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from psync.client.escape import Escapes, Key
from psync.client.run import RemoteRun
from psync.protocol.messages import MAX_DATA, WINDOW_STDIN

LEAST_ROOM = 32 * 1024
"""Reading goes on once so many bytes may be sent, so that a slow reader there does not make for
thousands of small messages."""

MOST_TYPED = 64 * 1024
"""Bytes that may wait here where escape keys are looked for; then reading stops, and so do they."""


class StdinPump:
    """Reads a descriptor and sends what it reads to a run, up to and with its end.

    Args:
        run: a run that has begun; its ``on_stdin_room`` is taken over.
        fd: the descriptor; stays open.
        escapes: finds escape keys in what is typed. Then what nobody takes, because another client
            holds stdin or the program closed it, is dropped.
        on_key: called with each of them, in their order among what is typed.
    """

    def __init__(
        self,
        run: RemoteRun,
        fd: int = 0,
        *,
        escapes: Escapes | None = None,
        on_key: Callable[[Key], None] = lambda _key: None,
    ) -> None:
        self._run = run
        self._fd = fd
        self._escapes = escapes
        self._on_key = on_key
        self._loop = asyncio.get_running_loop()
        self._pollable = True
        self._watching = False
        self._scheduled: asyncio.Handle | None = None
        self._typed = bytearray()
        self._ended = False
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
        if self._escapes is not None:
            self._send_typed()
            ready = len(self._typed) < MOST_TYPED and not self._ended
        elif self._run.stdin_closed:
            self.stop()
            return
        else:
            ready = self._run.stdin_room >= min(LEAST_ROOM, WINDOW_STDIN)
        if self._done:
            return
        if ready:
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
        room = self._run.stdin_room if self._escapes is None else MOST_TYPED - len(self._typed)
        try:
            data = os.read(self._fd, min(room, MAX_DATA))
        except (BlockingIOError, InterruptedError):
            return  # somebody else read it, or made it non-blocking
        except OSError:
            data = b""  # the terminal is gone, or it is a directory: nothing more will come
        if self._escapes is not None:
            self._on_typed(self._escapes, data)
        elif data:
            self._run.send_stdin(data)
            self._update()
        else:
            self._run.close_stdin()
            self.stop()

    # -- with escape keys -----------------------------------------------------------------------

    def _on_typed(self, escapes: Escapes, data: bytes) -> None:
        if not data:
            self._ended = True
            self._typed += escapes.end()
        for part in escapes.feed(data):
            self._typed += part.data
            self._send_typed()
            if part.key is not None:
                self._on_key(part.key)
                if self._done:
                    return
        self._update()

    def _send_typed(self) -> None:
        """Send what was typed as far as there is room; drop it where nobody takes it."""
        run = self._run
        if run.stdin_closed or not (run.holds_stdin or run.waits_for_stdin):
            self._typed.clear()
        while self._typed and run.stdin_room:
            piece = bytes(self._typed[: run.stdin_room])
            del self._typed[: len(piece)]
            run.send_stdin(piece)
        if self._ended and not self._typed:
            run.close_stdin()
            self.stop()
