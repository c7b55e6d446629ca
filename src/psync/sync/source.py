"""What is to be sent, as it lies here: listed once, and kept up to date where changes are told."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from psync.errors import Interrupted
from psync.sync import git
from psync.sync.keeper import nameable
from psync.sync.kinds import never_sent
from psync.sync.known import Known
from psync.sync.listing import (
    RESERVED,
    Listing,
    Stat,
    check_entries,
    is_link,
    list_new,
    list_tree,
    look_at,
    stat_of,
)
from psync.sync.plan import SyncPlan, Tree
from psync.sync.rules import GIT_FILE, OWN_FILE
from psync.sync.selection import Part

MOST_CHANGES = 2000
"""Changes from which on looking at everything is as good."""

MOST_LEFT_OUT = 10_000
"""Names of which it is remembered that they are left out."""


class Source:
    """The files of one plan.

    An entry that is itself a symbolic link was named on purpose, so what it points to is sent under
    its name.

    Args:
        plan: what is sent.
        environ: the environment for git.

    Attributes:
        parts: what goes to each part of the mirror; empty before ``look``.
        fresh: after ``refresh``: of each part only what changed.
        looked_at: when the last look began, in nanoseconds since the epoch.
        known: what was known when the last whole sync of this process ended.
        cancelled: asked now and then while looking.
    """

    def __init__(self, plan: SyncPlan, environ: Mapping[str, str]) -> None:
        self.parts: tuple[Part, ...] = ()
        self.fresh: tuple[Part, ...] | None = None
        self.looked_at = 0
        self.known: Known | None = None
        self.cancelled: Callable[[], bool] = lambda: False
        self._plan = plan
        self._environ = environ
        self._listings: dict[bytes, Listing] = {}
        self._stats: dict[bytes, dict[bytes, Stat]] = {}
        self._left_out: dict[bytes, set[bytes]] = {}  # by part; not all of it, but what was told

    def listing(self, part: Part) -> Listing:
        """Return what was listed of a part, less the links that are followed."""
        return self._listings[part.tree.destination]

    def holds(self, path: bytes) -> bool:
        """Whether an absolute path is sent, as far as it was seen."""
        for part in self.parts:
            base = part.tree.base.rstrip(b"/") + b"/"
            if path.startswith(base) and path[len(base) :] in part.stats:
                return True
        return False

    def warnings(self, part: Part) -> tuple[str, ...]:
        """Return what is to be told about a part, for people."""
        return self._listings[part.tree.destination].warnings

    def names(self) -> tuple[bytes, ...]:
        """Return all that is sent, as paths in the mirror."""
        return tuple(
            os.path.join(part.tree.destination, name)
            for part in self.parts
            for name in part.entries
            if name not in part.never
        )

    def part_of(self, paths: Collection[bytes]) -> Part | None:
        """Return the part that holds one of these absolute paths, as far as it is known."""
        for part in self.parts:
            base = part.tree.base.rstrip(b"/") + b"/"
            for path in paths:
                if path.startswith(base) and path[len(base) :] in part.stats:
                    return part
        return None

    def look(self) -> None:
        """Look at all of it.

        Raises:
            SyncError: something that is to be sent does not exist, or cannot be read.
            Interrupted: ``cancelled`` said so.
        """
        self.fresh = None
        check_entries(self._plan)
        # before the first look: what is written from now on is younger
        self.looked_at = time.time_ns()
        self._listings, self._stats, self._left_out = {}, {}, {}
        self.parts = tuple(self._look(tree) for tree in self._plan.trees)

    def refresh(self, paths: Collection[bytes]) -> bool:
        """Look at what may have changed, and at nothing else.

        Args:
            paths: absolute.

        Returns:
            False if that is not enough, and ``look`` has to be called: something is gone, which is
            judged by all there is; it became something else; what is left out may have changed.

        Raises:
            SyncError, Interrupted: as ``look``.
        """
        self.fresh = None
        self.looked_at = time.time_ns()
        if not self.parts:
            return False
        if any(os.path.basename(path) in (GIT_FILE, OWN_FILE) for path in paths):
            return False
        found = []
        for part in self.parts:
            changes = self._changes(part, paths)
            if changes is None:
                return False
            found.append((part, changes))
        if not nameable([name for _, changes in found for name in changes]):
            return False
        for part, changes in found:
            self._stats[part.tree.destination].update(changes)
        self.fresh = tuple(
            msgspec.structs.replace(
                part,
                entries=(),
                links=tuple(name for name in part.links if name in changes),
                stats=changes,
            )
            for part, changes in found
            if changes
        )
        return True

    def _changes(self, part: Part, paths: Collection[bytes]) -> dict[bytes, Stat] | None:
        """Return what is not what it was, None if more has to be looked at."""
        base = part.tree.base.rstrip(b"/") + b"/"
        left_out = self._left_out.setdefault(part.tree.destination, set())
        changed: dict[bytes, Stat] = {}
        new: set[bytes] = set()
        for path in paths:
            name = path[len(base) :]
            if not path.startswith(base) or not RESERVED.isdisjoint(name.split(b"/")):
                continue
            before = part.stats.get(name)
            if before is None and not left_out.isdisjoint(_above(name)):
                continue
            if len(changed) + len(new) > MOST_CHANGES:
                return None
            if name in part.links:
                changed[name] = _behind(path)
                continue
            now = look_at(path)
            if before is None:
                if now:
                    new.add(_outermost(name, part.stats))
                continue
            if not now or (len(now) == 1) != (len(before) == 1):
                return None
            if now != before:
                if name in part.never:
                    return None
                changed[name] = now
        if new:
            found = list_new(
                part.tree,
                sorted(new),
                root=self._plan.project.root,
                exclude=self._plan.exclude,
                environ=self._environ,
                cancelled=self.cancelled,
            )
            changed.update({n: one for n, one in found.items() if n not in part.stats})
            if len(left_out) > MOST_LEFT_OUT:
                left_out.clear()
            left_out.update(self._left_out_for_good(part, new.difference(changed)))
        return None if never_sent(part.tree.base, changed) else changed

    def _left_out_for_good(self, part: Part, names: Collection[bytes]) -> set[bytes]:
        """Return which of the names are directories in which nothing will ever be that is sent.

        Of a file that is not there at this very moment nobody can tell, and git also ignores a
        directory for no more than that all that is in it now is ignored.
        """
        found: set[bytes] = set()
        asked: dict[bytes, dict[bytes, bytes]] = {}
        for name in names:
            path = os.path.join(part.tree.base, name)
            if len(look_at(path)) != 1:
                continue
            copy = git.working_copy(os.path.dirname(path))
            if copy is None:
                found.add(name)
            else:
                asked.setdefault(copy, {})[path] = name
        for copy, paths in asked.items():
            certain = git.named_by_patterns(copy, paths, self._environ)
            found.update(name for path, name in paths.items() if path in certain)
        return found

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
        stats = self._stats[tree.destination] = dict(listing.stats)
        stats.update((name, _behind(os.path.join(tree.base, name))) for name in links)
        entries = tuple(sorted((*listing.entries, *listing.never)))
        return Part(tree, entries, links, stats, listing.never)


class Looking:
    """A look at the files here, in a thread of its own; begins at once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="look at the files", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._source.look()
        except BaseException as error:
            self._error = error

    def join(self) -> None:
        """Wait for the end of it."""
        self._thread.join()

    def result(self) -> None:
        """Wait for the end of it; raises what ``Source.look`` raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def sizes_of(paths: Collection[bytes]) -> tuple[tuple[bytes, int], ...]:
    """Return those of some absolute paths that are files, with their sizes in bytes."""
    found = ((path, look_at(path)) for path in paths)
    return tuple((path, one[1]) for path, one in found if len(one) == 5 and stat.S_ISREG(one[0]))


def _above(name: bytes) -> list[bytes]:
    """Return a name and those of all directories above it."""
    found = [name]
    while name := os.path.dirname(name):
        found.append(name)
    return found


def _outermost(name: bytes, known: Mapping[bytes, Stat]) -> bytes:
    """Return the outermost directory above a name, or the name itself, that is not known."""
    *above, found = reversed(_above(name))
    return next((one for one in above if one not in known), found)


def _behind(path: bytes) -> Stat:
    """What a link leads to is like; nobody tells of a directory by what it is like itself."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return stat_of(status) if stat.S_ISREG(status.st_mode) else ()
