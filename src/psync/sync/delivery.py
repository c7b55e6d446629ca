"""The transfers of one sync: what is in the way, what is sent, what is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import msgspec

from psync.errors import Interrupted, SyncError
from psync.model import Tool
from psync.sync.choose import Choice, compression_speed
from psync.sync.endpoint import Endpoint, LocalEndpoint
from psync.sync.known import Known
from psync.sync.linkrate import Link
from psync.sync.listing import MARK_NAME, Listing
from psync.sync.manifest import Changes, Manifest, levels
from psync.sync.plan import SyncPlan, Tree
from psync.sync.progress import Progress, Tally
from psync.sync.rsync import (
    Remote,
    Summary,
    Transfer,
    mark_argv,
    removal_argv,
    rsync_argv,
)
from psync.sync.sample import has_holes
from psync.sync.selection import Part, Selection
from psync.sync.tools import find_rsync
from psync.text import printable


class Record(msgspec.Struct, frozen=True):
    """What is known of one part of the mirror, and what has to be removed from it.

    Attributes:
        tree: what goes there.
        listing: what it holds.
        manifest: what earlier syncs have brought there.
        changes: what of that is gone here.
    """

    tree: Tree
    listing: Listing
    manifest: Manifest
    changes: Changes

    @property
    def gone(self) -> tuple[bytes, ...]:
        """The paths in the mirror that have to be removed."""
        names = (*self.changes.first, *self.changes.then)
        return tuple(self.tree.destination + b"/" + name for name in names)


class _Ready(msgspec.Struct, frozen=True):
    """An rsync that waits to be told what to send."""

    base: bytes
    destination: bytes
    remote: Remote | None
    sparse: bool
    transfer: Transfer

    def fits(self, tree: Tree) -> bool:
        """Whether it can send a tree."""
        plain = not (tree.checksum or tree.follow or tree.empty)
        return plain and (tree.base, tree.destination) == (self.base, self.destination)


class Delivery:
    """Carries out one selection; used once.

    Args:
        plan: what is sent.
        endpoint: where to; prepared before ``carry_out``.
        mirror: absolute path of the project's directory there.
        state: the client's state directory.
        environ: the environment of rsync and ssh.
        dry: only find out.
        on_progress: called about once a second while data flows.
        on_warning: called for each thing that is left out.
    """

    def __init__(
        self,
        plan: SyncPlan,
        endpoint: Endpoint,
        mirror: bytes,
        *,
        state: str,
        environ: Mapping[str, str],
        dry: bool,
        on_progress: Callable[[Progress], None] | None,
        on_warning: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._endpoint = endpoint
        self._mirror = mirror
        self._state = state
        self._environ = environ
        self._dry = dry
        self._on_progress = on_progress
        self._warning = on_warning
        self._trusted = False
        self._running: list[Transfer] = []
        self._ready: _Ready | None = None
        self._cancelled = False
        self._tally: Tally | None = None
        self._biggest: tuple[tuple[bytes, int], ...] = ()
        self._sparse = False
        self._link: Link | None = None
        self._choice: Choice | None = None
        self._files = self._bytes = self._removed = 0
        self._sent_names: list[bytes] = []
        self._removed_names: list[bytes] = []
        self._inode = os.stat(plan.project.root).st_ino

    @property
    def pids(self) -> list[int]:
        """The process IDs of the transfers that are running."""
        return [transfer.pid for transfer in self._running]

    @property
    def summary(self) -> Summary:
        """What was done so far."""
        return Summary(
            self._files,
            self._bytes,
            0.0,
            self._removed,
            tuple(self._sent_names),
            tuple(self._removed_names),
        )

    def record(self, part: Part, listing: Listing) -> Record:
        """Find out what is to be removed from a part of the mirror."""
        manifest = self._manifest(part.tree.destination)
        changes = manifest.compare(part.tree, listing, self._inode)
        for count, reason in changes.kept:
            self._warning(
                f"{reason}, so {count} file{'' if count == 1 else 's'} gone here "
                "stay there; remove them there if nobody needs them"
            )
        return Record(part.tree, listing, manifest, changes)

    def expect(self, record: Record) -> None:
        """Write down what is about to be brought.

        Raises:
            SyncError: it cannot be written.
        """
        with self._noting():
            record.manifest.expect(record.tree, record.listing, record.changes, self._inode)

    def expect_more(self, part: Part, known: Known) -> None:
        """Write down what is about to be brought and was not known of; raises as ``expect``."""
        before = known.parts.get(part.tree.destination, {})
        added = [
            name + b"/" if len(one) == 1 else name
            for name, one in part.stats.items()
            if name not in before
        ]
        if added:
            with self._noting():
                self._manifest(part.tree.destination).add(added)

    def check(self) -> None:
        """Make sure that there is an rsync on both sides.

        Raises:
            ToolMissing: there is none, or none that fits.
        """
        self._endpoint.check()
        assert self._rsync

    def get_ready(self, tree: Tree, biggest: tuple[tuple[bytes, int], ...]) -> None:
        """Start an rsync that waits to be told what of a tree it is to send; changes nothing.

        Args:
            tree: any of it may be sent.
            biggest: of what is likely to be sent, the biggest files; absolute paths and sizes.
        """
        self._biggest, self._sparse = biggest, has_holes(biggest)
        remote = self._chosen(self._endpoint.remote())
        argv, _ = self._argv(tree, remote)
        transfer = self._start(argv, None, remote, part=tree.destination)
        self._ready = _Ready(tree.base, tree.destination, remote, self._sparse, transfer)
        self._choice = None

    def carry_out(self, selection: Selection, records: Sequence[Record]) -> tuple[bytes, ...]:
        """Send, remove, and mark the mirror; returns the paths in the mirror that were removed.

        Raises:
            PsyncError: as ``Sync.wait``. Transfers may still be running: see ``stop``.
        """
        self._trusted = selection.partial
        self._biggest, self._sparse = selection.biggest, has_holes(selection.biggest)
        if self._on_progress is not None:
            # What rsync only compares is no part of what it sends, and how much it is nobody knows.
            new = not any(record.manifest.header.placed for record in records)
            known = (selection.partial or new) and not (selection.followed or self._plan.strip)
            self._tally = Tally(self._on_progress, selection.size if known else None)
        for record in records:
            self._remove(record, record.changes.first)
        # Two transfers into one part of the mirror do not run at the same time: they would share
        # directories for unfinished files.
        copies: list[Tree] = []
        for trees in (selection.plain, selection.checked, selection.followed):
            self._send([self._with_copies(tree, copies) for tree in trees])
        for copy in copies:
            self._send([copy])
        for record in records:
            self._remove(record, record.changes.then)
            manifest = record.manifest
            if not manifest.header.placed and not self._dry:
                self._mark(record.tree.destination, manifest, dry=False)
                manifest.placed()
        return tuple(name for record in records for name in record.gone)

    def cancel(self) -> None:
        """Have ``carry_out`` raise ``Interrupted``; from any thread or a signal handler."""
        self._cancelled = True
        for transfer in self._running:
            transfer.cancel()

    def stop(self) -> None:
        """Stop and reap what is running; what it still says is of no interest."""
        self._drop_ready()
        running, self._running = self._running, []
        for transfer in running:
            transfer.cancel()
        for transfer in running:
            transfer.reap()

    def _manifest(self, part: bytes) -> Manifest:
        place = os.fsencode(self._endpoint.destination) + b"\0" + self._mirror
        return Manifest(self._state, place, part)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SyncError(
                f"what is sent cannot be noted in {printable(self._state)}: {error.strerror}",
                hint="free some space on this machine",
            ) from error

    # -- sending ------------------------------------------------------------------------------

    def _with_copies(self, tree: Tree, copies: list[Tree]) -> Tree:
        """Take out of a tree what is sent from elsewhere: a stripped copy of the program."""
        if not self._plan.strip:
            return tree
        from psync.sync.strip import StripCache, take_copy

        cache = StripCache(self._state, self._environ, cancelled=lambda: self._cancelled)
        entries, found = take_copy(self._plan, tree, tree.entries, cache, self._warning)
        copies += [msgspec.structs.replace(copy, checksum=tree.checksum) for copy in found]
        return msgspec.structs.replace(tree, entries=entries)

    def _send(self, trees: Sequence[Tree]) -> None:
        """Send trees, one per part of the mirror, side by side."""
        for tree in trees:
            if not tree.entries:
                continue
            self._check_cancelled()
            self._running.append(self._send_one(tree))
        for transfer in self._running:
            if self._cancelled:
                transfer.cancel()
            told = None if self._tally is None else self._tally.transfer()
            done = transfer.wait(on_progress=told, on_warning=self._warning)
            self._learn(transfer)
            self._files += done.files
            self._bytes += done.bytes_sent
            self._sent_names += done.sent_names
        self._running = []

    def _send_one(self, tree: Tree) -> Transfer:
        ready, self._ready = self._ready, None
        if ready is not None:
            chosen = self._chosen(ready.remote) == ready.remote and self._sparse == ready.sparse
            if ready.fits(tree) and chosen:
                _, feed = self._argv(tree, ready.remote)
                ready.transfer.give(feed)
                return ready.transfer
            self._ready = ready
            self._drop_ready()
        remote = self._chosen(self._endpoint.remote())
        argv, feed = self._argv(tree, remote)
        return self._start(argv, feed, remote, part=tree.destination)

    def _argv(self, tree: Tree, remote: Remote | None) -> tuple[list[str | bytes], bytes]:
        return rsync_argv(
            tree,
            rsync=self._rsync,
            mirror=self._mirror,
            remote=remote,
            dry=self._dry,
            sparse=self._sparse,
        )

    def _drop_ready(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready.transfer.cancel()
            ready.transfer.reap()

    def _chosen(self, remote: Remote | None) -> Remote | None:
        """Decide how the files go, by what is known of the link and what they are."""
        if remote is None:
            return None
        if self._choice is None:
            way = f"{self._endpoint.destination}{'' if remote.carriage is None else ' websocket'}"
            self._link = Link(self._state, way, near=not remote.compress)
            there = None if isinstance(self._endpoint, LocalEndpoint) else self._endpoint.rsync
            speed = compression_speed(self._tool.version, there)
            self._choice = self._link.choose(self._plan.project.id, self._biggest, speed=speed)
        choice = self._choice
        return msgspec.structs.replace(remote, compress=choice.compress, whole=choice.whole)

    def _learn(self, transfer: Transfer) -> None:
        """Remember what a transfer told of the link, if it had it to itself."""
        alone = len(self._running) == 1 and not self._dry
        if alone and self._link is not None and self._choice is not None:
            self._link.learn(self._plan.project.id, transfer.measured, self._choice)

    # -- removing -----------------------------------------------------------------------------

    def _remove(self, record: Record, names: tuple[bytes, ...]) -> None:
        """Remove what stands in the way, or is gone here."""
        part, manifest = record.tree.destination, record.manifest
        if not names or not self._is_known(part, manifest):
            return
        for round_ in levels(names):
            with manifest.way_to(round_) as skeleton:
                remote = self._endpoint.remote()
                argv, feed = removal_argv(
                    round_,
                    skeleton,
                    part,
                    rsync=self._rsync,
                    mirror=self._mirror,
                    remote=remote,
                    dry=self._dry,
                )
                done = self._do(argv, feed, remote, removal=True)
            self._removed += done.removed
            self._removed_names += [part + b"/" + name for name in done.removed_names]
        if not self._dry:
            manifest.removed(names)

    def _is_known(self, part: bytes, manifest: Manifest) -> bool:
        """Whether the mirror is the one that earlier syncs wrote to; else nothing is removed."""
        if self._trusted:
            return True
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
        remote = self._endpoint.remote()
        argv, feed = mark_argv(
            mark, part, rsync=self._rsync, mirror=self._mirror, remote=remote, dry=dry
        )
        return self._do(argv, feed, remote)

    # -- rsync --------------------------------------------------------------------------------

    @cached_property
    def _tool(self) -> Tool:
        return find_rsync(self._state, self._environ)

    @property
    def _rsync(self) -> str:
        return self._tool.path

    def _do(
        self,
        argv: list[str | bytes],
        feed: bytes,
        remote: Remote | None,
        *,
        removal: bool = False,
    ) -> Summary:
        """Run one rsync to its end."""
        self._check_cancelled()
        transfer = self._start(argv, feed, remote, removal=removal)
        self._running = [transfer]
        try:
            return transfer.wait(on_warning=self._warning)
        finally:
            self._running = []

    def _start(
        self,
        argv: list[str | bytes],
        feed: bytes | None,
        remote: Remote | None,
        *,
        removal: bool = False,
        part: bytes = b"",
    ) -> Transfer:
        return Transfer(
            argv,
            feed,
            mirror=self._mirror,
            host=self._endpoint.host,
            environ=self._environ,
            destination=self._endpoint.destination,
            remote=remote,
            removal=removal,
            part=part,
        )

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted while syncing; nothing was started")
