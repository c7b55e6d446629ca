"""A sync that starts before there is a connection. No asyncio.

Where an earlier run has left behind what it takes (an open ssh connection, a mirror, the facts
about the host), rsync can be at work while this process still imports what the connection needs.
What it assumed is checked once the daemon has spoken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec

from psync.client.hosts import shared_connection
from psync.client.targets import TargetFiles, TargetSpec
from psync.errors import ToolMissing
from psync.model import HostFacts
from psync.paths import ClientPaths
from psync.sync.endpoint import Endpoint, LocalEndpoint, SSHEndpoint
from psync.sync.engine import Sync
from psync.sync.lock import Holder
from psync.sync.machine import fits
from psync.sync.plan import SyncPlan
from psync.sync.rsync import Progress
from psync.text import printable


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


class EarlySync(msgspec.Struct, frozen=True):
    """A sync that was started on what was known.

    Attributes:
        sync: started.
        facts: what it assumes of the host.
    """

    sync: Sync
    facts: HostFacts

    def fits(self, facts: HostFacts) -> bool:
        """Whether the daemon's own word leaves what was assumed standing."""
        return _assumed(self.facts) == _assumed(facts)


def _assumed(facts: HostFacts) -> tuple[object, ...]:
    return (facts.projects_root, facts.rsync, facts.system, facts.machine)


def endpoint_of(spec: TargetSpec, paths: ClientPaths, facts: HostFacts) -> Endpoint:
    """Return where a target's mirrors are."""
    if spec.local:
        return LocalEndpoint(facts.projects_root)
    return SSHEndpoint(
        shared_connection(spec, paths),
        projects_root=facts.projects_root,
        rsync=facts.rsync,
        host=spec.name,
    )


def new_sync(
    plan: SyncPlan,
    endpoint: Endpoint,
    paths: ClientPaths,
    reports: SyncReports,
    facts: HostFacts,
    *,
    dry: bool = False,
) -> Sync:
    """Return a sync that is not started; a ``dry`` one only finds out what it would do."""
    return Sync(
        plan,
        endpoint=endpoint,
        state=paths.state,
        folds_case=facts.system == "Darwin",
        dry=dry,
        command=printable(" ".join(sys.argv)),
        on_progress=reports.progress,
        on_warning=reports.warning,
        on_wait=reports.waiting,
    )


def begin(
    plan: SyncPlan, spec: TargetSpec, paths: ClientPaths, reports: SyncReports
) -> EarlySync | None:
    """Start the sync now if everything it takes is there; return None if not.

    Raises:
        PsyncError: as ``Sync.start``. Nothing is running then.
    """
    files = TargetFiles(paths, spec.name)
    record = files.read()
    if record is None or not files.knows_mirror(plan.project.id, record.facts.projects_root):
        return None
    if not fits(plan, record.facts):
        return None  # another host may be there by now, so the daemon's own word decides
    endpoint = endpoint_of(spec, paths, record.facts)
    if not endpoint.ready():
        return None
    try:
        endpoint.check()
    except ToolMissing:
        return None  # so it was; the daemon says whether it still is
    sync = new_sync(plan, endpoint, paths, reports, record.facts)
    sync.start()
    return EarlySync(sync, record.facts)
