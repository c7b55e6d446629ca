"""Ctrl-C and its relatives while a run is going on.

    1st Ctrl-C   SIGINT to the run's process group
    2nd          SIGTERM to every process of the run
    3rd          SIGKILL until none is left; output that is not written out yet is dropped, since
                 its reader may be what everything waits for
    4th          psync leaves, if the daemon has not answered by then

SIGTERM, SIGHUP and SIGQUIT go to the run by name, every time. Without a connection there is nobody
to send anything to, so any of them makes psync leave; the run goes on for its grace.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from psync.client.run import RemoteRun
from psync.errors import ConnectionLost, Interrupted

PATIENCE = 2.0
"""Seconds after the first Ctrl-C in which nothing is said: the program may be busy handling it."""

LAST_PATIENCE = 5.0
"""Seconds the daemon has to end a run that is to be killed, before psync leaves without it."""


class Ladder:
    """Turns signals to this process into requests for a run.

    Args:
        run: a run that has begun.
        say: told one line for people each time something happens that they should know.
        on_kill: called when the run is killed.
        hint: what to type to go on with the run, told when psync leaves without it.

    Attributes:
        leaving: done, with ``Interrupted``, when psync is to end without the run's exit status.
    """

    def __init__(
        self,
        run: RemoteRun,
        say: Callable[[str], None],
        on_kill: Callable[[], None] = lambda: None,
        hint: Callable[[], str] = lambda: "",
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.leaving: asyncio.Future[None] = self._loop.create_future()
        self._run = run
        self._say = say
        self._on_kill = on_kill
        self._hint = hint
        self._presses = 0
        self._killed_at = 0.0
        self._reminder: asyncio.TimerHandle | None = None

    def handle(self, number: signal.Signals) -> None:
        """Act on a signal; called in the event loop."""
        if self.leaving.done():
            return
        try:
            if number is signal.SIGINT:
                self._interrupt()
            else:
                self._run.signal(number.name)
        except ConnectionLost:
            self._leave(f"left while there was no connection; {fate(self._run)}")

    def close(self) -> None:
        """Say nothing more."""
        if self._reminder is not None:
            self._reminder.cancel()

    def _interrupt(self) -> None:
        self._presses += 1
        self.close()
        if self._presses == 1:
            self._run.signal("SIGINT")
            self._reminder = self._loop.call_later(
                PATIENCE, self._say, "sent SIGINT; Ctrl-C again stops the whole run"
            )
        elif self._presses == 2:
            self._run.stop()
            self._say("sent SIGTERM to the whole run; Ctrl-C again kills it")
        elif self._presses == 3:
            self._run.stop(kill=True)
            self._killed_at = self._loop.time()
            self._say("killing the whole run")
            self._on_kill()
            self._reminder = self._loop.call_later(
                LAST_PATIENCE, self._say, "the daemon has not answered; Ctrl-C again leaves"
            )
        elif self._loop.time() - self._killed_at >= LAST_PATIENCE:
            self._leave(f"the daemon does not answer; {fate(self._run)}")

    def _leave(self, message: str) -> None:
        self.close()
        self.leaving.set_exception(Interrupted(message, hint=self._hint()))
        self.leaving.exception()  # whether anybody waits for it or not


def fate(run: RemoteRun) -> str:
    """Return in words what becomes of a run that nobody is attached to."""
    if not run.id:
        return "if the run was started, it goes on there"
    if run.grace is None:
        return "the run goes on there"
    return f"the run goes on there for up to {run.grace:.0f} seconds"
