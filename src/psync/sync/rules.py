"""What is left out of a directory: the patterns that count there, found while walking through it.

From the weakest word to the strongest: git's (asked of git in a working copy; where git cannot be
asked, ``.gitignore`` files are read here), then ``[sync] exclude``, then ``.psyncignore`` files
from the root inwards. A directory that psync's own patterns bring back with ``!`` comes whole,
but for what they leave out themselves.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from psync.sync import git

if TYPE_CHECKING:
    from psync.sync.ignore import Rule, RuleSet

GIT_FILE = b".gitignore"
OWN_FILE = b".psyncignore"
EXCLUDE_KEY = b"[sync] exclude"

LONGEST = 1 << 20
"""Bytes that are read of a file of patterns."""


class Scope(msgspec.Struct, frozen=True):
    """What counts in one directory.

    Attributes:
        own: psync's own patterns, from the outermost directory inwards.
        ignored: what git said that it ignores; None where it was not asked.
        git: patterns of the ``.gitignore`` files, where git was not asked.
        whole: git's word does not count here.
        dropped: the directory is left out; only what is brought back by name is sent.
    """

    own: tuple[RuleSet, ...] = ()
    ignored: frozenset[bytes] | None = None
    git: tuple[RuleSet, ...] = ()
    whole: bool = False
    dropped: bool = False


class Rules:
    """Finds the patterns that count.

    Args:
        root: absolute path of the project's root.
        exclude: patterns of the configuration, relative to the root.
        environ: the environment for git.
        cancelled: asked while git looks; if it says so, ``prepare`` and ``enter`` raise
            ``Interrupted``.
    """

    def __init__(
        self,
        root: bytes,
        exclude: Sequence[bytes],
        environ: Mapping[str, str],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._root = root
        self._environ = environ
        self._cancelled = cancelled
        self._exclude: tuple[RuleSet, ...] = ()
        if exclude:
            from psync.sync.ignore import RuleSet

            self._exclude = (RuleSet(exclude, source=EXCLUDE_KEY, directory=root),)
        self._ignored: dict[bytes, frozenset[bytes] | None] = {}

    def prepare(self, directories: Sequence[bytes]) -> None:
        """Ask git once for all directories that ``scope`` will be called with."""
        asked: dict[bytes, list[bytes]] = {}
        for path in directories:
            root = git.working_copy(path)
            if root is not None:
                asked.setdefault(root, []).append(path)
        for root, paths in asked.items():
            self._ignored[root] = git.ignored(root, paths, self._environ, self._cancelled)

    def scope(self, path: bytes) -> Scope:
        """Return what counts in a directory that was named, before it is looked into.

        Args:
            path: absolute.
        """
        anchor = self._root if _is_below(self._root, path) else path
        exclude = self._exclude if anchor == self._root else ()
        own, rule = self._named(anchor, path, OWN_FILE, exclude)
        whole = rule is not None and rule.keep
        if rule is not None and not rule.keep:
            own = ()
        copy = git.working_copy(path)
        ignored = None if copy is None else self._ignored.get(copy)
        if copy is not None and ignored is not None:
            whole = whole or any(one in ignored for one in _chain(copy, path))
            return Scope(own=own, ignored=ignored, whole=whole)
        sets, rule = self._named(copy or anchor, path, GIT_FILE, ())
        whole = whole or (rule is not None and not rule.keep)
        return Scope(own=own, git=sets, whole=whole)

    def enter(self, scope: Scope, path: bytes, names: Container[bytes]) -> Scope:
        """Return what counts in a directory once it is known which names it holds."""
        changes: dict[str, object] = {}
        if OWN_FILE in names and (one := read_rules(os.path.join(path, OWN_FILE))):
            changes["own"] = (*scope.own, one)
        if b".git" in names and path not in self._ignored:  # a working copy in a working copy
            self._ignored[path] = git.ignored(path, [path], self._environ, self._cancelled)
            changes["ignored"] = self._ignored[path]
            if self._ignored[path] is None:
                changes["git"] = scope.git
        if (
            changes.get("ignored", scope.ignored) is None
            and not scope.whole
            and GIT_FILE in names
            and (one := read_rules(os.path.join(path, GIT_FILE)))
        ):
            changes["git"] = (*scope.git, one)
        return msgspec.structs.replace(scope, **changes) if changes else scope

    def leaves_out(self, scope: Scope, path: bytes) -> bool:
        """Whether a file, or anything else but a directory, is left out.

        Args:
            scope: what counts in its directory.
            path: absolute.
        """
        if scope.own and (rule := _decide(scope.own, path, directory=False)):
            return not rule.keep
        return scope.dropped or self._git_leaves_out(scope, path, directory=False)

    def blame(self, scope: Scope, path: bytes, *, directory: bool) -> Rule | None:
        """Return the pattern that leaves a path out; None where git said so, or none does.

        Args:
            scope: what counts in its directory.
            path: absolute.
            directory: it is a directory.
        """
        for sets in (scope.own, scope.git):
            rule = _decide(sets, path, directory=directory)
            if rule is not None and not rule.keep:
                return rule
        return None

    def below(self, scope: Scope, path: bytes) -> Scope | None:
        """Return what counts in a directory inside of one, None where nothing of it is sent."""
        if scope.own and (rule := _decide(scope.own, path, directory=True)):
            if not rule.keep:
                return None
            return msgspec.structs.replace(scope, whole=True, dropped=False)
        if scope.dropped or self._git_leaves_out(scope, path, directory=True):
            if not any(one.may_keep(path) for one in scope.own):
                return None
            return msgspec.structs.replace(scope, dropped=True)
        return scope

    def _git_leaves_out(self, scope: Scope, path: bytes, *, directory: bool) -> bool:
        if scope.whole:
            return False
        if scope.ignored is not None:
            return path in scope.ignored
        rule = _decide(scope.git, path, directory=directory) if scope.git else None
        return rule is not None and not rule.keep

    def _named(
        self, anchor: bytes, path: bytes, name: bytes, first: tuple[RuleSet, ...]
    ) -> tuple[tuple[RuleSet, ...], Rule | None]:
        """Return the patterns above a directory, and which of them leaves it out or brings it."""
        sets = list(first)
        kept = None
        for one in _chain(anchor, path):
            if one != anchor and (rule := _decide(sets, one, directory=True)):
                if not rule.keep:
                    return tuple(sets), rule
                kept = rule
            if one != path and (read := read_rules(os.path.join(one, name))):
                sets.append(read)
        return tuple(sets), kept


def read_rules(path: bytes) -> RuleSet | None:
    """Read a file of patterns; None where there is none that can be read."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with open(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            text = file.read(LONGEST)
    except OSError:
        return None
    from psync.sync.ignore import RuleSet, parse_lines

    return RuleSet(parse_lines(text), source=path, directory=os.path.dirname(path))


def _decide(sets: Sequence[RuleSet], path: bytes, *, directory: bool) -> Rule | None:
    for one in reversed(sets):
        rule = one.match(path, directory=directory)
        if rule is not None:
            return rule
    return None


def _is_below(root: bytes, path: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def _chain(above: bytes, path: bytes) -> list[bytes]:
    """Return all directories from ``above`` to ``path``, both included."""
    found = [path]
    while path != above:
        path = os.path.dirname(path)
        found.append(path)
    return found[::-1]
