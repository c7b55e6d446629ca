"""What stands between a target and the engine of a sync. No asyncio.

A sync looks at the files here while this process still imports what the connection needs; where the
mirror is, it is told once there is a connection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from psync.paths import ClientPaths
from psync.sync.engine import Sync
from psync.sync.lock import Holder
from psync.sync.plan import SyncPlan
from psync.sync.rsync import Progress
from psync.sync.source import Source
from psync.text import printable

if TYPE_CHECKING:
    from psync.sync.clean import Surplus


class SyncReports(msgspec.Struct, frozen=True):
    """Who is told what while a sync goes on; called from the thread that waits for it.

    Attributes:
        progress: about once a second while data flows.
        warning: for each thing that is left out.
        waiting: once, if another process is syncing the same project.
    """

    progress: Callable[[Progress], None] | None = None
    warning: Callable[[str], None] | None = None
    waiting: Callable[[Holder | None], None] | None = None


def new_sync(
    plan: SyncPlan,
    paths: ClientPaths,
    reports: SyncReports,
    *,
    dry: bool = False,
    source: Source | None = None,
    changed: Collection[bytes] | None = None,
    clean: Callable[[Surplus], bool] | None = None,
) -> Sync:
    """Return a sync that is told later where the mirror is.

    Args:
        plan: what to send.
        paths: the client's directories.
        reports: who is told how it goes.
        dry: only find out what it would do.
        source: what earlier syncs of this process know of the files.
        changed: what may have changed since, as absolute paths; None looks at everything.
        clean: says whether what the mirror holds besides is removed, once that is known; None
            leaves it there.
    """
    return Sync(
        plan,
        state=paths.state,
        dry=dry,
        source=source,
        changed=changed,
        clean=clean,
        command=printable(" ".join(sys.argv)),
        on_progress=reports.progress,
        on_warning=reports.warning,
        on_wait=reports.waiting,
    )
