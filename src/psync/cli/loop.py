"""The event loop of a command, and the signals that may end it.

Before the loop a signal raises ``Interrupted`` where it strikes; in the loop it goes to whoever
``route`` named last, at first to the cancellation of the command. Signals that were ignored when
psync was started (``nohup``, background jobs of a plain shell) stay ignored.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from psync.errors import Interrupted

STARTED = 1.0
"""Seconds after which a command counts as started, and the garbage collector works again."""

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def catch_signals() -> None:
    """Have the signals that end psync raise ``Interrupted`` in the main thread."""
    for number in HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(f"interrupted by {signal.Signals(number).name}; nothing was started")


def _collect() -> None:
    gc.freeze()  # what start-up made stays; it need not be looked at again and again
    gc.enable()


class Routed:
    """Signals that somebody hands on.

    Attributes:
        route: who gets them, called in the loop.
    """

    def __init__(self) -> None:
        self.route: Callable[[signal.Signals], None] = lambda _number: None


class Signals(Routed):
    """Hands this process's signals to one receiver at a time. Made inside the loop."""

    def __init__(self) -> None:
        import asyncio

        super().__init__()
        loop = asyncio.get_running_loop()
        for number in HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._take, number)

    def _take(self, number: signal.Signals) -> None:
        self.route(number)


def run(
    command: Callable[[Signals], Coroutine[Any, Any, int]],
    phase: Callable[[], str],
    outcome: Callable[[], str] = lambda: "nothing was started",
) -> int:
    """Run a command's coroutine to its end; return its exit status.

    Args:
        command: gets the signals; cancelled by one as long as it does not route them elsewhere.
        phase: says what is going on, for the message when it is cancelled.
        outcome: says what that leaves behind, for the same message.

    Raises:
        Interrupted: a signal cancelled it.
    """
    import asyncio
    import logging

    if not os.environ.get("PSYNC_DEBUG"):
        # What asyncio and the TLS layer log about a failed connection, its error says better.
        logging.getLogger().addHandler(logging.NullHandler())

    async def guarded() -> int:
        signals = Signals()
        task = asyncio.current_task()
        assert task is not None
        caught: list[signal.Signals] = []

        def cancel(number: signal.Signals) -> None:
            caught.append(number)
            task.cancel()

        signals.route = cancel
        asyncio.get_running_loop().call_later(STARTED, _collect)
        try:
            return await command(signals)
        except asyncio.CancelledError:
            raise Interrupted(f"interrupted while {phase()}; {outcome()}") from None

    return asyncio.run(guarded())
