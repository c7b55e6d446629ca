"""A whole sync: the lock, a look at both sides, the transfers, in this order.

    sync = Sync(plan, state=state)
    sync.begin_looking()         # returns at once; connecting can go on meanwhile
    …
    sync.to(endpoint, keeper)
    summary = sync.wait()

Where the daemon's note of the mirror still holds and nothing changed here, no rsync is started;
where little changed, only that is sent. Between the keeper's ``begin`` and ``end`` no run starts in
the mirror, so what is left of a sync that broke is never run.

Nothing here is asyncio; from a coroutine, run ``wait`` in an executor and call ``cancel`` when
cancelled.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from psync.errors import ConnectionLost, Interrupted, SSHError
from psync.sync.blame import DiskFull, FilesVanished
from psync.sync.delivery import Delivery, Record
from psync.sync.endpoint import Endpoint
from psync.sync.keeper import Checked, Keeper, NoKeeper
from psync.sync.known import Known, read_known, settle, write_known
from psync.sync.listing import case_collisions
from psync.sync.lock import Holder, ProjectLock
from psync.sync.plan import SyncPlan
from psync.sync.rsync import MirrorMissing, Progress, Summary
from psync.sync.selection import Part, Selection, merge, select
from psync.sync.source import Looking, Source, sizes_of

if TYPE_CHECKING:
    from psync.sync.clean import Cleaning, Surplus

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another sync of the same project."""

VANISHED_RETRIES = 2
"""How often a transfer is begun again because files went away, or the connection died, under it."""

WARNINGS = 20
"""Warnings passed on one by one; the rest is counted."""


class Sync:
    """One sync of one project, from this process.

    Args:
        plan: what to send.
        state: the client's state directory, as text (``ClientPaths.state``).
        endpoint: where the mirror is; ``to`` can say so later.
        keeper: who keeps the mirror.
        environ: the environment of git, rsync and ssh.
        command: what other syncs that wait for this one are told; the command line by default.
        lock_timeout: seconds to wait for another sync of the same project.
        dry: change nothing over there; ``wait`` returns what would be sent and removed.
        source: what is known of the files here already, by earlier syncs of this process; then
            ``note`` has to be called after ``wait``.
        changed: what may have changed since, as absolute paths; None looks at everything.
        clean: have the mirror hold what is sent and nothing else. Called with what would have to be
            removed; says whether it is.
        on_progress: called about once a second while data flows.
        on_warning: called for each thing that was left out on purpose, at most ``WARNINGS`` times.
        on_wait: called once if another process is syncing this project, with the process.

    All callbacks come from the thread that calls ``wait``.
    """

    def __init__(
        self,
        plan: SyncPlan,
        *,
        state: str,
        endpoint: Endpoint | None = None,
        keeper: Keeper | None = None,
        environ: Mapping[str, str] | None = None,
        command: str = "",
        lock_timeout: float = LOCK_TIMEOUT,
        dry: bool = False,
        source: Source | None = None,
        changed: Collection[bytes] | None = None,
        clean: Callable[[Surplus], bool] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> None:
        self.plan = plan
        self._state = state
        self._environ = os.environ if environ is None else environ
        self._command = command or " ".join(sys.argv)
        self._lock_timeout = lock_timeout
        self._dry = dry
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._on_wait = on_wait or (lambda _holder: None)
        self._kept = source is not None
        self._source = source or Source(plan, self._environ)
        self._changed = changed
        self._ended: Known | None = None
        self._clean = clean
        self._readied = False
        self._cleaning: Cleaning | None = None
        self._source.cancelled = lambda: self._cancelled
        self._looking: Looking | None = None
        self._looked = False
        self._endpoint = endpoint
        self._keeper: Keeper = keeper or NoKeeper()
        self._folds_case = False
        self._lock: ProjectLock | None = None
        self._delivery: Delivery | None = None
        self._cancelled = False
        self._preparing = False
        self._warnings = 0
        self._began = time.monotonic()

    @property
    def cancelled(self) -> bool:
        """Whether ``cancel`` was called."""
        return self._cancelled

    @property
    def pids(self) -> list[int]:
        """The process IDs of the transfers that are running, for diagnosis."""
        return [] if self._delivery is None else self._delivery.pids

    def to(self, endpoint: Endpoint, keeper: Keeper, *, folds_case: bool = False) -> None:
        """Say where the mirror is, before ``wait``.

        Args:
            endpoint: where it is.
            keeper: who keeps it.
            folds_case: the file system there takes names that differ only in case for one.
        """
        self._endpoint, self._keeper, self._folds_case = endpoint, keeper, folds_case

    def begin_looking(self) -> None:
        """Have a thread look at the files here; what it finds, or an error, is ``wait``'s."""
        self._looking = Looking(self._source)

    def get_ready(self, changed: Collection[bytes]) -> None:
        """Have an rsync started that waits to be told what to send; blocks for a moment.

        Of use while changes are still settling: starting takes longer than sending a small file.

        Args:
            changed: what is known to have changed so far, as absolute paths.

        Raises:
            PsyncError: as ``wait``, which has to be called all the same, or ``close``.
        """
        endpoint = self._endpoint
        assert endpoint is not None, "to() says where the mirror is"
        part = self._source.part_of(changed)
        if part is None or self._source.known is None:
            return
        delivery = self._delivery = self._new_delivery(endpoint)
        self._prepare(delivery, endpoint)
        delivery.get_ready(part.tree, sizes_of(changed))
        self._readied = True

    def expect(self, changed: Collection[bytes] | None) -> None:
        """Say what changed, after ``get_ready``; None looks at everything."""
        self._changed = changed

    def wait(self) -> Summary:
        """Carry the sync out; blocks.

        When this raises, nothing of the sync is running any more, the lock is free, and every file
        in the mirror is the old one or the whole new one; the next sync continues from there,
        unless the disk was full: then unfinished files are removed. If files may have been changed
        already, no run starts in the mirror before the next sync has succeeded.

        Raises:
            MirrorMissing: the daemon has no directory for this project, and nobody made one.
            ProjectBusy: another process kept syncing this project; names it.
            Interrupted: ``cancel`` was called.
            SSHError: ssh could not log in, or the connection broke (that is tried again).
            ConnectionLost: likewise, of the connection to the daemon.
            DestinationError: the daemon host cannot take the files.
            ToolMissing: ssh or rsync is missing, here or there.
            ConfigError: the state directory cannot be used.
            SyncError: anything else; names the files where it is about files.
        """
        endpoint = self._endpoint
        assert endpoint is not None, "to() says where the mirror is"
        try:
            self._look()
            self._lock = ProjectLock(self._state, self.plan.project.id, self._command)
            self._lock.acquire(self._lock_timeout, self._on_wait, lambda: self._cancelled)
            for _ in range(VANISHED_RETRIES):
                try:
                    return self._whole(endpoint)
                except FilesVanished:  # a build goes on, or an editor saves
                    if self._cancelled:
                        raise
                except (SSHError, ConnectionLost):
                    if self._cancelled or not endpoint.recover():
                        raise
                    # The shared connection had died unnoticed, for instance while the computer
                    # slept.
                self._stop()
                self._look()
            return self._whole(endpoint)
        except DiskFull:
            # What has arrived would keep the disk full, and with it every program that writes.
            self._stop()
            endpoint.discard_unfinished(self._mirror(endpoint))
            raise
        finally:
            self.close()

    def cancel(self) -> None:
        """Have ``wait`` raise ``Interrupted``; from any thread or a signal handler, at any time."""
        self._cancelled = True
        self._keeper.cancel()
        if self._preparing and self._endpoint is not None:
            self._endpoint.cancel()
        for one in (self._delivery, self._cleaning):
            if one is not None:
                one.cancel()

    def note(self) -> None:
        """Write down what is known now, for the next process.

        Raises:
            SyncError: it cannot be written.
        """
        known, self._ended = self._ended, None
        if known is None or self._endpoint is None:
            return
        write_known(self._state, self._place(self._endpoint), known)

    def close(self) -> None:
        """Stop what is running and free the lock. ``wait`` does it; call it when that is not."""
        self._stop()
        if self._looking is not None:
            self._cancelled = self._cancelled or not self._looked
            self._looking.join()
        if self._lock is not None:
            self._lock.release()

    # -- inside -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at the files here, or take what the thread that does has found."""
        looking, self._looking = self._looking, None
        changed, self._changed = self._changed, None
        if looking is not None:
            looking.result()
        elif changed is None or self._source.known is None or not self._source.refresh(changed):
            self._check_cancelled()
            self._source.look()
        self._looked = True

    def _whole(self, endpoint: Endpoint) -> Summary:
        """Sync, and clean the mirror if that is wanted."""
        done = self._sync(endpoint)
        return done if self._clean is None else self._clean_up(endpoint, done, self._clean)

    def _clean_up(
        self, endpoint: Endpoint, done: Summary, wanted: Callable[[Surplus], bool]
    ) -> Summary:
        """Remove what the mirror holds and the sync does not send."""
        from psync.sync.clean import Cleaning, sent_by

        assert self._delivery is not None
        self._prepare(self._delivery, endpoint)
        cleaning = self._cleaning = Cleaning(
            endpoint,
            self._mirror(endpoint),
            sent_by(self._source),
            state=self._state,
            environ=self._environ,
            folds_case=self._folds_case,
        )
        surplus = cleaning.find()
        self._check_cancelled()
        if self._dry:
            names = (*done.removed_names, *surplus.outermost)
            return msgspec.structs.replace(done, removed_names=names)
        if surplus.empty or not wanted(surplus):
            return done
        self._check_cancelled()
        self._keeper.begin()
        removed = cleaning.remove(surplus)
        self._end(endpoint, self._source.known or Known(), (), removed, removed)
        return msgspec.structs.replace(done, removed=done.removed + len(removed), skipped=False)

    def _sync(self, endpoint: Endpoint) -> Summary:
        """Compare, and send what has to be sent."""
        if self._delivery is None or not self._readied:
            self._delivery = self._new_delivery(endpoint)
        self._readied = False
        delivery = self._delivery
        # until this one has succeeded nothing is known of what lies there
        remembered, self._source.known = self._source.known, None
        if self._source.fresh is not None and remembered is not None:
            return self._sync_fresh(delivery, endpoint, self._source.fresh, remembered)
        for part in self._source.parts:
            collisions = case_collisions(part.entries) if self._folds_case else ()
            for warning in (*self._source.warnings(part), *collisions):
                self._warning(warning)
        records = [delivery.record(part, self._source.listing(part)) for part in self._source.parts]
        known, checked = self._known(endpoint, remembered)
        if not all(record.manifest.header.placed for record in records):
            known, checked = Known(settings=self._settings), Checked()
        gone = [name for record in records for name in record.gone]
        selection = select(
            self._source.parts, known, checked, checksum=self.plan.checksum, gone=gone
        )
        if selection.partial and selection.empty and not gone:
            self._source.known = known
            return self._summary(delivery, skipped=True)
        try:
            self._deliver(delivery, endpoint, selection, records, known)
        except MirrorMissing:
            for record in records:
                record.manifest.forget()
            if self._dry:  # then a first sync would send all of it
                names = self._source.names()
                return Summary(len(names), 0, 0.0, sent_names=names)
            raise
        return self._summary(delivery)

    def _sync_fresh(
        self, delivery: Delivery, endpoint: Endpoint, fresh: tuple[Part, ...], known: Known
    ) -> Summary:
        """Send what changed since this process synced last; nothing is gone."""
        selection = select(fresh, known, Checked(known=True))
        if selection.empty:
            self._source.known = known
            return self._summary(delivery, skipped=True)
        self._prepare(delivery, endpoint)
        self._keeper.begin()
        for part in fresh:
            delivery.expect_more(part, known)
        delivery.carry_out(selection, ())
        self._end(endpoint, known, fresh, selection.names, ())
        return self._summary(delivery)

    def _new_delivery(self, endpoint: Endpoint) -> Delivery:
        return Delivery(
            self.plan,
            endpoint,
            self._mirror(endpoint),
            state=self._state,
            environ=self._environ,
            dry=self._dry,
            on_progress=self._on_progress,
            on_warning=self._warning,
        )

    def _known(self, endpoint: Endpoint, remembered: Known | None) -> tuple[Known, Checked]:
        """Return what is known of both sides since the last whole sync."""
        known = remembered or read_known(self._state, self._place(endpoint))
        if known is None or known.settings != self._settings:
            return Known(settings=self._settings), Checked()
        self._check_cancelled()
        return known, self._keeper.check(known.seal) if known.seal else Checked()

    def _deliver(
        self,
        delivery: Delivery,
        endpoint: Endpoint,
        selection: Selection,
        records: list[Record],
        known: Known,
    ) -> None:
        self._prepare(delivery, endpoint)
        if not self._dry:
            self._keeper.begin()
            for record in records:
                delivery.expect(record)
        removed = delivery.carry_out(selection, records)
        self._check_cancelled()
        if self._dry:
            return
        base = known if selection.partial else None
        self._end(endpoint, base, self._source.parts, (*selection.names, *removed), removed)

    def _end(
        self,
        endpoint: Endpoint,
        known: Known | None,
        looked_at: tuple[Part, ...],
        names: tuple[bytes, ...],
        removed: tuple[bytes, ...],
    ) -> None:
        """The mirror is whole: have it noted. Without ``known``, everything was compared."""
        self._check_cancelled()
        seal = self._keeper.end(None if known is None else known.seal, names)
        parts = {
            part.tree.destination: settle(part.stats, self._source.looked_at) for part in looked_at
        }
        if known is not None:
            parts = merge(known, parts, removed)
        self._ended = self._source.known = Known(seal, self._settings, parts)
        if not self._kept:
            self.note()

    def _prepare(self, delivery: Delivery, endpoint: Endpoint) -> None:
        self._check_cancelled()
        delivery.check()
        self._preparing = True
        try:
            endpoint.prepare()
        finally:
            self._preparing = False
        self._check_cancelled()

    def _summary(self, delivery: Delivery, *, skipped: bool = False) -> Summary:
        left = self._warnings - WARNINGS
        if left > 0 and self._on_warning is not None:
            self._on_warning(f"not sent: {left} more of the kind")
        done = delivery.summary
        return msgspec.structs.replace(
            done, seconds=time.monotonic() - self._began, skipped=skipped
        )

    @property
    def _settings(self) -> str:
        return "strip" if self.plan.strip else ""

    def _mirror(self, endpoint: Endpoint) -> bytes:
        return os.path.join(endpoint.projects_root, self.plan.project.id.encode())

    def _place(self, endpoint: Endpoint) -> bytes:
        return os.fsencode(endpoint.destination) + b"\0" + self._mirror(endpoint)

    def _stop(self) -> None:
        """Stop and reap what is running; what it still says is of no interest."""
        if self._delivery is not None:
            self._delivery.stop()

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted while syncing; nothing was started")

    def _warning(self, text: str) -> None:
        self._warnings += 1
        if self._warnings <= WARNINGS and self._on_warning is not None:
            self._on_warning(text)
