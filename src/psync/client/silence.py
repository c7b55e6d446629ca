"""A connection on which nothing is heard: asked, and then replaced, long before it counts as dead.

TCP repeats what was lost at growing intervals, so that a connection that survived an outage of ten
seconds may stay quiet for ten more after the network has healed. A new one works at once.

    silent for 3 s     the daemon is asked whether it is there
    silent for 5 s     another connection is tried beside it, about once a second; whichever is
                       heard first goes on
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from psync.errors import ConnectionLost, PsyncError
from psync.protocol.messages import Ping

if TYPE_CHECKING:
    from psync.transport.link import Link

PROBE_AFTER = 3.0
"""Seconds of silence after which the daemon is asked."""

SUSPECT_AFTER = 5.0
"""Seconds of silence after which another connection is tried."""

PAUSE = 1.0
"""Seconds between two attempts, shortened by up to half, at random."""


class Silence:
    """Watches over one connection at a time.

    Args:
        dial: makes another connection.
        replace: told of the silent connection and of the new one; False gives the new one up.
        worth_retrying: whether an error of ``dial`` is worth another attempt.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Link]],
        replace: Callable[[Link, Link], bool],
        worth_retrying: Callable[[PsyncError], bool],
    ) -> None:
        self._dial = dial
        self._replace = replace
        self._worth_retrying = worth_retrying
        self._task: asyncio.Task[None] | None = None

    def look(self, link: Link) -> None:
        """See how long nothing was heard; called about once a second."""
        if self._task is not None:
            return
        loop = asyncio.get_running_loop()
        silent = loop.time() - link.heard_at
        if silent >= SUSPECT_AFTER:
            self._task = loop.create_task(self._make_another(link, link.heard_at))
            self._task.add_done_callback(self._done)
        elif silent >= PROBE_AFTER:
            with suppress(ConnectionLost):
                link.send(Ping(0))

    def end(self) -> None:
        """Give up what is tried."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _make_another(self, old: Link, heard_at: float) -> None:
        while old.heard_at == heard_at:
            try:
                link = await self._dial()
            except PsyncError as error:
                if not self._worth_retrying(error):
                    return  # the silent connection has the last word
                await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                continue
            if old.heard_at != heard_at or not self._replace(old, link):
                link.close()
            return

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.result()  # a defect in here must not pass unseen
