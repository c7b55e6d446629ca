"""A whole sync: the lock, the connection, the transfers, in this order.

    sync = Sync(plan, endpoint=endpoint, state=state)
    sync.start()     # returns at once; over an open connection rsync is running now
    …                # what else there is to do, such as imports
    summary = sync.wait()

Nothing here is asyncio; from a coroutine, run ``wait`` in an executor and call ``cancel`` when
cancelled.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping

import msgspec

from psync.errors import Interrupted, SSHError, SyncError
from psync.sync.blame import DiskFull, FilesVanished
from psync.sync.endpoint import Endpoint
from psync.sync.listing import (
    MARK_NAME,
    Listing,
    case_collisions,
    check_entries,
    is_link,
    list_tree,
)
from psync.sync.lock import Holder, ProjectLock
from psync.sync.manifest import Changes, Manifest, levels
from psync.sync.plan import SyncPlan, Tree
from psync.sync.rsync import (
    MirrorMissing,
    Progress,
    Summary,
    Transfer,
    mark_argv,
    removal_argv,
    rsync_argv,
)
from psync.sync.tools import find_rsync
from psync.text import printable

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
        endpoint: where the mirror is.
        state: the client's state directory, as text (``ClientPaths.state``).
        environ: the environment of rsync and ssh.
        command: what other syncs that wait for this one are told; the command line by default.
        lock_timeout: seconds to wait for another sync of the same project.
        folds_case: the other side's file system takes names that differ only in case for one.
        dry: change nothing over there; ``wait`` returns what would be sent and removed.
        on_progress: called about once a second while data flows.
        on_warning: called for each thing that was left out on purpose, at most ``WARNINGS`` times.
        on_wait: called once if another process is syncing this project, with the process.

    All callbacks come from the thread that calls ``wait``.
    """

    def __init__(
        self,
        plan: SyncPlan,
        *,
        endpoint: Endpoint,
        state: str,
        environ: Mapping[str, str] | None = None,
        command: str = "",
        lock_timeout: float = LOCK_TIMEOUT,
        folds_case: bool = False,
        dry: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_wait: Callable[[Holder | None], None] | None = None,
    ) -> None:
        self.plan = plan
        self._endpoint = endpoint
        self._state = state
        self._environ = os.environ if environ is None else environ
        self._command = command or " ".join(sys.argv)
        self._lock_timeout = lock_timeout
        self._folds_case = folds_case
        self._dry = dry
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._on_wait = on_wait
        self._mirror = os.path.join(endpoint.projects_root, plan.project.id.encode())
        self._lock: ProjectLock | None = None
        self._rsync = ""
        self._listed = False
        self._rounds: list[list[Tree]] = []
        self._records: list[tuple[Tree, Listing, Manifest, Changes]] = []
        self._running: list[Transfer] = []
        self._cancelled = False
        self._preparing = False
        self._warnings = 0
        self._began = 0.0

    @property
    def pids(self) -> list[int]:
        """The process IDs of the transfers that are running, for diagnosis."""
        return [transfer.pid for transfer in self._running]

    def start(self) -> None:
        """Begin without blocking: check, take the lock if it is free, start rsync if it can be.

        What cannot be done at once, such as waiting for the lock or logging in, ``wait`` does.

        Raises:
            ToolMissing: rsync is missing or too old, here or there.
            SyncError: something that is to be sent does not exist.
            ConfigError: the state directory cannot be used.
        """
        self._began = time.monotonic()
        self._rsync = find_rsync(self._state, self._environ).path
        self._endpoint.check()
        check_entries(self.plan)
        self._lock = ProjectLock(self._state, self.plan.project.id, self._command)
        if self._lock.try_acquire():
            try:
                if self._endpoint.ready():
                    self._list()
                    if not any(changes.first for *_, changes in self._records):
                        self._spawn()
            except BaseException:
                self.close()
                raise

    def wait(self) -> Summary:
        """Finish the sync; blocks. Begins it too, if ``start`` was not called.

        When this raises, nothing of the sync is running any more, the lock is free, and every file
        in the mirror is the old one or the whole new one; the next sync continues from there,
        unless the disk was full: then unfinished files are removed.

        Raises:
            MirrorMissing: the daemon has no directory for this project yet; have it made, and use
                a new ``Sync``.
            ProjectBusy: another process kept syncing this project; names it.
            Interrupted: ``cancel`` was called.
            SSHError: ssh could not log in, or the connection broke (that is tried again).
            DestinationError: the daemon host cannot take the files.
            ToolMissing: ssh or rsync is missing, here or there.
            SyncError: anything else; names the files where it is about files.
        """
        try:
            if self._lock is None:
                self.start()
            assert self._lock is not None
            if not self._lock.held:
                self._lock.acquire(self._lock_timeout, self._waiting, lambda: self._cancelled)
            for _ in range(VANISHED_RETRIES):
                try:
                    return self._transfer()
                except FilesVanished:  # a build goes on, or an editor saves
                    if self._cancelled:
                        raise
                except SSHError:
                    if self._cancelled or not self._endpoint.recover():
                        raise
                    # The shared connection had died unnoticed, for instance while the computer
                    # slept.
                self._stop()
                self._listed = False
            return self._transfer()
        except MirrorMissing:
            for _, _, manifest, _ in self._records:
                manifest.forget()
            if self._dry:
                return self._all()
            raise
        except DiskFull:
            # What has arrived would keep the disk full, and with it every program that writes.
            self._stop()
            self._endpoint.discard_unfinished(self._mirror)
            raise
        finally:
            self.close()

    def cancel(self) -> None:
        """Have ``wait`` raise ``Interrupted``; from any thread or a signal handler, at any time."""
        self._cancelled = True
        if self._preparing:
            self._endpoint.cancel()
        for transfer in self._running:
            transfer.cancel()

    def close(self) -> None:
        """Stop what is running and free the lock. ``wait`` does it; call it when that is not."""
        self._stop()
        if self._lock is not None:
            self._lock.release()

    def _transfer(self) -> Summary:
        files = bytes_sent = removed = 0
        self._sent_names: list[bytes] = []
        self._removed_names: list[bytes] = []
        if not self._listed:
            self._prepare()
            self._list()
        if not self._running:
            self._prepare()
            removed = self._clear_the_way()
        while self._rounds or self._running:
            if not self._running:
                self._spawn()
            for transfer in self._running:
                if self._cancelled:
                    transfer.cancel()
                part = transfer.wait(on_progress=self._on_progress, on_warning=self._warning)
                files += part.files
                self._sent_names += part.sent_names
                bytes_sent += part.bytes_sent
            self._running = []
        removed += self._take_away()
        self._check_cancelled()
        left = self._warnings - WARNINGS
        if left > 0 and self._on_warning is not None:
            self._on_warning(f"not sent: {left} more of the kind")
        return Summary(
            files,
            bytes_sent,
            time.monotonic() - self._began,
            removed,
            tuple(self._sent_names),
            tuple(self._removed_names),
        )

    def _list(self) -> None:
        """Look at what is to be sent, and divide it into transfers that may run side by side.

        An entry that is itself a symbolic link was named on purpose, so what it points to is sent
        under its name. That is a transfer with other options, and two transfers into one part of
        the mirror do not run at the same time: they would share directories for unfinished files.
        """
        check_entries(self.plan)
        plain: list[Tree] = []
        followed: list[Tree] = []
        copied: list[Tree] = []
        self._records = []
        for tree in self.plan.trees:
            links = tuple(n for n in (*tree.entries, *tree.inner) if is_link(tree, n))
            names, inner = (
                tuple(name for name in part if name not in links)
                for part in (tree.entries, tree.inner)
            )
            listing = list_tree(
                msgspec.structs.replace(tree, entries=names, inner=inner),
                root=self.plan.project.root,
                exclude=self.plan.exclude,
                environ=self._environ,
                cancelled=lambda: self._cancelled,
            )
            warnings = listing.warnings
            if self._folds_case:
                warnings += case_collisions(listing.entries)
            for warning in warnings:
                self._warning(warning)
            self._compare(tree, listing)
            entries = listing.entries
            if self.plan.strip:
                from psync.sync.strip import StripCache, take_copy

                cache = StripCache(self._state, self._environ, cancelled=lambda: self._cancelled)
                entries, copies = take_copy(self.plan, tree, entries, cache, self._warning)
                copied += copies
            if entries:
                plain.append(Tree(tree.base, entries, tree.destination))
            if links:
                followed.append(Tree(tree.base, links, tree.destination, follow=True))
        self._rounds = [trees for trees in (plain, followed, copied) if trees]
        self._listed = True

    def _all(self) -> Summary:
        """What a first sync would send."""
        names = [
            os.path.join(tree.destination, name)
            for tree, listing, *_ in self._records
            for name in listing.entries
        ]
        return Summary(len(names), 0, time.monotonic() - self._began, sent_names=tuple(names))

    def _compare(self, tree: Tree, listing: Listing) -> None:
        """Find out what is to be removed from a part of the mirror, and note what it will hold."""
        place = os.fsencode(self._endpoint.destination) + b"\0" + self._mirror
        manifest = Manifest(self._state, place, tree.destination)
        inode = os.stat(self.plan.project.root).st_ino
        changes = manifest.compare(tree, listing, inode)
        for count, reason in changes.kept:
            self._warning(
                f"{reason}, so {count} file{'' if count == 1 else 's'} gone here "
                "stay there; remove them there if nobody needs them"
            )
        try:
            if not self._dry:
                manifest.expect(tree, listing, changes, inode)
        except OSError as error:
            raise SyncError(
                f"what is sent cannot be noted in {printable(self._state)}: {error.strerror}",
                hint="free some space on this machine",
            ) from error
        self._records.append((tree, listing, manifest, changes))

    def _clear_the_way(self) -> int:
        """Remove what stands where something of another kind is to be put; return a count."""
        removed = 0
        for tree, _, manifest, changes in self._records:
            part = tree.destination
            if changes.first and self._is_known(part, manifest):
                removed += self._remove(part, manifest, changes.first)
        return removed

    def _take_away(self) -> int:
        """Remove what is gone here and have the mirror marked; return how much it was."""
        removed = 0
        for tree, _, manifest, changes in self._records:
            part = tree.destination
            if changes.then and self._is_known(part, manifest):
                removed += self._remove(part, manifest, changes.then)
            if not manifest.header.placed and not self._dry:
                self._mark(part, manifest, dry=False)
                manifest.placed()
        return removed

    def _is_known(self, part: bytes, manifest: Manifest) -> bool:
        """Whether the mirror is the one that earlier syncs wrote to; else nothing is removed."""
        if manifest.header.placed and self._mark(part, manifest, dry=True).files == 0:
            return True
        if self._dry:
            return False
        # What is listed now stays known, so that it can be removed when it is gone.
        manifest.unplaced()
        self._warning("the mirror is not the one of the last sync; nothing is removed there")
        return False

    def _mark(self, part: bytes, manifest: Manifest, *, dry: bool) -> Summary:
        mark = os.path.join(manifest.skeleton, MARK_NAME)
        argv, feed = mark_argv(
            mark,
            part,
            rsync=self._rsync,
            mirror=self._mirror,
            remote=self._endpoint.remote(),
            dry=dry,
        )
        return self._do(argv, feed)

    def _remove(self, part: bytes, manifest: Manifest, names: tuple[bytes, ...]) -> int:
        removed = 0
        for round_ in levels(names):
            with manifest.way_to(round_) as skeleton:
                argv, feed = removal_argv(
                    round_,
                    skeleton,
                    part,
                    rsync=self._rsync,
                    mirror=self._mirror,
                    remote=self._endpoint.remote(),
                    dry=self._dry,
                )
                done = self._do(argv, feed, removal=True)
                removed += done.removed
                self._removed_names += [part + b"/" + name for name in done.removed_names]
        if not self._dry:
            manifest.removed(names)
        return removed

    def _do(self, argv: list[str | bytes], feed: bytes, *, removal: bool = False) -> Summary:
        """Run one more rsync to its end."""
        self._check_cancelled()
        transfer = self._start(argv, feed, removal=removal)
        self._running = [transfer]
        try:
            return transfer.wait(on_warning=self._warning)
        finally:
            self._running = []

    def _start(
        self, argv: list[str | bytes], feed: bytes, *, removal: bool = False, part: bytes = b""
    ) -> Transfer:
        return Transfer(
            argv,
            feed,
            mirror=self._mirror,
            host=self._endpoint.host,
            environ=self._environ,
            destination=self._endpoint.destination,
            removal=removal,
            part=part,
        )

    def _prepare(self) -> None:
        self._preparing = True
        try:
            self._check_cancelled()
            self._endpoint.prepare()
        finally:
            self._preparing = False
        self._check_cancelled()

    def _spawn(self) -> None:
        """Start the transfers of the next round, one per part of the mirror, side by side."""
        for tree in self._rounds.pop(0) if self._rounds else ():
            argv, feed = rsync_argv(
                tree,
                rsync=self._rsync,
                mirror=self._mirror,
                remote=self._endpoint.remote(),
                dry=self._dry,
            )
            self._running.append(self._start(argv, feed, part=tree.destination))

    def _stop(self) -> None:
        """Stop and reap what is running; what it still says is of no interest."""
        running, self._running = self._running, []
        for transfer in running:
            transfer.cancel()
        for transfer in running:
            transfer.reap()

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted while syncing; nothing was started")

    def _waiting(self, holder: Holder | None) -> None:
        if self._on_wait is not None:
            self._on_wait(holder)

    def _warning(self, text: str) -> None:
        self._warnings += 1
        if self._warnings <= WARNINGS and self._on_warning is not None:
            self._on_warning(text)
