"""What of the source has to be sent, given what is known of both sides. No I/O.

    nothing known of the mirror    all of it; rsync finds out what is there already
    the mirror's note holds        what is not what it was, here or there
    much of the mirror differs     all of it, compared by content: nobody knows what happened there

What is the same by size and time of modification, and is not by something else, is compared by
content as well: rsync itself would take it for the same.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from psync.sync.keeper import Checked, nameable
from psync.sync.known import Known, Parts, differing, doubtful
from psync.sync.listing import Stat
from psync.sync.plan import Tree

BIGGEST = 3
"""Files that are worth a look before they are sent."""


class Part(msgspec.Struct, frozen=True):
    """What goes to one part of the mirror.

    Attributes:
        tree: where it lies.
        entries: what is listed of it for rsync when all of it is sent.
        never: of that, what rsync only warns of: links that leave the project, special files.
        links: of what was named, the links that are followed.
        stats: what every path is like, links and directories too.
    """

    tree: Tree
    entries: tuple[bytes, ...]
    links: tuple[bytes, ...]
    stats: Mapping[bytes, Stat]
    never: frozenset[bytes] = frozenset()


class Selection(msgspec.Struct, frozen=True):
    """What is to be sent.

    Attributes:
        plain: trees of which rsync decides by size and time.
        checked: trees that it compares by content.
        followed: links whose targets are sent.
        partial: it is only what changed, and the rest is known to be there.
        names: all of it, as paths in the mirror.
        size: bytes of its files; what links lead to is not counted.
        biggest: absolute paths and sizes of the biggest of them, some from each part of the mirror.
    """

    plain: tuple[Tree, ...] = ()
    checked: tuple[Tree, ...] = ()
    followed: tuple[Tree, ...] = ()
    partial: bool = False
    names: tuple[bytes, ...] = ()
    size: int = 0
    biggest: tuple[tuple[bytes, int], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send."""
        return not (self.plain or self.checked or self.followed)


def select(
    parts: Sequence[Part],
    known: Known,
    checked: Checked,
    *,
    checksum: bool = False,
    gone: Collection[bytes] = (),
) -> Selection:
    """Decide what to send.

    Args:
        parts: what there is.
        known: what was known when the last whole sync ended.
        checked: what the daemon says of the mirror since.
        checksum: compare everything by content.
        gone: paths in the mirror that are going to be removed.
    """
    by_content = checksum or checked.many
    if checked.known and not by_content:
        selection = _select(parts, known, checked, partial=True, by_content=False)
        # Of more than that the daemon cannot be told what it is to look at again.
        if nameable((*selection.names, *gone)):
            return selection
    return _select(parts, known, checked, partial=False, by_content=by_content)


def _select(
    parts: Sequence[Part], known: Known, checked: Checked, *, partial: bool, by_content: bool
) -> Selection:
    there = _by_part(checked.changed)
    plain: list[Tree] = []
    compared: list[Tree] = []
    followed: list[Tree] = []
    names: list[bytes] = []
    size = 0
    biggest: list[tuple[bytes, int]] = []
    for part in parts:
        tree, stats = part.tree, part.stats
        before = known.parts.get(tree.destination, {})
        changed = differing(stats, before)
        touched = {name for name in there.get(tree.destination, ()) if name in stats} - part.never
        links = set(part.links)
        wanted = changed | touched if partial else {*part.entries, *links}
        names += [tree.destination + b"/" + name for name in wanted - part.never]
        doubts = {name for name in changed if doubtful(name, stats, before)} | touched
        doubts = wanted if by_content else doubts.intersection(wanted)
        sizes = {name: _size(stats.get(name, ())) for name in wanted}
        size += sum(sizes.values())
        some = heapq.nlargest(BIGGEST, sizes, key=sizes.__getitem__)
        biggest += [(os.path.join(tree.base, name), sizes[name]) for name in some if sizes[name]]
        _add(plain, tree, wanted - doubts - links)
        _add(compared, tree, (wanted & doubts) - links, checksum=True)
        _add(followed, tree, wanted & links, follow=True)
    return Selection(
        plain=tuple(plain),
        checked=tuple(compared),
        followed=tuple(followed),
        partial=partial,
        names=tuple(names),
        size=size,
        biggest=tuple(biggest),
    )


def merge(known: Known, now: Parts, gone: Iterable[bytes]) -> Parts:
    """Bring what is known up to date after a partial sync, in place, and return it.

    What this sync did not look at stays known: there may be very much of it, and other commands may
    have sent other files.

    Args:
        known: what was known before.
        now: what is known of what this sync looked at.
        gone: paths in the mirror that it removed.
    """
    parts = known.parts
    for name in gone:  # first: something else may have taken its place
        part, _, rest = name.partition(b"/")
        parts.get(part, {}).pop(rest.rstrip(b"/"), None)
    for part, stats in now.items():
        parts.setdefault(part, {}).update(stats)
    return parts


def _add(
    trees: list[Tree],
    tree: Tree,
    names: set[bytes],
    *,
    checksum: bool = False,
    follow: bool = False,
) -> None:
    if names:
        entries = tuple(sorted(names))
        trees.append(Tree(tree.base, entries, tree.destination, follow=follow, checksum=checksum))


def _size(one: Stat) -> int:
    return one[1] if len(one) == 5 and stat.S_ISREG(one[0]) else 0


def _by_part(names: Iterable[bytes]) -> dict[bytes, set[bytes]]:
    found: dict[bytes, set[bytes]] = {}
    for name in names:
        part, _, rest = name.partition(b"/")
        found.setdefault(part, set()).add(rest)
    return found
