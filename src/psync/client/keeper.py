"""The daemon as the keeper of one mirror, for a sync that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, TypeVar

from psync.client.lifeline import Lifeline
from psync.errors import ConnectionLost, Interrupted, Refused
from psync.protocol.messages import (
    BeginSync,
    CheckMirror,
    EndSync,
    MirrorChecked,
    OpenProject,
)
from psync.sync.keeper import Checked, nameable
from psync.sync.project import Project

ATTEMPTS = 2
"""How often a request is sent if the connection is lost meanwhile. Saying any of them twice does no
harm."""

MOST_PAGES = 20
"""Answers of one check. Programs may write thousands of files of their own in a mirror, which are
told as well; more of it says that much happened there."""

NO_SEAL = "none"
"""The seal of no note."""

_T = TypeVar("_T")


class MirrorKeeper:
    """Keeps the mirror of one project. Made in the event loop, used from another thread.

    Args:
        lifeline: the connection to the daemon.
        project: whose mirror it is.
    """

    def __init__(self, lifeline: Lifeline, project: Project) -> None:
        self._lifeline = lifeline
        self._project = project
        self._loop = asyncio.get_running_loop()
        self._cancelled = False
        self._waiting: Future[Any] | None = None

    def check(self, seal: str) -> Checked:
        """Return how the mirror differs from the note with this seal."""
        if "seal" not in self._lifeline.features:
            return Checked()
        changed: list[bytes] = []
        for _ in range(MOST_PAGES):
            try:
                said = self._ask(partial(self._page, seal, len(changed)))
            except Refused:
                return Checked()  # ``begin`` is refused as well, in words that fit better
            changed += said.changed
            if not (said.known and said.more and said.changed):
                break
        return Checked(known=said.known, changed=tuple(changed), many=said.more)

    def begin(self) -> None:
        """Have the mirror made unless it is there, and no run started in it from now on."""
        self._ask(lambda: open_project(self._lifeline, self._project))
        if "seal" in self._lifeline.features:
            self._ask(
                lambda: self._lifeline.request(
                    lambda number: BeginSync(request=number, project=self._project.id)
                )
            )

    def end(self, base: str | None, names: tuple[bytes, ...]) -> str:
        """The mirror is whole; return the seal of a new note of it."""
        if "seal" not in self._lifeline.features:
            return ""
        listed = names if nameable(names) else ()
        seal = base or ""
        if base is not None and (not base or len(listed) < len(names)):
            seal = NO_SEAL  # of what goes on from no note, or cannot be named, there is none
        said = self._ask(
            lambda: self._lifeline.request(
                lambda number: EndSync(
                    request=number, project=self._project.id, base=seal, names=listed
                )
            )
        )
        return said.seal

    def cancel(self) -> None:
        """Have whatever blocks raise ``Interrupted``."""
        self._cancelled = True
        waiting = self._waiting
        if waiting is not None:
            waiting.cancel()

    def _ask(self, request: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        self._waiting = waiting = asyncio.run_coroutine_threadsafe(self._send(request), self._loop)
        if self._cancelled:
            waiting.cancel()
        try:
            return waiting.result()
        except CancelledError:
            raise Interrupted("interrupted while syncing; nothing was started") from None
        finally:
            self._waiting = None

    async def _page(self, seal: str, skip: int) -> MirrorChecked:
        return await self._lifeline.request(
            lambda number: CheckMirror(
                request=number, project=self._project.id, seal=seal, skip=skip
            )
        )

    async def _send(self, request: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        for _ in range(ATTEMPTS - 1):
            try:
                return await request()
            except ConnectionLost:
                await self._lifeline.ensure()
        return await request()


async def open_project(lifeline: Lifeline, project: Project) -> None:
    """Have the daemon make a project's mirror, with nothing in it yet, unless it is there.

    Raises:
        Refused: it is another client's, or this one may not write to it.
        DestinationError: it cannot be made.
        PsyncError: as ``Lifeline.request``.
    """
    host = socket.gethostname()[:200]
    await lifeline.request(
        lambda number: OpenProject(
            request=number, project=project.id, source=project.root, host=host
        )
    )
