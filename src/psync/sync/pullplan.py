"""What a pull brings and where to, and whether it may go there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from psync.errors import UsageError
from psync.sync import git
from psync.sync.listing import RESERVED
from psync.sync.plan import OUTSIDE, mirror_path
from psync.sync.project import Project
from psync.sync.rules import GIT_FILE, OWN_FILE, Rules, Scope
from psync.sync.wanted import fixed_part, is_wild
from psync.text import printable

DEFAULT = b"pulled"
"""The directory that files go to unless another one is named, below the working directory."""

MARKER = b"# made by psync pull: what lies here is neither committed nor synced\n*\n"
"""What its ``.gitignore`` holds."""


class Group(msgspec.Struct, frozen=True):
    """Names below one directory of the mirror, and where they come out.

    Attributes:
        part: of the mirror.
        base: the directory that the names are relative to, itself relative to the part.
        prefix: the directory below the destination.
        typed: the names, and what was typed for each.
    """

    part: bytes
    base: bytes
    prefix: bytes
    typed: Mapping[bytes, bytes]

    @property
    def names(self) -> tuple[bytes, ...]:
        """The names."""
        return tuple(self.typed)


class PullPlan(msgspec.Struct, frozen=True):
    """All that one pull does.

    Attributes:
        project: whose mirror it is.
        groups: what to bring.
        into: absolute path of the destination, without links.
        default: nobody named the destination.
        over_source: files of the project may be written over.
        keep: names below the destination that are not replaced.
    """

    project: Project
    groups: tuple[Group, ...]
    into: bytes
    default: bool = False
    over_source: bool = False
    keep: frozenset[bytes] = frozenset()


def plan_pull(
    project: Project,
    here: bytes,
    paths: Sequence[bytes],
    *,
    into: bytes | None = None,
    over_source: bool = False,
) -> PullPlan:
    """Decide what comes from where.

    Args:
        project: the project.
        here: absolute working directory, without links.
        paths: as they were typed, relative to ``here`` or absolute.
        into: where to, relative to ``here``; None for ``pulled``, or with ``over_source`` for where
            the files belong.
        over_source: files of the project may be written over.

    Raises:
        UsageError: a path cannot be pulled.
    """
    own_place = over_source and into is None
    cwd = mirror_path(project.root, here)
    found: dict[tuple[bytes, bytes, bytes], dict[bytes, bytes]] = {}
    for typed in paths:
        if b"\0" in typed or not typed:
            raise UsageError("a path must not be empty", hint="see psync pull --help")
        place = mirror_path(project.root, os.path.join(here, typed))
        part, _, name = place.partition(b"/")
        name = name or b"."
        bad = next((one for one in name.split(b"/") if one.lower() in RESERVED), None)
        if bad is not None:
            raise UsageError(
                f"{printable(typed)} cannot be pulled: {printable(bad)} is never synced",
                hint="name other files",
            )
        if own_place and part == OUTSIDE:
            raise UsageError(
                f"{printable(typed)} lies outside of the project",
                hint="say where it should go with --into",
            )
        if not own_place and (place == cwd or place.startswith(cwd + b"/")):
            key = (part, cwd.partition(b"/")[2], b"")
            name = place[len(cwd) + 1 :] or b"."
        else:
            key = (part, b"", OUTSIDE if part == OUTSIDE else b"")
        found.setdefault(key, {})[name] = typed
    if own_place:
        target = project.root
    else:
        target = os.path.realpath(os.path.join(here, DEFAULT if into is None else into))
    default = into is None and not over_source
    return PullPlan(
        project=project,
        groups=tuple(Group(*key, names) for key, names in found.items()),
        into=target,
        default=default,
        over_source=over_source,
        keep=frozenset((GIT_FILE, OWN_FILE)) if default else frozenset(),
    )


def check_destination(
    plan: PullPlan,
    *,
    sources: Iterable[bytes] = (),
    exclude: Sequence[bytes] = (),
    environ: Mapping[str, str],
) -> None:
    """Make sure that a pull writes over nothing that is the user's own work.

    Args:
        plan: the pull.
        sources: absolute paths outside of the project that are synced as well.
        exclude: patterns of what a sync leaves out.
        environ: the environment for git.

    Raises:
        UsageError: it would.
    """
    if plan.over_source or (plan.default and may_be_made(plan.into)):
        return
    rules = _Ignored(plan.project.root, exclude, environ)
    for group in plan.groups:
        for name, typed in group.typed.items():
            # Of what a wildcard stands for, nobody knows yet what leaves it out.
            several = is_wild(name) or name == b"."
            path = os.path.join(plan.into, group.prefix, fixed_part(name))
            path = os.path.normpath(path)
            if rules.sends(path, several) or any(_below(source, path) for source in sources):
                shown = printable(os.path.normpath(os.path.join(plan.into, group.prefix, name)))
                raise UsageError(
                    f"{printable(typed)} would go to {shown}, among the files that psync sync "
                    "sends",
                    hint="name another directory with --into, or let it write there with "
                    "--overwrite-source",
                )


class _Ignored:
    """What a sync of the whole project would leave out."""

    def __init__(self, root: bytes, exclude: Sequence[bytes], environ: Mapping[str, str]) -> None:
        self._root = root
        self._environ = environ
        self._rules = Rules(root, exclude, environ)
        self._top: Scope | None = None

    def sends(self, path: bytes, directory: bool) -> bool:
        """Whether an absolute path is sent, or something in it; it need not exist."""
        if not _below(self._root, path):
            return False
        if path == self._root and not directory:
            return True
        if self._top is None:
            self._rules.prepare([self._root])
            self._top = self._rules.scope(self._root)
        scope, here = self._top, self._root
        if directory:  # what may be in it: any name, which only a pattern for all of them matches
            path = os.path.join(path, b"psync pull")
        names = path[len(self._root.rstrip(b"/")) + 1 :].split(b"/")
        for index, name in enumerate(names):
            try:
                scope = self._rules.enter(scope, here, os.listdir(here))
            except OSError:
                pass  # it is not there yet
            here = os.path.join(here, name)
            if index < len(names) - 1 or os.path.isdir(here):
                below = self._rules.below(scope, here)
                if below is None:
                    return False
                scope = below
            elif self._rules.leaves_out(scope, here):
                return False
        # What is not there git does not list, but it knows the patterns.
        copy = git.working_copy(self._root)
        if copy is None or scope.ignored is None or scope.whole:
            return True
        return git.blame(copy, path, self._environ) is None


def make_destination(plan: PullPlan) -> None:
    """Make the destination; the default one is marked, so that git and psync leave it alone.

    Raises:
        UsageError: it is no directory, or cannot be made.
    """
    try:
        os.makedirs(plan.into, exist_ok=True)
        if plan.default and not os.listdir(plan.into):
            with open(os.path.join(plan.into, GIT_FILE), "xb") as file:
                file.write(MARKER)
    except FileExistsError:
        raise UsageError(
            f"{printable(plan.into)} is no directory", hint="name another one with --into"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{printable(plan.into)} cannot be made: {error.strerror}",
            hint="name another directory with --into",
        ) from error


def may_be_made(path: bytes) -> bool:
    """Whether there is nothing yet, or an empty directory."""
    try:
        return not os.listdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _below(root: bytes, path: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")
