"""Bringing files of a mirror back, over a target that is connected for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psync.client.syncing import SyncReports
from psync.client.threads import in_thread
from psync.paths import ClientPaths
from psync.sync.pull import Pull, Pulled
from psync.sync.pullplan import PullPlan, make_destination

if TYPE_CHECKING:
    from psync.client.target import Target


async def pull(
    target: Target,
    plan: PullPlan,
    paths: ClientPaths,
    *,
    dry: bool = False,
    reports: SyncReports | None = None,
) -> Pulled:
    """Carry a pull out, connecting first if need be.

    Args:
        target: where the mirror is.
        plan: what to bring and where to; see ``check_destination``.
        paths: the client's directories.
        dry: bring nothing, and only find out what would be brought.
        reports: who is told how it goes.

    Raises:
        UsageError: the destination cannot be made.
        PsyncError: as ``Pull.wait`` and ``Target.open``.

    Cancellation ends rsync. Files that had arrived whole by then are in their places.
    """
    tell = reports or SyncReports()
    endpoint = await target.endpoint()
    if not dry:
        make_destination(plan)
    work = Pull(
        plan,
        endpoint,
        state=paths.state,
        dry=dry,
        on_progress=tell.progress,
        on_warning=tell.warning,
    )
    return await in_thread(work.wait, work.cancel)
