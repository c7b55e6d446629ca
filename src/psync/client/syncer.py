"""Many syncs of one plan by one process, such as ``psync watch`` makes.

What the files here were like is remembered from one to the next, so that a sync that is told what
changed looks at that only.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Iterable

from psync.client.syncing import SyncReports, new_sync
from psync.client.threads import in_thread
from psync.errors import PsyncError
from psync.paths import ClientPaths
from psync.sync.engine import Sync
from psync.sync.plan import SyncPlan
from psync.sync.rsync import Summary
from psync.sync.source import Source

Aim = Callable[[Sync], Awaitable[None]]
"""Connects, and tells a sync where the mirror is."""


class Syncer:
    """Syncs one plan again and again. Made by ``Target.syncer``.

    Args:
        plan: what to send.
        paths: the client's directories.
        reports: who is told how it goes.
        aim: see ``Aim``.
    """

    def __init__(self, plan: SyncPlan, paths: ClientPaths, reports: SyncReports, aim: Aim) -> None:
        self._plan = plan
        self._paths = paths
        self._reports = reports
        self._aim = aim
        self._source = Source(plan, os.environ)
        self._last: Sync | None = None
        self._ready: Sync | None = None
        self._failed = False  # the last one: nobody knows what it has missed

    async def get_ready(self, changed: Collection[bytes]) -> None:
        """Have rsync started while changes are settling; ``sync`` has to follow, or ``close``.

        What fails is tried again by ``sync``. Cancellation leaves what ``close`` ends.

        Args:
            changed: absolute paths that have changed so far.
        """
        if self._ready is not None:
            return
        sync = self._ready = new_sync(
            self._plan, self._paths, self._reports, source=self._source, changed=()
        )
        try:
            await self._aim(sync)
            await in_thread(lambda: sync.get_ready(changed), sync.cancel)
        except PsyncError:
            await self.close()

    async def close(self) -> None:
        """End what ``get_ready`` has started, if it is of no use."""
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.cancel()
            await in_thread(ready.close, lambda: None)

    async def sync(self, changed: Collection[bytes] | None = None) -> Summary:
        """Bring the mirror up to date.

        Args:
            changed: absolute paths that may have changed since the last call; None looks at all.

        Raises:
            PsyncError: as ``Target.sync``. The next call looks at everything.

        Cancellation ends rsync. Then, as after an error, every file in the mirror is the old one or
        the whole new one.
        """
        sync, self._ready = self._ready, None
        known = sync is not None
        if sync is None:
            sync = new_sync(self._plan, self._paths, self._reports, source=self._source)
        if self._failed:
            changed = None
        self._failed = True
        sync.expect(changed)
        try:
            if changed is None:
                sync.begin_looking()
            if not known:
                await self._aim(sync)
            summary = await in_thread(sync.wait, sync.cancel)
        finally:
            sync.close()
        self._failed = False
        if not summary.skipped:
            self._last = sync
        return summary

    def sent(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return which of some absolute paths are sent, as far as ``sync`` has seen them."""
        return [path for path in paths if self._source.holds(path)]

    async def note(self) -> None:
        """Write down what the last sync did, for the next process. Worth doing when there is time:
        without it the next process compares everything.

        Raises:
            SyncError: it cannot be written.
        """
        last, self._last = self._last, None
        if last is not None:
            await in_thread(last.note, lambda: None)
