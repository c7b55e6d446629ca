"""The file that lists the clients, on disk: read, locked, replaced, and set aside when damaged.

clients.json         see ``clientlist``; replaced as a whole
clients.json.lock    held while it is changed
"""

from __future__ import annotations

import logging
import os
import time

from psync.daemon.clientlist import ClientRecord, Damage, decode, encode
from psync.errors import TrustError
from psync.paths import free_path, write_atomic
from psync.text import printable
from psync.transport.filelock import LOCK_TIMEOUT, FileLock

MAX_SIZE = 16 * 1024 * 1024
"""Largest list that is read, in bytes; some forty thousand clients."""

logger = logging.getLogger("psync.access")

Stamp = tuple[int, int, int, int]


class ClientFile:
    """The list in the file ``path``, which need not exist; base of ``AccessList``.

    Args:
        path: the file.
        patience: seconds to wait for others that change it.
    """

    def __init__(self, path: str, patience: float = LOCK_TIMEOUT) -> None:
        self._path = path
        self._patience = patience

    def damaged(self) -> list[str]:
        """Return the paths of damaged lists that were set aside, oldest first."""
        directory, name = os.path.split(self._path)
        try:
            found = [
                entry for entry in os.listdir(directory) if entry.startswith(f"{name}.damaged-")
            ]
        except OSError:
            return []
        return [os.path.join(directory, entry) for entry in sorted(found)]

    def _read_to_change(self) -> tuple[ClientRecord, ...]:
        """Read the list with its lock held; afterwards the file is sound, or gone."""
        try:
            return self._read()
        except Damage as damage:
            aside = self._set_aside(damage.sound)
            logger.error(
                "the list of clients, %s, was damaged: %s. It is now %s; %d clients are left, "
                "others have to pair again",
                self._shown,
                damage,
                printable(aside),
                len(damage.sound),
            )
            return damage.sound
        except OSError as error:
            raise TrustError(
                f"cannot read the list of clients, {self._shown}: {error.strerror}"
            ) from error

    def _set_aside(self, sound: tuple[ClientRecord, ...]) -> str:
        """Give the damaged list another name; what is sound in it becomes the list."""
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        aside = free_path(f"{self._path}.damaged-{when}")
        try:
            if sound:
                os.link(self._path, aside)  # and then replaced: there is a list at every moment
                self._write(sound)
            else:
                os.rename(self._path, aside)
        except OSError as error:
            raise TrustError(
                f"cannot set the damaged list of clients, {self._shown}, aside: {error.strerror}"
            ) from error
        return aside

    def _read(self) -> tuple[ClientRecord, ...]:
        try:
            with open(self._path, "rb") as file:
                text = file.read(MAX_SIZE + 1)
        except FileNotFoundError:
            return ()
        if len(text) > MAX_SIZE:
            raise Damage(f"it is larger than {MAX_SIZE} bytes")
        return decode(text, self._shown)

    def _write(self, records: tuple[ClientRecord, ...]) -> None:
        try:
            write_atomic(self._path, encode(records))
        except OSError as error:
            raise TrustError(
                f"cannot write the list of clients, {self._shown}: {error.strerror}",
                hint="nothing has changed; make room there. Until then only the end of "
                "psync-server shuts a client out",
            ) from error

    def _status(self) -> Stamp | None:
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return None
        return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)

    def _locked(self, timeout: float | None = None) -> FileLock:
        return FileLock(f"{self._path}.lock", self._patience if timeout is None else timeout)

    @property
    def _shown(self) -> str:
        return printable(self._path)
