"""Why a path would be sent, or would not: which pattern, in which file and line, decides."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from psync.sync import git
from psync.sync.kinds import never_sent
from psync.sync.listing import RESERVED, look_at
from psync.sync.plan import SyncPlan, Tree
from psync.sync.rules import Rules, Scope
from psync.text import printable


class Reason(msgspec.Struct, frozen=True):
    """What becomes of a path.

    Attributes:
        sent: it is sent.
        text: why, for people.
    """

    sent: bool
    text: str


def why(plan: SyncPlan, path: bytes, environ: Mapping[str, str]) -> Reason:
    """Return what becomes of a path, and why.

    Args:
        plan: of the sync.
        path: absolute.
        environ: the environment for git.
    """
    path = os.path.normpath(path)
    if not os.path.lexists(path):
        return Reason(False, "there is no such file")
    for tree in plan.trees:
        for entry in (*tree.entries, *tree.inner):
            if os.path.normpath(os.path.join(tree.base, entry)) == path:
                return Reason(True, "it is named, by itself or as a directory")
    found = None
    for tree in plan.trees:
        for entry in (*tree.entries, *tree.inner):
            top = os.path.normpath(os.path.join(tree.base, entry))
            if path.startswith(top.rstrip(b"/") + b"/"):
                reason = _inside(plan, tree, top, path, environ)
                if reason.sent:
                    return reason
                found = found or reason
    if found is not None:
        return found
    return Reason(False, "nothing that is named holds it; see --assets and [sync] include")


def _inside(
    plan: SyncPlan, tree: Tree, top: bytes, path: bytes, environ: Mapping[str, str]
) -> Reason:
    rules = Rules(plan.project.root, plan.exclude, environ)
    rules.prepare([top])
    scope: Scope | None = rules.scope(top)
    here = top
    for name in path[len(top.rstrip(b"/")) + 1 :].split(b"/"):
        if name in RESERVED:
            return Reason(False, f"{printable(name)} is never sent")
        assert scope is not None
        if os.path.islink(here) and here != top:
            return Reason(False, f"{printable(here)} is a link; what it leads to is not sent")
        scope = rules.enter(scope, here, os.listdir(here))
        before, here = scope, os.path.join(here, name)
        if os.path.isdir(here) and not os.path.islink(here):
            scope = rules.below(scope, here)
            out = scope is None or (scope.dropped and here == path)
        else:
            out = rules.leaves_out(scope, here)
        if out:
            return Reason(False, _blame(rules, before, here, environ))
    name = os.path.relpath(path, tree.base)
    if never_sent(tree.base, {name: look_at(path)}):
        if os.path.islink(path):
            return Reason(False, "it is a link that leaves the project")
        return Reason(False, "it is not a regular file")
    return Reason(True, f"{printable(top)} is sent, and nothing leaves it out")


def _blame(rules: Rules, scope: Scope, path: bytes, environ: Mapping[str, str]) -> str:
    rule = rules.blame(scope, path, directory=os.path.isdir(path))
    if rule is not None:
        source, line, pattern = rule.source, rule.line, rule.pattern
    else:
        copy = git.working_copy(path)
        said = None if copy is None else git.blame(copy, path, environ)
        if said is None:
            return "git ignores it, or all that it holds"
        source, line, pattern = said
    return f"left out by {printable(source)}:{line}: {printable(pattern)}"
