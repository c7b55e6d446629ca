"""Threads that tell of changes in files: the system has told them, or they look again and again."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from psync.sync.listing import RESERVED, Stat, look_at, stat_of
from psync.text import printable

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

POLL_DELAY = 0.3
"""Seconds between two looks at all files, where the system does not tell of changes."""

POLL_SHARE = 3
"""A look at all files is followed by a pause of at least so many times its own length."""

_STEP = 8  # milliseconds; how often watchfiles looks at what the kernel has told
_TIMEOUT = 1000  # milliseconds after which it is seen whether what is watched is there still
_MISSING = 0.25  # seconds between two looks for a directory that is gone


class Listener(Protocol):
    """Who is told. All of it is called from other threads, and must not block for long."""

    def on_ready(self, source: Source) -> None:
        """From now on no change is missed."""

    def on_changes(self, changed: set[bytes]) -> None:
        """Something may have changed at these absolute paths."""

    def on_gap(self) -> None:
        """What has changed a moment ago, nobody knows."""

    def on_unable(self, source: Source, reason: str) -> None:
        """The system cannot tell, for a reason in words for people. The source has ended."""


class Source:
    """A thread that tells of changes until ``stop`` is called.

    Args:
        listener: is told.
        name: of the thread.
    """

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener = listener
        self._stopped = False
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def renew(self) -> None:
        """See anew what has to be watched."""
        self._halt.set()

    def stop(self) -> None:
        """Have the thread end; does not wait for it."""
        self._stopped = True
        self._halt.set()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class Notifier(Source):
    """Has the system tell, by way of ``watchfiles``.

    Args:
        listener: is told.
        find: returns which directories are watched, also those that are not there now; called by
            the thread, again and again.
        recursive: with all they hold.
    """

    def __init__(
        self, listener: Listener, find: Callable[[], frozenset[bytes]], *, recursive: bool
    ) -> None:
        super().__init__(listener, "watch files")
        self._find = find
        self._recursive = recursive

    def _run(self) -> None:
        ready = False
        while not self._stopped:
            self._halt.clear()
            wanted = self._find()
            there = _identities(wanted)
            notify = self._make(list(there)) if there and not self._stopped else None
            if self._stopped:
                if notify is not None:
                    notify.close()
                return
            if not ready:
                self._listener.on_ready(self)
                ready = True
            elif notify is not None:  # what happened between two of them nobody has seen
                self._listener.on_gap()
            if notify is None:
                self._halt.wait(_MISSING if wanted else None)
                continue
            try:
                self._follow(notify, there)
            except RuntimeError:
                pass  # a name that is not UTF-8, which it cannot tell; the next one looks again
            finally:
                notify.close()

    def _make(self, paths: list[bytes]) -> RustNotify | None:
        from watchfiles._rust_notify import RustNotify

        try:
            names = [path.decode() for path in paths]
            # the last word would have it ignore all errors, and not only that something is private
            return RustNotify(names, False, False, 0, self._recursive, False)
        except FileNotFoundError:
            return None  # it went away at this moment
        except UnicodeDecodeError as error:
            reason = f"watchfiles cannot watch {printable(error.object)}, which is not UTF-8"
        except (OSError, RuntimeError) as error:
            reason = f"the system cannot tell what changes ({_reason(error)})"
        self.stop()
        self._listener.on_unable(self, reason)
        return None

    def _follow(self, notify: RustNotify, there: dict[bytes, int]) -> None:
        """Tell of changes until what is watched is not there any more, or another one."""
        while True:
            said = notify.watch(_TIMEOUT, _STEP, _TIMEOUT, self._halt)
            if said == "stop":
                return
            if not isinstance(said, str):
                changed = {os.fsencode(path) for _, path in said}
                self._listener.on_changes(changed)
                if changed.isdisjoint(there):
                    continue
            if _identities(self._find()) != there:
                return


class Poller(Source):
    """Looks at all files again and again.

    Args:
        listener: is told.
        deep: returns the directories that are looked at with all they hold; called in the thread.
        flat: likewise those that are looked at no deeper.
    """

    def __init__(
        self,
        listener: Listener,
        deep: Callable[[], frozenset[bytes]],
        flat: Callable[[], frozenset[bytes]],
    ) -> None:
        super().__init__(listener, "look for changes")
        self._deep = deep
        self._flat = flat

    def _run(self) -> None:
        before, taken = self._look()
        self._listener.on_ready(self)
        while not self._stopped:
            self._halt.wait(max(POLL_DELAY, POLL_SHARE * taken))
            self._halt.clear()
            now, taken = self._look()
            if self._stopped:
                return
            paths = now.keys() | before.keys()
            changed = {path for path in paths if now.get(path) != before.get(path)}
            before = now
            if changed:
                self._listener.on_changes(changed)

    def _look(self) -> tuple[dict[bytes, Stat], float]:
        began = time.monotonic()
        found: dict[bytes, Stat] = {}
        for top in self._flat():
            found[top] = look_at(top)
            self._enter(top, found)
        left = list(self._deep())
        while left and not self._stopped:
            left += self._enter(left.pop(), found)
        return found, time.monotonic() - began

    def _enter(self, path: bytes, found: dict[bytes, Stat]) -> list[bytes]:
        """Look at what is in a directory; return the directories in it."""
        below = []
        try:
            with os.scandir(path) as listed:
                for entry in listed:
                    if entry.name in RESERVED:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    found[entry.path] = stat_of(status)
                    if stat.S_ISDIR(status.st_mode):
                        below.append(entry.path)
        except OSError:
            pass  # it went away meanwhile, or the sync says what is wrong with it
        return below


def _reason(error: Exception) -> str:
    """Say why the system does not tell, and what to do about it (inotify(7))."""
    number, text = getattr(error, "errno", None), str(error)
    if number == errno.ENOSPC or "watch limit" in text or "No space left" in text:
        return "inotify watches have run out; sysctl fs.inotify.max_user_watches allows more"
    if number == errno.EMFILE or "Too many open files" in text:
        return "inotify instances have run out; sysctl fs.inotify.max_user_instances allows more"
    return os.strerror(number) if number else printable(text)


def _identities(paths: Iterable[bytes]) -> dict[bytes, int]:
    """Return which directories there are, with what tells them from others of the same name."""
    found = {}
    for path in paths:
        try:
            found[path] = os.stat(path).st_ino
        except OSError:
            continue
    return found
