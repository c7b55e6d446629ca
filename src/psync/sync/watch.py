"""What changes in the files of a plan, as it changes.

    async with Watcher(plan) as watcher:    # from now on nothing is missed
        …                                   # look at everything, sync it
        batch = await watcher.batch()       # waits for a change, and until nothing changes any more

What a batch holds are places to look at, not what happened there: a file that came and went is in
it as well, and what of it is sent, ``Source.refresh`` finds out.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from psync.errors import Interrupted
from psync.sync.machine import program_path
from psync.sync.notify import POLL_DELAY, Notifier, Poller, Source
from psync.sync.plan import SyncPlan
from psync.sync.watched import Watched, watched

SETTLE = 0.025
"""Seconds without a change after which a batch is complete: editors and tools that write a file
beside another one and rename it are done by then."""

PATIENCE = 2.0
"""Seconds after which a batch is complete although something still changes, such as a log."""

WRITTEN = 30.0
"""Seconds to wait for a program to be closed by who writes it; a linker may take some."""

MOST = 2000
"""Changes in a batch from which on everything is looked at. The system's queue of events is many
times longer (fs.inotify.max_queued_events), so that what it had to drop is found then as well."""

POLL_SETTLE = 2 * POLL_DELAY
"""What ``SETTLE`` is where all files are looked at again and again."""

_TICK = 0.02  # seconds between two looks at a file that is being written


class Watcher:
    """Watches what a plan sends. Belongs to one event loop.

    Use it as an asynchronous context manager; leaving it ends its threads.

    Args:
        plan: what is sent.
        polling: look at all files again and again instead of having the system tell, which file
            systems of other machines need; None leaves that to ``WATCHFILES_FORCE_POLLING``.
        warn: told when watching takes another way than it should.

    Attributes:
        polling: files are looked at again and again.
        on_first: called with the first changes of a batch, while it is settling.
        began: when the first change of the last batch was told, in the loop's time.
    """

    def __init__(
        self,
        plan: SyncPlan,
        *,
        polling: bool | None = None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        if polling is None:
            polling = bool(os.environ.get("WATCHFILES_FORCE_POLLING"))
        self.polling = polling
        self.on_first: Callable[[frozenset[bytes]], None] = lambda _changed: None
        self.began = 0.0
        self._since = 0.0
        self._plan = plan
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changed: set[bytes] = set()
        self._everywhere = False
        self._program = program_path(plan)
        self._ready = asyncio.Event()
        self._waiting: set[Source] = set()  # for these, before it is ready
        self._sources: list[Source] = []
        # what the threads change
        self._lock = threading.Lock()
        self._watched = Watched()
        self._left = False  # nobody wants to know any more

    async def __aenter__(self) -> Self:
        try:
            self._watched = await asyncio.to_thread(self._look)
            if self.polling:
                self._begin(self._poller())
            else:
                self._begin(
                    Notifier(self, lambda: self._watched.flat, recursive=False),
                    Notifier(self, lambda: self._watched.deep, recursive=True),
                )
            await self._ready.wait()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def batch(self) -> frozenset[bytes] | None:
        """Wait for changes; return where, as absolute paths, or None for everywhere.

        Cancellation loses no change; the next call returns it.
        """
        while not self._changed and not self._everywhere:
            self._news.clear()
            await self._news.wait()
        until = self._loop.time() + PATIENCE
        while self._loop.time() < until and await self._more():
            pass
        await self._written()
        self.began = self._since
        changed, self._changed = self._changed, set()
        everywhere, self._everywhere = self._everywhere, False
        return None if everywhere else frozenset(changed)

    # -- what the threads tell, called by them -------------------------------------------------

    def on_ready(self, source: Source) -> None:
        """From now on this source misses nothing."""
        self._tell(self._take_ready, source)

    def on_changes(self, changed: set[bytes]) -> None:
        """Something may have changed at these paths."""
        before = self._watched
        if any(before.outdated_by(path) for path in changed):
            self._survey()
        now = self._watched
        held = {path for path in changed if before.holds(path) or now.holds(path)}
        if any(now.behind_link(path) for path in held):
            self._tell(self._take, None)  # their names in the plan are others
        elif held:
            self._tell(self._take, held)

    def on_gap(self) -> None:
        """What has changed a moment ago, nobody knows."""
        self._tell(self._take, None)

    def on_unable(self, source: Source, reason: str) -> None:
        """The system cannot tell of changes."""
        self._tell(self._poll_instead, source, reason)

    def _survey(self) -> None:
        """See anew what has to be watched."""
        with self._lock:
            try:
                before, self._watched = self._watched, self._look()
            except Interrupted:
                return
            if (before.flat, before.deep) != (self._watched.flat, self._watched.deep):
                for source in tuple(self._sources):
                    source.renew()

    def _look(self) -> Watched:
        return watched(self._plan, os.environ, lambda: self._left)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            pass  # the loop is closed, nobody wants to know any more

    # -- in the loop --------------------------------------------------------------------------

    def _take(self, changed: set[bytes] | None) -> None:
        """Take note of changes, None for everywhere."""
        if not self._changed and not self._everywhere:
            self._since = self._loop.time()
        if changed is None or len(changed) + len(self._changed) > MOST:
            self._everywhere = True
            self._changed.clear()
        elif not self._everywhere:
            first = not self._changed
            self._changed |= changed
            if first:
                self.on_first(frozenset(changed))
        self._news.set()

    def _take_ready(self, source: Source) -> None:
        self._waiting.discard(source)
        if self._ready.is_set():
            self._take(None)  # what happened before this one began nobody has seen
        elif not self._waiting:
            self._ready.set()

    def _poll_instead(self, source: Source, reason: str) -> None:
        if self.polling or source not in self._sources:
            return
        self.polling = True
        self._warn(f"{reason}, so all files are looked at again and again")
        for one in self._sources:
            one.stop()
        self._waiting.clear()
        self._begin(self._poller())

    def _poller(self) -> Poller:
        return Poller(self, lambda: self._watched.deep, lambda: self._watched.flat)

    def _begin(self, *sources: Source) -> None:
        self._sources += sources
        self._waiting.update(sources)
        for source in sources:
            source.start()

    async def _more(self) -> bool:
        """Whether something else changes before what there is has settled."""
        self._news.clear()
        try:
            async with asyncio.timeout(POLL_SETTLE if self.polling else SETTLE):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _written(self) -> None:
        """Wait until nobody has the program open for writing, as a linker does."""
        if self._program is None or not (self._everywhere or self._program in self._changed):
            return
        until = self._loop.time() + WRITTEN
        while (  # noqa: ASYNC110 - nothing tells of the end of it
            self._loop.time() < until and is_being_written(self._program)
        ):
            await asyncio.sleep(_TICK)

    async def _close(self) -> None:
        self._left = True
        for source in self._sources:
            source.stop()
        for source in self._sources:
            await asyncio.to_thread(source.join)


def is_being_written(path: bytes) -> bool:
    """Whether a process has a file open for writing; False where the system does not tell.

    Linux grants no lease for reading then (fcntl(2), F_SETLEASE).
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Whoever opens the file for writing in the next few microseconds has the kernel send a
        # signal, which by default would end this process; this one by default does nothing.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    else:
        return False
    finally:
        os.close(fd)  # and with it the lease
