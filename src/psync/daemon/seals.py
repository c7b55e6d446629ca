"""Whether a mirror is whole, and what it was like when it was: one mark, one note per project.

    <project>/unfinished    a sync has begun and not ended; its time is when that was
    <project>/note          what the mirror was like at the end of the last one, see ``note``

The mark is on disk before a sync changes anything, so whatever becomes of client, connection and
daemon, no run starts in a mirror that may be a mixture. A note is named by its seal; a client that
names another one, or one from before a mirror was lost, learns that nothing is known.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Iterable

import msgspec

from psync.daemon import note as notes
from psync.daemon.note import Note
from psync.daemon.tasks import Tasks
from psync.errors import DestinationError
from psync.protocol.messages import MOST_NAMES, NAMES_BYTES
from psync.text import printable

KEPT = 300.0
"""Seconds for which the note that was used last stays in memory; 100,000 paths take 30 MB."""

MARK = "unfinished"
NOTE = "note"

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


def unfinished(directory: str) -> bool:
    """Whether a sync of this project's directory has begun and not ended."""
    return os.path.lexists(f"{directory}/{MARK}")


class Seals:
    """The marks and notes of all projects. Belongs to one event loop."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._begun: dict[
            str, int
        ] = {}  # of syncs that have ended, whose end may be asked for again
        self._kept: tuple[str, Note] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._writing = Tasks()

    def begin(self, directory: str) -> None:
        """Note that the mirror may be a mixture from now on.

        Raises:
            DestinationError: that cannot be noted.
        """
        mark = f"{directory}/{MARK}"
        try:
            fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.utime(fd)
            os.close(fd)
        except OSError as error:
            raise DestinationError(
                f"{printable(mark)} cannot be made on the daemon host: {error.strerror}",
                hint="make room there and make that directory writable",
            ) from error
        self._begun.pop(directory, None)

    def finish(self, directory: str) -> None:
        """Let runs start in the mirror again: it is whole.

        Raises:
            DestinationError: the mark cannot be removed.
        """
        mark = f"{directory}/{MARK}"
        try:
            self._begun[directory] = os.stat(mark, follow_symlinks=False).st_mtime_ns
            os.unlink(mark)
        except FileNotFoundError:
            pass  # it is said for the second time, since an answer was lost
        except OSError as error:
            raise DestinationError(
                f"{printable(mark)} cannot be removed on the daemon host: {error.strerror}",
                hint="make that directory writable",
            ) from error

    async def end(self, directory: str, base: str, names: Iterable[bytes]) -> str:
        """Note what the mirror is like after a sync.

        Args:
            directory: the project's.
            base: seal of a note that holds but for ``names``; empty to look at all of it.
            names: paths in the mirror.

        Returns:
            The note's seal, empty if there is none.
        """
        async with self._lock(directory):
            made = await asyncio.to_thread(self._note, directory, base, tuple(names))
            self._expire_later()
        if made is None:
            return ""
        self._writing.start(f"write the note of {directory}", self._write(directory, made))
        return made.seal

    async def check(self, directory: str, seal: str) -> Checked:
        """Return what became of a mirror since the note with this seal was made."""
        async with self._lock(directory):
            checked = await asyncio.to_thread(self._check, directory, seal)
            self._expire_later()
            return checked

    async def written(self) -> None:
        """Wait until the notes made so far are on disk."""
        await self._writing.ended()

    async def close(self) -> None:
        """Stop writing notes; one that is not written is not missed."""
        if self._expiry is not None:
            self._expiry.cancel()
        await self._writing.close()

    # -- inside ------------------------------------------------------------------------

    def _lock(self, directory: str) -> asyncio.Lock:
        return self._locks.setdefault(directory, asyncio.Lock())

    def _note(self, directory: str, base: str, names: tuple[bytes, ...]) -> Note | None:
        begun = self._begun.get(directory, 0)
        before = self._find(directory, base) if base else None
        try:
            inode = os.stat(directory).st_ino
            if before is None:
                paths = notes.look(directory, begun)
            else:
                paths = notes.look_again(directory, before.paths, names, begun)
        except OSError as error:
            logger.warning("no note of %s: %s", printable(directory), error)
            return None
        made = Note(secrets.token_urlsafe(18), inode, paths)
        self._kept = (directory, made)
        return made

    def _check(self, directory: str, seal: str) -> Checked:
        note = self._find(directory, seal)
        if note is None or unfinished(directory):
            return Checked()
        changed: list[bytes] = []
        size = 0
        for path in notes.differing(directory, note.paths):
            size += len(path)
            if len(changed) == MOST_NAMES or size > NAMES_BYTES:
                return Checked(known=True, changed=tuple(changed), more=True)
            changed.append(path)
        return Checked(known=True, changed=tuple(changed))

    def _find(self, directory: str, seal: str) -> Note | None:
        """Return the note with this seal; None where there is none."""
        kept = self._kept
        note = kept[1] if kept is not None and kept[0] == directory else None
        try:
            if note is None:
                note = notes.read_note(f"{directory}/{NOTE}")
                self._kept = (directory, note)
            if note.seal != seal or note.inode != os.stat(directory).st_ino:
                return None
        except FileNotFoundError:
            return None
        except notes.NoteDamaged:
            logger.warning("the note of %s is damaged; it is made again", printable(directory))
            return None
        except OSError:
            return None
        return note

    async def _write(self, directory: str, note: Note) -> None:
        """Write a note down. A daemon that dies before has an older one, with another seal."""
        async with self._lock(directory):
            try:
                await asyncio.to_thread(notes.write_note, f"{directory}/{NOTE}", note)
            except OSError as error:
                logger.warning("no note of %s: %s", printable(directory), error)

    def _expire_later(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(KEPT, self._forget)

    def _forget(self) -> None:
        self._kept = None
