"""A whole sync: the lock, the connection, the transfers, in this order.

    sync = Sync(plan, endpoint=endpoint, state=state)
    sync.start()     # returns at once; over an open connection rsync is running now
    …                # what else there is to do, such as imports
    summary = sync.wait()

Nothing here is asyncio; from a coroutine, run ``wait`` in an executor and call ``cancel`` when
cancelled.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Mapping

import msgspec

from psync.errors import Interrupted, SSHError, SyncError
from psync.sync.blame import DiskFull
from psync.sync.endpoint import Endpoint
from psync.sync.listing import case_collisions, list_tree
from psync.sync.lock import Holder, ProjectLock
from psync.sync.plan import SyncPlan, Tree
from psync.sync.rsync import Progress, Summary, Transfer, rsync_argv
from psync.sync.tools import find_rsync
from psync.text import printable

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another sync of the same project."""

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
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._on_wait = on_wait
        self._mirror = os.path.join(endpoint.projects_root, plan.project.id.encode())
        self._lock: ProjectLock | None = None
        self._rsync = ""
        self._listed = False
        self._rounds: list[list[Tree]] = []
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
            SSHError: ssh could not log in, or the connection broke (once is tried again).
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
            try:
                return self._transfer()
            except SSHError:
                if self._cancelled or not self._endpoint.recover():
                    raise
            # The shared connection had died unnoticed, for instance while the computer slept.
            self._stop()
            self._listed = False
            return self._transfer()
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
        files = bytes_sent = 0
        if not self._listed:
            self._prepare()
            self._list()
        while self._rounds or self._running:
            if not self._running:
                self._prepare()
                self._spawn()
            for transfer in self._running:
                if self._cancelled:
                    transfer.cancel()
                part = transfer.wait(on_progress=self._on_progress, on_warning=self._warning)
                files += part.files
                bytes_sent += part.bytes_sent
            self._running = []
        self._check_cancelled()
        left = self._warnings - WARNINGS
        if left > 0 and self._on_warning is not None:
            self._on_warning(f"not sent: {left} more of the kind")
        return Summary(files, bytes_sent, time.monotonic() - self._began)

    def _list(self) -> None:
        """Look at what is to be sent, and divide it into transfers that may run side by side.

        An entry that is itself a symbolic link was named on purpose, so what it points to is sent
        under its name. That is a transfer with other options, and two transfers into one part of
        the mirror do not run at the same time: they would share directories for unfinished files.
        """
        check_entries(self.plan)
        plain: list[Tree] = []
        followed: list[Tree] = []
        for tree in self.plan.trees:
            links = tuple(n for n in (*tree.entries, *tree.inner) if _is_link(tree, n))
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
            if listing.entries:
                plain.append(Tree(tree.base, listing.entries, tree.destination))
            if links:
                followed.append(Tree(tree.base, links, tree.destination, follow=True))
        self._rounds = [trees for trees in (plain, followed) if trees]
        self._listed = True

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
                tree, rsync=self._rsync, mirror=self._mirror, remote=self._endpoint.remote()
            )
            self._running.append(
                Transfer(
                    argv,
                    feed,
                    mirror=self._mirror,
                    host=self._endpoint.host,
                    environ=self._environ,
                    destination=self._endpoint.destination,
                )
            )

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


def check_entries(plan: SyncPlan) -> None:
    """Make sure that everything that was named is there.

    Raises:
        SyncError: it is not.
    """
    for tree in plan.trees:
        for name in (*tree.entries, *tree.inner):
            _is_link(tree, name)


def _is_link(tree: Tree, name: bytes) -> bool:
    path = os.path.join(tree.base, name)
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "does not exist" if missing else f"cannot be sent: {error.strerror}"
        raise SyncError(
            f"{printable(path)} {reason}", hint="correct --assets or [sync] include"
        ) from error
