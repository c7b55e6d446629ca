"""Notices that this machine was asleep, or that its clock was set.

Once a second three clocks are compared. A connection that slept for minutes looks alive until
somebody writes to it and waits; who knows that it slept makes another one at once.

    suspended       the clock that counts sleep (CLOCK_BOOTTIME) has gone further than the one that
                    does not (CLOCK_MONOTONIC)
    clock set, or   the wall clock has gone further, or less far, than either: a virtual machine
    machine frozen  that was paused learns of it only this way
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

INTERVAL = 1.0
"""Seconds between two looks at the clocks."""

JUMP = 3.0
"""Seconds by which clocks have to disagree. Clocks that are being slewed differ by milliseconds."""

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def boottime() -> float:
    """Return seconds on a clock that only goes forward and counts sleep, where there is one."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)


class Clocks(msgspec.Struct, frozen=True):
    """What the clocks showed at one moment, in seconds.

    Attributes:
        awake: since some moment, without sleep.
        boot: since some moment, with sleep.
        wall: since the epoch.
    """

    awake: float
    boot: float
    wall: float

    @classmethod
    def now(cls) -> Clocks:
        """Look at the clocks."""
        return cls(time.monotonic(), boottime(), time.time())

    def jump_since(self, before: Clocks) -> float:
        """Return by how many seconds the clocks have come apart since ``before``; 0 for little."""
        boot = self.boot - before.boot
        slept = boot - (self.awake - before.awake)
        moved = abs(self.wall - before.wall - boot)
        jump = max(slept, moved)
        return jump if jump > JUMP else 0.0


class ClockWatch:
    """Looks at the clocks once a second while it is started.

    Args:
        on_jump: called in the event loop with the seconds of a jump.
        on_tick: called at every look that found none.
        look: returns what the clocks show.
    """

    def __init__(
        self,
        on_jump: Callable[[float], None],
        on_tick: Callable[[], None] = lambda: None,
        look: Callable[[], Clocks] = Clocks.now,
    ) -> None:
        self._on_jump = on_jump
        self._on_tick = on_tick
        self._look = look
        self._last: Clocks | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, unless it is begun already."""
        if self._timer is None:
            self._last = self._look()
            self._arm()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def _tick(self) -> None:
        before, self._last = self._last, self._look()
        self._arm()
        jump = self._last.jump_since(before) if before is not None else 0.0
        if jump:
            self._on_jump(jump)
        else:
            self._on_tick()
