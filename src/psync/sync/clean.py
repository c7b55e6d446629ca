"""What a mirror holds that no sync sends, and its removal.

    cleaning = Cleaning(endpoint, mirror, sent_by(source), state=state)
    surplus = cleaning.find()       # changes nothing
    …                               # ask
    cleaning.remove(surplus)

The mirror is listed by an rsync that would bring all of it here, and removed is, by name, what that
listing had and no more. What is written there meanwhile stays, and with it the directories it is
in. No link is followed, neither by the listing nor by the removal (see ``removal_argv``).

Nothing here is asyncio.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from psync.errors import Interrupted, SyncError
from psync.sync.endpoint import Endpoint
from psync.sync.listing import MARK_NAME
from psync.sync.manifest import levels
from psync.sync.plan import OUTSIDE, TREE
from psync.sync.reading import Item, Reading, reading_argv
from psync.sync.rsync import MirrorMissing, Remote, Transfer, opening_argv, removal_argv
from psync.sync.source import Source
from psync.sync.tools import find_rsync
from psync.text import printable

ROUNDS = 64
"""How many levels of directories that nobody may read are opened, one inside the other."""

_SHOWN = 5
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Sent(msgspec.Struct, frozen=True):
    """What a sync sends to one part of the mirror.

    Attributes:
        part: of the mirror.
        names: files, links and directories, relative to the part.
        below: directories of which everything counts as sent.
    """

    part: bytes
    names: frozenset[bytes]
    below: tuple[bytes, ...] = ()


class Surplus(msgspec.Struct, frozen=True):
    """What is in a mirror and not sent.

    Attributes:
        outermost: paths in the mirror, sorted, none inside another; directories end with a slash.
        files: number of files and links, all that is in the directories included.
        size: their bytes.
        names: all of it, by part and relative to the part; directories end with a slash.
        closed: directories among them into which their owner cannot write, or look.
    """

    outermost: tuple[bytes, ...] = ()
    files: int = 0
    size: int = 0
    names: Mapping[bytes, tuple[bytes, ...]] = {}
    closed: Mapping[bytes, tuple[bytes, ...]] = {}

    @property
    def empty(self) -> bool:
        """Whether the mirror is exact."""
        return not self.outermost


def sent_by(source: Source) -> tuple[Sent, ...]:
    """Return what a sync sends of files that were looked at."""
    found = []
    for part in source.parts:
        tree, listing = part.tree, source.listing(part)
        names = {*listing.entries, *listing.directories, *part.links, *tree.empty, *tree.entries}
        below = [n for n in part.links if os.path.isdir(os.path.join(tree.base, n))]
        found.append(Sent(tree.destination, frozenset(names), tuple(below)))
    return tuple(found)


class Cleaning:
    """Finds and removes what is in a mirror and not sent.

    Args:
        endpoint: where the mirror is; prepared.
        mirror: absolute path of the project's directory there.
        sent: what is sent, by part; a part that is not among them is to be empty.
        state: the client's state directory, as text.
        environ: the environment of rsync and ssh.
        folds_case: the file system there may spell names in another way than they were sent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        mirror: bytes,
        sent: Iterable[Sent],
        *,
        state: str,
        environ: Mapping[str, str] | None = None,
        folds_case: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._mirror = mirror
        self._sent = {one.part: one for one in sent}
        self._state = state
        self._environ = os.environ if environ is None else environ
        self._key = _folded if folds_case else _exact
        self._running: Transfer | None = None
        self._cancelled = False

    def find(self) -> Surplus:
        """List the mirror, and return what is not sent. Changes nothing; blocks.

        Raises:
            Interrupted: ``cancel`` was called.
            SyncError: nothing is sent at all, or a directory that is sent cannot be read there.
            PsyncError: as ``Transfer.wait``.
        """
        if not any(one.names for one in self._sent.values()):
            raise SyncError(
                "nothing of the project is sent, so nothing is removed from its mirror",
                hint="look whether the source is there",
            )
        outermost: list[bytes] = []
        names: dict[bytes, tuple[bytes, ...]] = {}
        closed: dict[bytes, tuple[bytes, ...]] = {}
        files = size = 0
        for part in (TREE, OUTSIDE):
            found = self._surplus(part, self._listed(part))
            inside = {item.name for item in found if item.kind == "d"}
            tops = [item for item in found if os.path.dirname(item.name) not in inside]
            outermost += [part + b"/" + _shown(item) for item in tops]
            names[part] = tuple(_shown(item) for item in found)
            closed[part] = tuple(
                item.name for item in found if item.kind == "d" and item.mode[:3] != b"rwx"
            )
            files += sum(item.kind != "d" for item in found)
            size += sum(item.size for item in found if item.kind == "f")
        return Surplus(tuple(sorted(outermost)), files, size, names, closed)

    def remove(self, surplus: Surplus) -> tuple[bytes, ...]:
        """Remove it; blocks.

        Whatever happens, nothing else is touched; what is gone by then is gone.

        Returns:
            What was removed, as paths in the mirror; directories end with a slash.

        Raises:
            Interrupted: ``cancel`` was called.
            DestinationError: something cannot be removed.
            SyncError: something was written there meanwhile, and is there still.
            PsyncError: as ``Transfer.wait``.
        """
        surplus = self._open(surplus)
        removed: list[bytes] = []
        for part, names in surplus.names.items():
            for round_ in filter(None, levels(names)):
                with way_to(os.path.dirname(name) for name in round_) as way:
                    remote = self._remote()
                    command = removal_argv(
                        round_, way, part, rsync=self._rsync, mirror=self._mirror, remote=remote
                    )
                    done = self._start(command, remote, part, removal=True).wait()
                removed += [part + b"/" + name for name in done.removed_names]
        left = set(surplus.outermost).intersection(self.find().outermost)
        if left:
            shown = ", ".join(printable(name) for name in sorted(left)[:_SHOWN])
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            raise SyncError(
                f"not removed, since something was written there meanwhile: {shown}{more}",
                hint="wait until no run writes there any more, and clean again",
            )
        return tuple(removed)

    def cancel(self) -> None:
        """Have what blocks raise ``Interrupted``; from any thread or a signal handler."""
        self._cancelled = True
        running = self._running
        if running is not None:
            running.cancel()

    # -- looking ------------------------------------------------------------------------------

    def _listed(self, part: bytes) -> dict[bytes, Item]:
        """Return everything in a part of the mirror."""
        items: dict[bytes, Item] = {}

        def take(item: Item) -> None:
            items[item.name] = item

        with tempfile.TemporaryDirectory(prefix="psync-clean-") as empty:
            remote = self._remote()
            argv, feed = reading_argv(
                os.path.join(self._mirror, part),
                os.fsencode(empty),
                rsync=self._rsync,
                remote=remote,
                rules=None,
                options=["--links", "--dry-run"],
            )
            reading = Reading(
                argv,
                feed,
                mirror=self._mirror,
                host=self._endpoint.host,
                environ=self._environ,
                destination=self._endpoint.destination,
                remote=remote,
            )
            self._own(reading)
            try:
                failures = reading.read(take)
            except MirrorMissing:
                return {}
        items.pop(b".", None)
        sent = self._keys(part)
        top = b"/" + part + b"/"
        for failure in failures:
            name = failure.name.rpartition(top)[2]
            if failure.errno == 2:
                continue  # it went away meanwhile
            if name not in items or self._key(name) in sent:
                raise SyncError(
                    f"what is in {printable(failure.name)} cannot be found out: {failure.reason}",
                    hint="look at that path there",
                )
        return items

    def _surplus(self, part: bytes, items: Mapping[bytes, Item]) -> list[Item]:
        sent = self._keys(part)
        below = [self._key(name) + b"/" for name in self._below(part)]
        found = []
        for name, item in sorted(items.items()):
            key = self._key(name)
            if key in sent or key == MARK_NAME or any(key.startswith(one) for one in below):
                continue
            found.append(item)
        return found

    def _keys(self, part: bytes) -> set[bytes]:
        """What is sent to a part, and the directories that it lies in."""
        found: set[bytes] = set()
        if part in self._sent:
            for name in self._sent[part].names:
                key = self._key(name)
                while key and key not in found:
                    found.add(key)
                    key = os.path.dirname(key)
        return found

    def _below(self, part: bytes) -> tuple[bytes, ...]:
        return self._sent[part].below if part in self._sent else ()

    # -- removing -----------------------------------------------------------------------------

    def _open(self, surplus: Surplus) -> Surplus:
        """Give the owner his rights in directories that are to go; return what is there then."""
        tops = surplus.outermost
        opened: set[bytes] = set()
        for _ in range(ROUNDS):
            closed = {
                part: tuple(name for name in names if part + b"/" + name not in opened)
                for part, names in surplus.closed.items()
            }
            if not any(closed.values()):
                break
            for part, names in closed.items():
                if names:
                    opened.update(part + b"/" + name for name in names)
                    with way_to(names) as way:
                        remote = self._remote()
                        command = opening_argv(
                            names, way, part, rsync=self._rsync, mirror=self._mirror, remote=remote
                        )
                        self._start(command, remote, part).wait()
            found = self.find()  # more than was listed then only in what could not be looked into
            surplus = msgspec.structs.replace(
                found,
                outermost=tuple(name for name in found.outermost if name in tops),
                names={part: _within(part, found.names[part], tops) for part in found.names},
                closed={part: _within(part, found.closed[part], tops) for part in found.closed},
            )
        return surplus

    # -- rsync --------------------------------------------------------------------------------

    def _start(
        self,
        command: tuple[list[str | bytes], bytes],
        remote: Remote | None,
        part: bytes,
        *,
        removal: bool = False,
    ) -> Transfer:
        transfer = Transfer(
            *command,
            mirror=self._mirror,
            host=self._endpoint.host,
            environ=self._environ,
            destination=self._endpoint.destination,
            remote=remote,
            removal=removal,
            part=part,
        )
        self._own(transfer)
        return transfer

    def _own(self, transfer: Transfer) -> None:
        self._running = transfer
        if self._cancelled:
            transfer.cancel()

    def _remote(self) -> Remote | None:
        self._check_cancelled()
        return self._endpoint.remote()

    @property
    def _rsync(self) -> str:
        return find_rsync(self._state, self._environ).path

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted while the mirror was cleaned")


@contextmanager
def way_to(directories: Iterable[bytes]) -> Iterator[bytes]:
    """A directory that holds these directories, given relative to it, as long as this lasts.

    They may lie as deep as rsync can say; an absolute path to them may be longer than the system
    takes.
    """
    wanted: set[bytes] = set()
    for name in directories:
        while name and name not in wanted:
            wanted.add(name)
            name = os.path.dirname(name)
    inner_last = sorted(wanted, key=lambda name: name.count(b"/"))
    with tempfile.TemporaryDirectory(prefix="psync-clean-") as made:
        top = os.open(made, _DIRECTORY)
        try:
            for name in inner_last:
                _in_parent(top, name, os.mkdir)
            yield os.fsencode(made)
        finally:
            for name in reversed(inner_last):
                try:
                    _in_parent(top, name, os.rmdir)
                except OSError:
                    pass  # it was not made
            os.close(top)


def _in_parent(top: int, name: bytes, act: Callable[..., None]) -> None:
    """Call ``act`` with the last component of a path and its directory."""
    directory = os.dup(top)
    *above, last = name.split(b"/")
    try:
        for part in above:
            inner = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        act(last, dir_fd=directory)
    finally:
        os.close(directory)


def _within(part: bytes, names: Iterable[bytes], tops: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return those of the names that are among the paths, or inside one of them."""
    found = set(tops)
    return tuple(
        name
        for name in names
        if any(one in found for one in _chain(part + b"/" + name.rstrip(b"/")))
        or part + b"/" + name in found
    )


def _chain(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path and itself, each with a slash."""
    while path:
        yield path + b"/"
        path = os.path.dirname(path)


def _shown(item: Item) -> bytes:
    return item.name + b"/" if item.kind == "d" else item.name


def _exact(name: bytes) -> bytes:
    return name


def _folded(name: bytes) -> bytes:
    return os.fsencode(unicodedata.normalize("NFC", os.fsdecode(name)).casefold())
