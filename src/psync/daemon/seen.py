"""When each client was last seen, and from where: ``<state>/seen.json``.

The daemon alone writes it, a few seconds after something has changed and when it leaves. It is a
convenience for ``psync-server clients``: a damaged one is ignored, and nothing depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

import msgspec

from psync.paths import write_atomic
from psync.text import printable

INTERVAL = 2.0
"""Seconds between a change and its being on disk; more changes meanwhile go along."""

MAX_SIZE = 16 * 1024 * 1024

logger = logging.getLogger("psync.seen")


class Sighting(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one client.

    Attributes:
        last: when it was seen last, in seconds since the epoch.
        address: from where.
        connections: how many it has open now.
    """

    last: float
    address: str = ""
    connections: int = 0


class Sightings(msgspec.Struct, frozen=True):
    """What is known of all of them.

    Attributes:
        daemon: process ID of the daemon that wrote this.
        clients: by the ID of the client.
    """

    daemon: int = 0
    clients: dict[str, Sighting] = {}


def read_sightings(path: str) -> Sightings:
    """Return what is known; what cannot be read is nothing.

    Connections are only true as long as that daemon runs.
    """
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(MAX_SIZE), type=Sightings)
    except FileNotFoundError:
        return Sightings()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("%s cannot be read and is ignored: %s", printable(path), error)
        return Sightings()


class Seen:
    """Keeps the file. Belongs to the event loop's thread.

    Args:
        path: of the file; what an earlier daemon wrote into it is taken over.
        clock: seconds since the epoch.
        interval: see ``INTERVAL``.
    """

    def __init__(
        self, path: str, *, clock: Callable[[], float] = time.time, interval: float = INTERVAL
    ) -> None:
        self._path = path
        self._clock = clock
        self._interval = interval
        self._clients = {
            client: msgspec.structs.replace(one, connections=0)
            for client, one in read_sightings(path).clients.items()
        }
        self._changed = asyncio.Event()
        self._trouble = False

    def came(self, client_id: str, address: str) -> None:
        """A client has connected."""
        known = self._clients.get(client_id)
        count = 1 if known is None else known.connections + 1
        self._clients[client_id] = Sighting(self._clock(), address, count)
        self._changed.set()

    def left(self, client_id: str) -> None:
        """A client has closed one of its connections."""
        known = self._clients.get(client_id)
        if known is not None:
            self._clients[client_id] = Sighting(
                self._clock(), known.address, max(0, known.connections - 1)
            )
            self._changed.set()

    def forget_others(self, client_ids: set[str]) -> None:
        """Keep only what is known of these, and of who is connected."""
        kept = {
            client: one
            for client, one in self._clients.items()
            if client in client_ids or one.connections
        }
        if len(kept) != len(self._clients):
            self._clients = kept
            self._changed.set()

    def write(self) -> None:
        """Write it now; a disk that cannot take it costs one line in the log."""
        self._changed.clear()
        text = msgspec.json.encode(Sightings(os.getpid(), self._clients))
        try:
            write_atomic(self._path, text)
            self._trouble = False
        except OSError as error:
            if not self._trouble:
                self._trouble = True
                logger.warning("cannot write %s: %s", printable(self._path), error.strerror)

    async def keep_writing(self) -> None:
        """Write a while after each change, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._interval)
            self.write()
