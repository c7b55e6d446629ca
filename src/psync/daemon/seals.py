"""Whether a mirror is whole, and what it was like when it was: one mark, one note per project.

    <project>/unfinished    a sync has begun and not ended, see ``mark``
    <project>/note          what the mirror was like at the end of the last one, see ``note``

The mark is on disk before a sync changes anything, so whatever becomes of client, connection and
daemon, no run starts in a mirror that may be a mixture. A note is named by its seal; a client that
names another one, or one from before a mirror was lost, learns that nothing is known.

A note that is older than its client thinks does no harm: it is true of the time at which it was
made, and what has changed since differs from it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from typing import TypeVar

import msgspec

from psync.daemon.look import (
    NotToBeNoted,
    Trust,
    await_step,
    check,
    differing,
    file_clock,
    look,
    look_again,
    missing,
)
from psync.daemon.mark import MARK, Begun, set_mark, take_mark, unfinished
from psync.daemon.note import Note, NoteDamaged, read_note, remove, write_note
from psync.daemon.tasks import Tasks
from psync.daemon.unfinished import remove_unfinished
from psync.errors import DestinationError
from psync.protocol.messages import MOST_NAMES, NAMES_BYTES
from psync.text import printable

KEPT = 300.0
"""Seconds for which a note stays in memory after it was used."""

MOST_KEPT = 2
"""Notes in memory. 100,000 paths take some 6 MB."""

MOST_DOUBTS = MOST_NAMES // 2
"""Paths in a note of which nobody can tell. A client that is told of more than it can be told
compares everything by content, and it is better off without a note."""

THREADS = 2
"""Mirrors that are looked at at a time."""

PATIENCE = 5.0
"""Seconds for notes to be written when the daemon ends."""

NOTE = "note"

_T = TypeVar("_T")

logger = logging.getLogger("psync.seals")


class Checked(msgspec.Struct, frozen=True):
    """What became of a mirror since a note was made.

    Attributes:
        known: there is such a note, and no sync has begun since.
        changed: paths that differ.
        more: there are more of them.
    """

    known: bool = False
    changed: tuple[bytes, ...] = ()
    more: bool = False


class _Project:
    """What is in memory of one project."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.note: Note | None = None
        self.asked: tuple[Begun | None, str, tuple[bytes, ...]] | None = None  # for that note
        self.expiry: asyncio.TimerHandle | None = None


class Seals:
    """The marks and notes of all projects. Belongs to one event loop.

    What concerns one project is done in the order in which it was asked for, in a thread. Whoever
    asks and is cancelled is cancelled when that thread has taken note, which is soon.
    """

    def __init__(self) -> None:
        self._projects: dict[str, _Project] = {}  # the one that was used last is the last one
        # Of the syncs that ended last. The end may be asked for again, when the answer was lost.
        self._begun: dict[str, Begun | None] = {}
        self._writing = Tasks()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="look at a mirror")

    def begin(self, directory: str) -> None:
        """Note that the mirror may be a mixture from now on.

        Raises:
            DestinationError: that cannot be noted.
        """
        self._begun.pop(directory, None)
        try:
            set_mark(directory)
        except OSError as error:
            raise DestinationError(
                f"{printable(directory)}/{MARK} cannot be made on the daemon host: "
                f"{error.strerror}",
                hint="make room there and make that directory writable",
            ) from error

    def finish(self, directory: str) -> None:
        """Let runs start in the mirror again: it is whole.

        Raises:
            DestinationError: the mark cannot be removed.
        """
        try:
            self._begun[directory] = take_mark(directory)
        except FileNotFoundError:
            pass  # it is said for the second time, since an answer was lost
        except OSError as error:
            raise DestinationError(
                f"{printable(directory)}/{MARK} cannot be removed on the daemon host: "
                f"{error.strerror}",
                hint="make that directory writable",
            ) from error

    async def end(self, directory: str, base: str, names: Collection[bytes]) -> str:
        """Note what the mirror is like after a sync, and remove what one before left unfinished.

        Args:
            directory: the project's.
            base: seal of the note that the sync went on from, having sent only ``names``; empty if
                it compared everything, so that all of it can be looked at.
            names: paths in the mirror.

        Returns:
            The note's seal, empty if there is none, for instance since there is no such base.
        """
        begun = self._begun.get(directory)
        asked = (begun, base, tuple(names))
        if begun is not None and (since := begun.broken) is not None:
            await self._thread(lambda _: _discard(directory, since))
        async with self._use(directory) as project:
            kept = project.note
            if kept is not None and project.asked == asked:
                return kept.seal  # it is asked for again, since an answer was lost
            try:
                if begun is None:
                    raise NotToBeNoted("nobody knows when its sync began")
                made = await self._thread(
                    lambda stop: _make(directory, kept, base, names, begun, stop)
                )
                if self._begun.get(directory) is not begun:
                    raise NotToBeNoted("another sync has begun")
            except (NotToBeNoted, OSError) as error:
                logger.info("no note of %s: %s", printable(directory), error)
                project.note = None
                await self._thread(lambda _: remove(f"{directory}/{NOTE}"))
                return ""
            project.note, project.asked = made, asked
        self._writing.start(f"write the note of {directory}", self._write(directory, made))
        return made.seal

    async def check(self, directory: str, seal: str, skip: int = 0) -> Checked:
        """Return what became of a mirror since the note with this seal was made.

        Args:
            directory: the project's.
            seal: the note's.
            skip: of the paths that differ, how many were told before.
        """
        begun = self._begun.get(directory)
        async with self._use(directory) as project:
            kept = project.note
            try:
                project.note, found = await self._thread(
                    lambda stop: _check(directory, kept, seal, skip, stop)
                )
            except (NotToBeNoted, OSError) as error:
                logger.info("%s cannot be compared: %s", printable(directory), error)
                return Checked()
        return Checked() if self._begun.get(directory) is not begun else found

    async def written(self) -> None:
        """Wait until the notes made so far are on disk."""
        await self._writing.ended()

    async def close(self) -> None:
        """Write what is still to be written, but not for long; one that is lost is not missed."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.written()
        except TimeoutError:
            await self._writing.close()
        for project in self._projects.values():
            if project.expiry is not None:
                project.expiry.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- inside ------------------------------------------------------------------------

    @asynccontextmanager
    async def _use(self, directory: str) -> AsyncIterator[_Project]:
        """Have a project to oneself."""
        project = self._projects.pop(directory, None) or _Project()
        self._projects[directory] = project
        project.users += 1
        try:
            async with project.lock:
                yield project
        finally:
            project.users -= 1
            if project.expiry is not None:
                project.expiry.cancel()
            loop = asyncio.get_running_loop()
            project.expiry = loop.call_later(KEPT, self._forget, directory)
            self._forget_others()

    def _forget_others(self) -> None:
        idle = [one for one, project in self._projects.items() if not project.users]
        for directory in idle[: max(0, len(idle) - MOST_KEPT)]:
            self._forget(directory)

    def _forget(self, directory: str) -> None:
        project = self._projects.get(directory)
        if project is not None and not project.users:
            if project.expiry is not None:
                project.expiry.cancel()
            del self._projects[directory]

    async def _write(self, directory: str, note: Note) -> None:
        """Write a note down. A daemon that dies before has an older one, with another seal."""
        async with self._use(directory) as project:
            if project.note is not note:
                return  # there is a newer one
            try:
                await self._thread(lambda _: write_note(f"{directory}/{NOTE}", note))
            except OSError as error:
                logger.warning("no note of %s: %s", printable(directory), error)

    async def _thread(self, work: Callable[[threading.Event], _T]) -> _T:
        """Have a thread do it, and do not leave before the thread has left."""
        stop = threading.Event()
        done = asyncio.get_running_loop().run_in_executor(self._pool, work, stop)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            stop.set()
            while not done.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    pass  # nobody is waited for twice; the thread ends soon
            if not done.cancelled():
                done.exception()  # of no interest
            raise


def _discard(directory: str, since: int) -> None:
    """Remove what syncs have left unfinished, as far as possible: nobody goes on with it."""
    try:
        top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        remove_unfinished(top, since)
    finally:
        os.close(top)


def _make(
    directory: str,
    kept: Note | None,
    base: str,
    names: Collection[bytes],
    begun: Begun,
    stop: threading.Event,
) -> Note:
    """Look at a mirror.

    Raises:
        NotToBeNoted: of too much nobody could tell anything, or it is not wanted any more.
        OSError: it cannot be looked at.
    """
    check(stop)
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        inode = os.fstat(top).st_ino
        before = kept or _read(directory)
        if before is not None and before.inode != inode:
            before = None
        now = file_clock(top)
        since = begun.by(now)
        if since is None:
            raise NotToBeNoted("the clock was set while the sync went on")
        trust = Trust(since, now)
        if base and (before is None or before.seal != base):
            # What was not sent may have been changed by anybody since that note.
            raise NotToBeNoted("the note that it goes on from is not there any more")
        if before is not None and base:
            view = look_again(top, trust, before.folders, before.gone, names, stop)
            again = view.young
        else:
            view = look(top, trust, stop)
            if before is not None:
                view.gone |= missing(before.folders, view.folders) | before.gone
            again = {*view.young, *view.gone, *names}
        doubts = view.doubts.difference(again)
        if again:
            if view.young:
                trust = Trust(since, await_step(top, now, stop))
            view = look_again(top, trust, view.folders, view.gone, again, stop)
        doubts = view.gone.union(doubts, view.doubts)
        if len(doubts) > MOST_DOUBTS:
            raise NotToBeNoted(f"of {len(doubts)} paths nobody could tell")
        return Note(secrets.token_urlsafe(18), inode, view.folders, frozenset(view.gone))
    finally:
        os.close(top)


def _check(
    directory: str, kept: Note | None, seal: str, skip: int, stop: threading.Event
) -> tuple[Note | None, Checked]:
    """Compare a mirror with its note; return the note as well.

    Raises:
        NotToBeNoted: it is not wanted any more.
        OSError: the mirror cannot be looked at.
    """
    note = kept or _read(directory)
    if note is None or note.seal != seal or unfinished(directory):
        return note, Checked()
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(top).st_ino != note.inode:
            return None, Checked()
        changed: list[bytes] = []
        size = 0
        for path in islice(differing(top, note, stop), skip, None):
            size += len(path)
            if len(changed) == MOST_NAMES or size > NAMES_BYTES:
                return note, Checked(known=True, changed=tuple(changed), more=True)
            changed.append(path)
        return note, Checked(known=not unfinished(directory), changed=tuple(changed))
    finally:
        os.close(top)


def _read(directory: str) -> Note | None:
    try:
        return read_note(f"{directory}/{NOTE}")
    except FileNotFoundError:
        return None
    except (OSError, NoteDamaged) as error:
        logger.warning("the note of %s is not used: %s", printable(directory), error)
        return None
