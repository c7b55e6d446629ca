"""The supervisor's event loop: descriptors, named timers, signals. No threads, no queues.

A callback for a descriptor gets the poll events that came. ``poll`` and not ``epoll``: there are
seven descriptors at most, and every system has it.
"""

from __future__ import annotations

import os
import select
import signal
import time

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Callable


_LONGEST = 86400.0  # seconds; poll takes no more than 2**31 ms, and a timer may be further away


class Loop:
    """Waits for what was asked for and calls back. Times are in seconds, on the monotonic clock."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: dict[str, tuple[float, Callable[[], None]]] = {}
        self._wakeup = -1
        self._signals: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback`` whenever ``fd`` has one of ``events``, an error or a hang-up.

        With ``events`` 0 it is only called for the latter two.
        """
        known = self._watched.get(fd)
        if known is None or known[0] != events:
            self._poll.register(fd, events)
        self._watched[fd] = (events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; to be called before it is closed. Nothing happens if it is not watched."""
        if self._watched.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_in(self, name: str, seconds: float, callback: Callable[[], None]) -> None:
        """Call once after ``seconds``; a timer of that name that is earlier stays as it is."""
        due = time.monotonic() + seconds
        known = self._timers.get(name)
        if known is None or due < known[0]:
            self._timers[name] = (due, callback)

    def cancel(self, name: str) -> None:
        """Forget the timer of that name, if there is one."""
        self._timers.pop(name, None)

    def planned(self, name: str) -> bool:
        """Tell whether there is a timer of that name."""
        return name in self._timers

    def on_signal(self, signum: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` from the loop after that signal; several may become one call."""
        if self._wakeup < 0:
            self._wakeup, write = os.pipe()
            os.set_blocking(self._wakeup, False)
            os.set_blocking(write, False)
            signal.set_wakeup_fd(write, warn_on_full_buffer=False)
            self.watch(self._wakeup, select.POLLIN, self._on_wakeup)
        self._signals[signum] = callback
        signal.signal(signum, _nothing)

    def run_once(self) -> None:
        """Wait for the next descriptor or timer and serve all that are due."""
        timeout = None
        if self._timers:
            left = min(due for due, _ in self._timers.values()) - time.monotonic()
            timeout = int(min(left, _LONGEST) * 1000) + 1 if left > 0 else 0
        for fd, events in self._poll.poll(timeout):
            watched = self._watched.get(fd)  # an earlier callback may have closed it
            if watched is not None:
                watched[1](events)
        if self._timers:
            now = time.monotonic()
            for name, (due, callback) in tuple(self._timers.items()):
                if due <= now and self._timers.get(name) == (due, callback):
                    del self._timers[name]
                    callback()

    def _on_wakeup(self, events: int) -> None:
        for signum in set(os.read(self._wakeup, 4096)):
            callback = self._signals.get(signum)
            if callback is not None:
                callback()


def _nothing(signum: int, frame: object) -> None:
    """Stand in as handler: the wake-up descriptor carries the signal."""
