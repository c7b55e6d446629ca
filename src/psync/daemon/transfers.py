"""Transfers over the websocket: which are begun, how many, and that none outlives its client."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from psync.daemon.guard import Guard
from psync.daemon.part import MISSING, NoMirror, discard_unfinished, open_mirror, open_part
from psync.daemon.rsyncgate import Denied, asked, job, project_id
from psync.daemon.rsyncserver import GRACE
from psync.daemon.transfer import Transfer
from psync.errors import PsyncError, ToolMissing
from psync.model import HostFacts, Stream
from psync.protocol import messages as m
from psync.text import printable
from psync.transport.link import Link

MOST_OF_CONNECTION = 8
"""Transfers of one connection at a time."""

MOST_OF_CLIENT = 16
"""Transfers of one client at a time, over all its connections."""

DISCARD = (b"psync-server", b"discard")
"""What a client asks for, with a project's ID, to have unfinished files removed from its mirror: a
transfer of nothing. Over ssh it is a command."""

logger = logging.getLogger("psync.transfers")


class Running:
    """All transfers of the daemon; also those whose client is gone, until rsync is."""

    def __init__(self) -> None:
        self._transfers: set[Transfer] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def count(self, client_id: str) -> int:
        """How many one client has."""
        return sum(one.client_id == client_id for one in self._transfers)

    def add(self, transfer: Transfer) -> None:
        """Take note of one that has begun."""
        self._transfers.add(transfer)
        self._idle.clear()

    def remove(self, transfer: Transfer) -> None:
        """Take note of one that is over."""
        self._transfers.discard(transfer)
        if not self._transfers:
            self._idle.set()

    def cancel(self) -> None:
        """End them all; nothing is told of them any more."""
        for transfer in list(self._transfers):
            transfer.abandon()

    async def close(self) -> None:
        """Do so and wait until none is left, which takes as long as an rsync may take to end.

        A cancellation kills those that are left.
        """
        self.cancel()
        try:
            async with asyncio.timeout(2 * GRACE):
                await self._idle.wait()
        except TimeoutError:
            logger.error("%d rsyncs cannot be ended", len(self._transfers))
        except asyncio.CancelledError:
            for transfer in list(self._transfers):
                transfer.kill()
            raise


class Transfers:
    """The transfers of one connection.

    Args:
        link: the open connection.
        client_id: the client's.
        root: absolute path of the directory of all mirrors.
        facts: says what is true of this host.
        running: all transfers of the daemon.
    """

    def __init__(
        self,
        link: Link,
        client_id: str,
        root: str,
        facts: Callable[[], HostFacts],
        running: Running,
    ) -> None:
        self._link = link
        self._client_id = client_id
        self._root = root
        self._facts = facts
        self._running = running
        self._transfers: dict[int, Transfer] = {}

    def get(self, channel: int) -> Transfer | None:
        """Return the transfer on a channel."""
        return self._transfers.get(channel)

    def open(self, message: m.OpenTransfer, guard: Guard) -> None:
        """Start a transfer on a channel that is free.

        Raises:
            Refused: the client may not have that, or not that much.
            ToolMissing: there is no rsync here.
        """
        if len(self._transfers) >= MOST_OF_CONNECTION:
            raise guard.refuse(f"a connection may have {MOST_OF_CONNECTION} transfers at a time")
        if self._running.count(self._client_id) >= MOST_OF_CLIENT:
            raise guard.refuse(f"a client may have {MOST_OF_CLIENT} transfers at a time")
        try:
            self._start(message, guard)
        except Denied as error:
            raise guard.refuse(f"rsync was not started: {error}") from error
        except NoMirror as error:
            self._answer_missing(message.channel, str(error))

    def review(self, guard: Guard) -> list[Transfer]:
        """End the transfers that the client may not have any more; return them."""
        gone = [one for one in self._transfers.values() if not guard.may_act(one.project)]
        for transfer in gone:
            del self._transfers[transfer.channel]
            transfer.abandon()
        return gone

    def pump(self) -> None:
        """Go on: the connection has room."""
        for transfer in list(self._transfers.values()):
            transfer.pump()

    def close(self) -> None:
        """The connection is over: end all of them."""
        transfers, self._transfers = self._transfers, {}
        for transfer in transfers.values():
            transfer.abandon()

    # -- inside ------------------------------------------------------------------------

    def _start(self, message: m.OpenTransfer, guard: Guard) -> None:
        if message.command[:2] == DISCARD and len(message.command) == 3:
            self._discard(message.channel, project_id(message.command[2]), guard)
            return
        request = asked(message.command)
        if request is None:
            raise Denied("that is not how psync asks for it")
        what = job(request, message.arguments, os.fsencode(self._root))
        guard.check_transfer(what.project)
        tool = self._facts().rsync
        if tool is None:
            raise ToolMissing(
                "rsync is not installed on the daemon host",
                hint="install it there, for example: sudo apt install rsync",
            )
        directory = open_part(self._root, what, self._client_id)
        try:
            transfer = Transfer(
                self._link,
                message.channel,
                tool.path,
                what,
                directory,
                self._client_id,
                self._over,
            )
        except OSError as error:
            raise PsyncError(
                f"rsync ({printable(tool.path)}) cannot be started on the daemon host: "
                f"{error.strerror}",
                hint="the daemon's log says more",
            ) from error
        finally:
            os.close(directory)
        self._transfers[message.channel] = transfer
        self._running.add(transfer)
        guard.transferred(what.project, gives=what.gives)

    def _discard(self, channel: int, project: str, guard: Guard) -> None:
        """Remove what is unfinished in a mirror, in a thread: there may be many directories."""
        guard.check_transfer(project)
        os.close(open_mirror(self._root, project, self._client_id))

        def done(work: asyncio.Future[None]) -> None:
            if error := work.exception():
                logger.warning("unfinished files of %s stay: %s", project, error)
            if self._link.open:
                self._link.send(m.TransferEnded(channel=channel, status=1 if error else 0))

        asyncio.get_running_loop().run_in_executor(
            None, discard_unfinished, self._root, project, self._client_id
        ).add_done_callback(done)

    def _answer_missing(self, channel: int, words: str) -> None:
        """Say what rsync would have said, so that the client need not know the difference."""
        said = (words + "\n").encode()
        self._link.send(m.Data(channel, Stream.STDERR, 0, said))
        self._link.send(m.TransferEnded(channel=channel, status=MISSING))

    def _over(self, transfer: Transfer) -> None:
        if self._transfers.get(transfer.channel) is transfer:
            del self._transfers[transfer.channel]
        self._running.remove(transfer)
