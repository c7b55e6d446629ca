"""What is to be sent, as it lies here: listed once, and kept up to date where changes are told."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping

import msgspec

from psync.errors import Interrupted
from psync.sync.listing import Listing, Stat, check_entries, is_link, list_tree, stat_of
from psync.sync.plan import SyncPlan, Tree
from psync.sync.selection import Part


class Source:
    """The files of one plan.

    An entry that is itself a symbolic link was named on purpose, so what it points to is sent under
    its name.

    Args:
        plan: what is sent.
        environ: the environment for git.

    Attributes:
        parts: what goes to each part of the mirror; empty before ``look``.
        looked_at: when the last look began, in nanoseconds since the epoch.
        cancelled: asked now and then while looking.
    """

    def __init__(self, plan: SyncPlan, environ: Mapping[str, str]) -> None:
        self.parts: tuple[Part, ...] = ()
        self.looked_at = 0
        self.cancelled: Callable[[], bool] = lambda: False
        self._plan = plan
        self._environ = environ
        self._listings: dict[bytes, Listing] = {}

    def listing(self, part: Part) -> Listing:
        """Return what was listed of a part, less the links that are followed."""
        return self._listings[part.tree.destination]

    def warnings(self, part: Part) -> tuple[str, ...]:
        """Return what is to be told about a part, for people."""
        return self._listings[part.tree.destination].warnings

    def look(self) -> None:
        """Look at all of it.

        Raises:
            SyncError: something that is to be sent does not exist, or cannot be read.
            Interrupted: ``cancelled`` said so.
        """
        check_entries(self._plan)
        # before the first look: what is written from now on is younger
        self.looked_at = time.time_ns()
        self._listings = {}
        self.parts = tuple(self._look(tree) for tree in self._plan.trees)

    def _look(self, tree: Tree) -> Part:
        links = tuple(n for n in (*tree.entries, *tree.inner) if is_link(tree, n))
        names, inner = (
            tuple(name for name in part if name not in links) for part in (tree.entries, tree.inner)
        )
        listing = list_tree(
            msgspec.structs.replace(tree, entries=names, inner=inner),
            root=self._plan.project.root,
            exclude=self._plan.exclude,
            environ=self._environ,
            cancelled=self.cancelled,
        )
        if self.cancelled():
            raise Interrupted("interrupted while syncing; nothing was started")
        self._listings[tree.destination] = listing
        stats = dict(listing.stats)
        stats.update((name, _behind(os.path.join(tree.base, name))) for name in links)
        return Part(tree, listing.entries, links, stats)


def _behind(path: bytes) -> Stat:
    """What a link leads to is like; nobody tells of a directory by what it is like itself."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return stat_of(status) if stat.S_ISREG(status.st_mode) else ()
