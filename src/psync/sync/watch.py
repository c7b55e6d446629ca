"""What changes in the files of a plan, as it changes.

    async with Watcher(plan) as watcher:    # from now on nothing is missed
        …                                   # look at everything, sync it
        batch = await watcher.batch()       # waits for a change, and until nothing changes any more

``watchfiles`` watches, in threads that have no other work. What a batch holds are places to look
at, not what happened there: a file that came and went is in it as well, and what of it is sent,
``Source.refresh`` finds out.

Directories are watched with all they hold. A file that was named alone, such as the program, is
watched through the directories above it, up to the project's root: builds replace files, and
sometimes the directories around them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from psync.errors import SyncError
from psync.sync.machine import program_path
from psync.sync.plan import SyncPlan

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

SETTLE = 0.025
"""Seconds without a change after which a batch is complete: editors and tools that write a file
beside another one and rename it are done by then."""

PATIENCE = 2.0
"""Seconds after which a batch is complete although something still changes, such as a log."""

WRITTEN = 30.0
"""Seconds to wait for a program to be closed by who writes it; a linker may take some."""

MOST = 5000
"""Changes in a batch from which on everything is looked at."""

POLL_DELAY = 300
"""Milliseconds between two looks at all files, where the system does not tell of changes."""

_STEP = 8  # milliseconds; how often watchfiles looks at what the kernel has told
_TIMEOUT = 1000  # milliseconds after which it is seen whether what is watched is there still
_TICK = 0.02  # seconds between two looks at a file that is being written
_MISSING = 0.25  # seconds between two looks for a directory that is gone


class Places(msgspec.Struct, frozen=True):
    """What has to be watched for a plan; absolute paths.

    Attributes:
        whole: directories with all they hold.
        above: directories above files that were named, for what is in them and no deeper.
        named: files that were named.
        linked: what named links lead to.
    """

    whole: frozenset[bytes]
    above: frozenset[bytes]
    named: frozenset[bytes]
    linked: frozenset[bytes]

    def hold(self, path: bytes) -> bool:
        """Whether a path is one of those that are sent, or in one of them."""
        return path in self.named or any(_is_in(top, path) for top in self.whole)


def places(plan: SyncPlan) -> Places:
    """Return what has to be watched for a plan, by a look at the disk."""
    whole: set[bytes] = set()
    named: set[bytes] = set()
    linked: set[bytes] = set()
    for tree in plan.trees:
        for name in (*tree.entries, *tree.inner):
            path = os.path.normpath(os.path.join(tree.base, name))
            real = os.path.realpath(path)
            if os.path.islink(path):
                linked.add(real)
            if os.path.isdir(real):
                whole.add(real)
            named |= {path, real}
    above = {parent for path in named for parent in _parents(path, plan.project.root)}
    return Places(frozenset(whole), frozenset(above), frozenset(named), frozenset(linked))


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
    """

    def __init__(
        self,
        plan: SyncPlan,
        *,
        polling: bool | None = None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._plan = plan
        if polling is None:
            polling = bool(os.environ.get("WATCHFILES_FORCE_POLLING"))
        self.polling = polling
        self.on_first: Callable[[frozenset[bytes]], None] = lambda _changed: None
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._changed: set[bytes] = set()
        self._everywhere = False
        self._error: SyncError | None = None
        self._places = places(plan)
        self._program = program_path(plan)
        self._notifiers = (
            _Notifier(self, lambda: places(plan).whole, recursive=True),
            _Notifier(self, lambda: places(plan).above, recursive=False),
        )

    async def __aenter__(self) -> Self:
        for notifier in self._notifiers:
            notifier.start()
        try:
            await asyncio.gather(*(notifier.ready for notifier in self._notifiers))
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

        Raises:
            SyncError: nothing can be watched any more.

        Cancellation loses no change; the next call returns it.
        """
        while not self._changed and not self._everywhere:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        until = self._loop.time() + PATIENCE
        while self._loop.time() < until and await self._more():
            pass
        await self._written()
        changed, self._changed = self._changed, set()
        everywhere, self._everywhere = self._everywhere, False
        return None if everywhere else frozenset(changed)

    # -- what the threads tell, called in the loop ----------------------------------------------

    def on_changes(self, changed: set[bytes] | None) -> None:
        """Take note of changes, None for everywhere."""
        if changed is None:
            self._places = places(self._plan)
            self._everywhere = True
        else:
            changed = {path for path in changed if self._places.hold(path)}
            if len(changed) + len(self._changed) > MOST:
                self._everywhere = True
            elif any(_is_in(top, path) for path in changed for top in self._places.linked):
                self._everywhere = True  # its name in the plan is another one
            else:
                first = bool(changed) and not self._changed and not self._everywhere
                self._changed |= changed
                if first:
                    self.on_first(frozenset(changed))
        if self._changed or self._everywhere:
            self._news.set()

    def on_failed(self, error: SyncError) -> None:
        """Nothing can be watched any more."""
        self._error = error
        self._news.set()

    def on_exhausted(self) -> None:
        """The system tells of no more directories."""
        self._warn(
            "the system has no more inotify watches (raise fs.inotify.max_user_watches with "
            "sysctl), so all files are looked at again and again"
        )

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that everything is told in."""
        return self._loop

    # -- inside -------------------------------------------------------------------------------

    async def _more(self) -> bool:
        """Whether something else changes before what there is has settled."""
        self._news.clear()
        try:
            async with asyncio.timeout(SETTLE):
                await self._news.wait()
        except TimeoutError:
            return False
        return self._error is None

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
        for notifier in self._notifiers:
            notifier.stop()
        for notifier in self._notifiers:
            await asyncio.to_thread(notifier.join)


class _Notifier:
    """A thread that waits for changes; made anew inside whenever what it watches is replaced."""

    def __init__(
        self, owner: Watcher, find: Callable[[], frozenset[bytes]], *, recursive: bool
    ) -> None:
        self.ready: asyncio.Future[None] = owner.loop.create_future()
        self._owner = owner
        self._find = find
        self._recursive = recursive
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch files", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    # -- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        first = True
        while not self._stop.is_set():
            watched = _identities(self._find())
            if not watched:
                self._say_ready()
                if self._recursive and not self._find():
                    return  # nothing of the kind is in the plan
                self._stop.wait(_MISSING)
                continue
            notify = self._make(list(watched))
            if notify is None:
                continue
            self._say_ready()
            if not first:  # what happened between two of them nobody has seen
                self._tell(self._owner.on_changes, None)
            first = False
            try:
                self._follow(notify, watched)
            except RuntimeError:
                pass  # a name that is not UTF-8, which it cannot tell; the next one looks again
            finally:
                notify.close()

    def _make(self, paths: list[bytes]) -> RustNotify | None:
        from watchfiles._rust_notify import RustNotify

        owner = self._owner
        try:
            return RustNotify(
                [os.fsdecode(path) for path in paths],
                False,
                owner.polling,
                POLL_DELAY,
                self._recursive,
                True,
            )
        except FileNotFoundError:
            return None  # it went away at this moment
        except (OSError, RuntimeError) as error:
            if not owner.polling and _exhausted(error):
                owner.polling = True
                self._tell(owner.on_exhausted)
                return None
            self._fail(error)
            return None

    def _follow(self, notify: RustNotify, watched: dict[bytes, int]) -> None:
        """Tell of changes until what is watched is not there any more, or another one."""
        while True:
            said = notify.watch(_TIMEOUT, _STEP, _TIMEOUT, self._stop)
            if said == "stop":
                return
            if not isinstance(said, str):
                changed = {os.fsencode(path) for _, path in said}
                self._tell(self._owner.on_changes, changed)
                if changed.isdisjoint(watched):
                    continue
            if _identities(self._find()) != watched:
                return

    def _say_ready(self) -> None:
        self._tell(lambda: None if self.ready.done() else self.ready.set_result(None))

    def _fail(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        failed = SyncError(
            f"the files cannot be watched: {reason}",
            hint="WATCHFILES_FORCE_POLLING=1 looks at them again and again instead",
        )

        def tell() -> None:
            if self.ready.done():
                self._owner.on_failed(failed)
            else:
                self.ready.set_exception(failed)

        self._stop.set()
        self._tell(tell)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            self._owner.loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            self._stop.set()  # the loop is closed, nobody wants to know any more


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
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    else:
        return False
    finally:
        os.close(fd)  # and with it the lease


def _identities(paths: Iterable[bytes]) -> dict[bytes, int]:
    """Return which directories there are, with what tells them from others of the same name."""
    found = {}
    for path in paths:
        try:
            found[path] = os.stat(path).st_ino
        except OSError:
            continue
    return found


def _parents(path: bytes, root: bytes) -> list[bytes]:
    """Return the directories above a path, up to the project's root if it is in there."""
    found = []
    while path != (path := os.path.dirname(path)):
        found.append(path)
        if path == root or not path.startswith(_below(root)):
            break
    return found


def _is_in(top: bytes, path: bytes) -> bool:
    return path == top or path.startswith(_below(top))


def _below(directory: bytes) -> bytes:
    return directory.rstrip(b"/") + b"/"


def _exhausted(error: Exception) -> bool:
    """Whether the system takes no more watches, or no more instances of them."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EMFILE) or any(
        text in str(error) for text in ("watch limit", "No space left", "Too many open files")
    )
