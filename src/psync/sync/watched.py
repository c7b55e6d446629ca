"""Which directories have to be watched for a plan, found by a look at the disk.

A directory that was named is watched with all it holds, less what is left out: what a compiler
writes by the thousand into a directory that git ignores is nobody's news. So a directory that has
such a one in it is watched by itself, and those of its directories that are sent with all they
hold. Links are not followed but for those that were named: one of them may lead to the whole disk.

A file that was named alone, such as the program, is watched through the directories above it, up to
the project's root: builds replace files, and sometimes the directories around them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

import msgspec

from psync.sync import git
from psync.sync.listing import RESERVED
from psync.sync.plan import SyncPlan
from psync.sync.rules import GIT_FILE, OWN_FILE, Rules, Scope

RULE_FILES = frozenset((GIT_FILE, OWN_FILE))
"""Names of files that say what is left out."""

MOST_LEFT_OUT = 2000
"""Directories that git ignores, beyond which they are watched like all others, but for those right
below a directory that was named: there are such small ones everywhere, as Python's are."""


class Watched(msgspec.Struct, frozen=True):
    """What has to be watched; absolute paths.

    Attributes:
        tops: directories that were named.
        deep: directories to watch with all they hold.
        flat: directories to watch for what is in them and no deeper.
        split: those of ``flat`` of which whatever is not left out is sent.
        named: what was named, by its own name and by that of the file that it leads to.
        linked: what is known to the plan by another name.
    """

    tops: frozenset[bytes] = frozenset()
    deep: frozenset[bytes] = frozenset()
    flat: frozenset[bytes] = frozenset()
    split: frozenset[bytes] = frozenset()
    named: frozenset[bytes] = frozenset()
    linked: frozenset[bytes] = frozenset()

    def holds(self, path: bytes) -> bool:
        """Whether a change of a path may be one of what is sent."""
        if path in self.named:
            return True
        directory, name = os.path.split(path)
        if name in RULE_FILES and directory in self.flat and self.tops:
            return True
        for top in self.tops:
            if below := _inner(top, path):
                return RESERVED.isdisjoint(below.split(b"/"))
        return False

    def behind_link(self, path: bytes) -> bool:
        """Whether the plan has another name for what it says of a path."""
        return any(path == one or _inner(one, path) for one in self.linked)

    def outdated_by(self, path: bytes) -> bool:
        """Whether a change of a path may mean that something else has to be watched."""
        if path in self.flat or path in self.deep:
            return True
        if path in self.named:
            return os.path.isdir(path) or os.path.islink(path)
        directory, name = os.path.split(path)
        if name in RULE_FILES:
            return self.holds(path)
        return directory in self.split and name not in RESERVED and _is_directory(path)


def watched(
    plan: SyncPlan, environ: Mapping[str, str], cancelled: Callable[[], bool] = lambda: False
) -> Watched:
    """Return what has to be watched for a plan, as it is now.

    Args:
        plan: what is sent.
        environ: the environment for git.
        cancelled: asked while git looks.

    Raises:
        Interrupted: ``cancelled`` said so.
    """
    tops: set[bytes] = set()
    named: set[bytes] = set()
    linked: set[bytes] = set()
    for tree in plan.trees:
        for name in (*tree.entries, *tree.inner):
            path = os.path.normpath(os.path.join(tree.base, name))
            real = os.path.realpath(path)
            named |= {path, real}
            if real != path:
                linked.add(real)
            if os.path.isdir(real):
                tops.add(real)
    rules = Rules(plan.project.root, plan.exclude, environ, cancelled)
    survey = _Survey(rules, environ, cancelled)
    survey.take(tops)
    above = {one for path in named for one in _parents(path, plan.project.root)}
    return Watched(
        tops=frozenset(tops),
        deep=frozenset(survey.deep),
        flat=frozenset(survey.split | above),
        split=frozenset(survey.split),
        named=frozenset(named),
        linked=frozenset(linked),
    )


class _Survey:
    """Finds out how the directories that were named are watched."""

    def __init__(
        self, rules: Rules, environ: Mapping[str, str], cancelled: Callable[[], bool]
    ) -> None:
        self.deep: set[bytes] = set()
        self.split: set[bytes] = set()
        self._rules = rules
        self._environ = environ
        self._cancelled = cancelled
        self._ignored: frozenset[bytes] = frozenset()
        self._around: set[bytes] = set()

    def take(self, tops: Iterable[bytes]) -> None:
        tops = sorted(tops)
        self._rules.prepare(tops)
        for top in tops:
            scope = self._rules.scope(top)
            self._ask(top, scope.ignored or ())
            self._divide(top, scope)

    def _ask(self, top: bytes, ignored: Iterable[bytes]) -> None:
        """Find out in which directories nothing will ever be that is sent."""
        found = [path for path in ignored if _is_directory(path)]
        if len(found) > MOST_LEFT_OUT:
            found = [path for path in found if os.path.dirname(path) == top]
        root = git.working_copy(top) if found else None
        self._ignored = (
            frozenset()
            if root is None
            else git.named_by_patterns(root, found, self._environ, self._cancelled)
        )
        self._around = {one for path in self._ignored for one in _parents(path, top)}

    def _divide(self, path: bytes, scope: Scope) -> None:
        left = [(path, scope)]
        while left:
            path, scope = left.pop()
            try:
                with os.scandir(path) as listed:
                    found = {entry.name: entry for entry in listed}
            except OSError:
                continue  # it went away meanwhile, or the sync says what is wrong with it
            self.split.add(path)
            scope = self._rules.enter(scope, path, found)
            for name, entry in found.items():
                if name in RESERVED or not entry.is_dir(follow_symlinks=False):
                    continue
                below = self._rules.below(scope, entry.path)
                if below is not None and entry.path in self._around:
                    left.append((entry.path, below))
                elif below is not None or self._only_now(scope, entry.path):
                    self.deep.add(entry.path)

    def _only_now(self, scope: Scope, path: bytes) -> bool:
        """Whether git ignores a directory only for what happens to be in it."""
        return path in (scope.ignored or ()) and path not in self._ignored


def _parents(path: bytes, root: bytes) -> list[bytes]:
    """Return the directories above a path, up to the project's root if it is in there."""
    found = []
    while path != (path := os.path.dirname(path)):
        found.append(path)
        if not _inner(root, path):
            break
    return found


def _inner(top: bytes, path: bytes) -> bytes:
    """Return a path relative to a directory that it is in; empty if it is not."""
    prefix = top.rstrip(b"/") + b"/"
    return path[len(prefix) :] if path.startswith(prefix) else b""


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
