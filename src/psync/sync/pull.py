"""Bringing files of a mirror back: what is asked for, where it goes, and the transfers.

    plan = plan_pull(project, here, paths, into=into)
    check_destination(plan, exclude=…, environ=os.environ)
    pulled = Pull(plan, endpoint, state=state).wait()

Names keep their place: what is below the working directory comes out below the destination with its
path from there, other files of the project with their path from the root, and what lies outside
of the project below ``outside``.

Nothing here is asyncio; from a coroutine, run ``wait`` in an executor and call ``cancel`` when
cancelled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from psync.errors import Fault, Interrupted, PsyncError, SyncError
from psync.sync.blame import MirrorMissing
from psync.sync.endpoint import Endpoint
from psync.sync.listing import PARTIAL_NAME, RESERVED
from psync.sync.progress import OutputParser, Progress
from psync.sync.pullplan import Group, PullPlan
from psync.sync.reading import Failure, Item, Reading, reading_argv
from psync.sync.staging import Placed, Staging
from psync.sync.tools import find_rsync
from psync.sync.wanted import Wanted
from psync.text import printable

RETRIES = 2
"""How often a transfer is begun again because the connection died, or files changed, under it."""

WARNINGS = 20
"""Warnings passed on one by one; the rest is counted."""

_SHOWN = 5  # files named in one message


class Pulled(msgspec.Struct, frozen=True):
    """What a pull did.

    Attributes:
        placed: files and links that are new or other ones now; of a dry run, that would be.
        same: files and links that were here already.
        size: bytes of ``placed``.
        seconds: how long it took.
        left: what was left out, with the reason, for people.
    """

    placed: tuple[Placed, ...]
    same: int
    size: int
    seconds: float
    left: tuple[tuple[bytes, str], ...] = ()


class Pull:
    """One pull, from this process.

    Args:
        plan: what to bring, and where to.
        endpoint: where the mirror is.
        state: the client's state directory, as text.
        environ: the environment of rsync and ssh.
        dry: bring nothing; ``wait`` returns what would be brought.
        on_progress: called about once a second while data flows.
        on_warning: called for each thing that was left out, at most ``WARNINGS`` times.

    All callbacks come from the thread that calls ``wait``.
    """

    def __init__(
        self,
        plan: PullPlan,
        endpoint: Endpoint,
        *,
        state: str,
        environ: Mapping[str, str] | None = None,
        dry: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self._plan = plan
        self._endpoint = endpoint
        self._state = state
        self._environ = os.environ if environ is None else environ
        self._dry = dry
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._reading: Reading | None = None
        self._cancelled = False
        self._preparing = False
        self._began = time.monotonic()
        self._placed: list[Placed] = []
        self._left: dict[bytes, str] = {}
        self._failed: dict[bytes, str] = {}
        self._missing: list[bytes] = []
        self._parts = [_Part(group) for group in plan.groups]

    def wait(self) -> Pulled:
        """Bring the files; blocks.

        When this raises, nothing of it is running any more. What had arrived whole is in its place
        in the destination, unless something had come that was not asked for; everything else there
        is as it was.

        Raises:
            Interrupted: ``cancel`` was called.
            NotAskedFor: the other side sent something else; nothing is kept.
            DestinationError: the destination cannot take the files.
            SSHError, ConnectionLost: no connection, or it broke (that is tried again).
            ToolMissing: ssh or rsync is missing, here or there.
            SyncError: something that was asked for is not there, or could not be brought.
        """
        self._endpoint.check()
        if self._dry:
            self._dry_run()
        else:
            self._bring()
        self._tell()
        other = {placed.name for placed in self._placed}.union(self._left)
        return Pulled(
            placed=tuple(self._placed),
            same=sum(name not in other for name, _ in self._all()),
            size=sum(placed.size for placed in self._placed),
            seconds=time.monotonic() - self._began,
            left=tuple(self._left.items()),
        )

    def cancel(self) -> None:
        """Have ``wait`` raise ``Interrupted``; from any thread or a signal handler, at any time."""
        self._cancelled = True
        if self._preparing:
            self._endpoint.cancel()
        reading = self._reading
        if reading is not None:
            reading.cancel()

    # -- transfers ----------------------------------------------------------------------------

    def _bring(self) -> None:
        with Staging(self._plan.into) as staging:
            failure: PsyncError | None = None
            came: list[tuple[_Part, bytes]] = []
            try:
                for number, part in enumerate(self._parts):
                    came.append((part, staging.directory(b"%d" % number)))
                    self._receive(*came[-1], staging.aside)
            except PsyncError as error:  # what is whole is kept, so that it need not come again
                failure = error
            # All of it before the first is moved: of a daemon that cheats nothing is taken.
            for part, directory in came:
                staging.check(directory, part.wanted)
            for part, directory in came:
                staging.place(
                    directory,
                    part.group.prefix,
                    cancelled=lambda: self._cancelled and failure is None,
                    keep=self._plan.keep,
                    on_placed=self._placed.append,
                    on_left=self._leave,
                )
            if failure is not None:
                raise failure
            self._check_cancelled()

    def _dry_run(self) -> None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="psync-pull-") as empty:
            for part in self._parts:
                self._receive(part, os.fsencode(empty), os.fsencode(empty))
        for name, item in self._all():
            # rsync does not know that a link is the same, since its target is changed on the way
            here = os.path.join(self._plan.into, name)
            if not item.same and (item.kind == "f" or not os.path.islink(here)):
                self._placed.append(Placed(name, item.size))

    def _all(self) -> Iterator[tuple[bytes, Item]]:
        """Files and links that are there, by their names below the destination."""
        for part in self._parts:
            for name, item in part.items.items():
                if item.kind in ("f", "L"):
                    yield os.path.join(part.group.prefix, name), item

    def _receive(self, part: _Part, directory: bytes, aside: bytes) -> None:
        """Bring one group; again, if that may help."""
        failures: list[Failure] = []
        for attempt in range(RETRIES + 1):
            last = attempt == RETRIES or self._cancelled
            try:
                failures = self._transfer(part, directory, aside)
            except MirrorMissing:
                break  # then nothing is there
            except PsyncError as error:
                if last or error.fault is not Fault.NETWORK or not self._endpoint.recover():
                    raise
                continue
            if last or all(one.errno for one in failures):
                break  # no file changed while it was read
        self._blame(part, directory, failures)

    def _transfer(self, part: _Part, directory: bytes, aside: bytes) -> list[Failure]:
        self._prepare()
        group, wanted = part.group, part.wanted
        base = os.path.join(self._plan.into, group.prefix)
        options: list[str | bytes] = [
            "--munge-links",
            "--sparse",
            "--chmod=Du+rwx,Fu+rw,go-w,a-s",
            b"--compare-dest=" + base,
            *(b"--exclude=" + name for name in sorted(RESERVED)),
        ]
        if self._dry:
            options.append("--dry-run")
        else:
            # Beside the files there are then only whole ones.
            options += [b"--temp-dir=" + aside, b"--partial-dir=" + aside + b"/" + PARTIAL_NAME]
        remote = self._endpoint.remote()
        mirror = os.path.join(self._endpoint.projects_root, self._plan.project.id.encode())
        argv, feed = reading_argv(
            os.path.join(mirror, group.part, group.base),
            directory,
            rsync=find_rsync(self._state, self._environ).path,
            remote=remote,
            rules=None if wanted.everything else wanted.rules(),
            options=options,
        )
        self._reading = Reading(
            argv,
            feed,
            mirror=mirror,
            host=self._endpoint.host,
            environ=self._environ,
            destination=self._endpoint.destination,
            remote=remote,
        )
        if self._cancelled:
            self._reading.cancel()
        try:
            return self._reading.read(part.take, self._show)
        finally:
            self._reading = None

    def _prepare(self) -> None:
        self._check_cancelled()
        self._preparing = True
        try:
            self._endpoint.prepare()
        finally:
            self._preparing = False
        self._check_cancelled()

    def _show(self, parser: OutputParser) -> None:
        if self._on_progress is not None and parser.progress is not None:
            self._on_progress(parser.progress)

    # -- what is told -------------------------------------------------------------------------

    def _blame(self, part: _Part, directory: bytes, failures: list[Failure]) -> None:
        """Note what of a group could not be brought, and which of its names nothing has."""
        group, wanted = part.group, part.wanted
        top = b"/" + os.path.join(group.part, group.base).rstrip(b"/")
        reached: set[bytes] = set()
        for name, item in part.items.items():
            reached.update(wanted.reached(name))
            if item.kind == "?":
                why = "it is neither file nor link nor directory"
                self._leave(os.path.join(group.prefix, name), why, False)
        for failure in failures:
            if failure.errno == 2 and failure.name.rstrip(b"/").endswith(top):
                continue  # all of this is not there
            above = directory if failure.here else top
            name = failure.name.rpartition(above + b"/")[2]
            reached.update(wanted.reached(name))
            changed = failure.errno == 2
            why = "it went away meanwhile" if changed else failure.reason
            self._leave(os.path.join(group.prefix, name), why, not changed)
        self._missing += [group.typed[name] for name in wanted.names if name not in reached]

    def _leave(self, name: bytes, why: str, failure: bool) -> None:
        (self._failed if failure else self._left)[name] = why

    def _tell(self) -> None:
        """Warn of what was left out.

        Raises:
            SyncError: something that was asked for is not here now.
        """
        if self._on_warning is not None:
            for name, why in list(self._left.items())[:WARNINGS]:
                self._on_warning(f"not pulled: {printable(name)}: {why}")
            if len(self._left) > WARNINGS:
                self._on_warning(f"not pulled: {len(self._left) - WARNINGS} more of the kind")
        host = self._endpoint.host or "this machine"
        if self._failed:
            names = [f"{printable(name)} ({why})" for name, why in self._failed.items()]
            raise SyncError(
                f"could not pull {_listed(names)}; all else is here",
                hint="make them readable there, or wait until they are written, and pull again",
            )
        if self._missing:
            names = [printable(name) for name in self._missing]
            raise SyncError(
                f"the mirror on {host} has no {_listed(names)}",
                hint="psync pull -n ., with the same --on, lists what there is to bring; "
                "a link on the way is not followed",
            )

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted; what had arrived whole by then is kept")


class _Part:
    """One group on its way.

    Attributes:
        group: what is asked for.
        wanted: its names.
        items: what is there.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.wanted = Wanted(group.names)
        self.items: dict[bytes, Item] = {}

    def take(self, item: Item) -> None:
        """Note what rsync found there."""
        if not item.same:  # what an earlier attempt brought is the same now, and was not
            self.items[item.name] = item
        else:
            self.items.setdefault(item.name, item)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
