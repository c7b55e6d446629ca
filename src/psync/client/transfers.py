"""The connection to the daemon as what carries files, for a sync that runs in another thread.

The two talk by ``call_soon_threadsafe`` and ``run_coroutine_threadsafe`` only; what belongs to the
event loop is touched there. A link is replaced whole, and what is read of it here never changes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from psync.client.carriage import Carriage
from psync.client.lifeline import Lifeline
from psync.errors import (
    ConnectionLost,
    Interrupted,
    ProtocolError,
    PsyncError,
    SyncError,
    from_code,
)
from psync.protocol import messages as m

DISCARD_TIMEOUT = 30.0
"""Seconds that removing unfinished files on the other side may take."""

_T = TypeVar("_T")


class Transfers:
    """All transfers of a sync; a ``psync.sync.carrier.Carrier``.

    Made in the event loop, used from another thread. Whoever uses it ends what it has carried.

    Args:
        lifeline: the connection to the daemon.
    """

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._cancelled = False
        self._waiting: Future[Any] | None = None

    # -- for the thread of the sync ---------------------------------------------------------------

    def check(self) -> None:
        """Raise ``ProtocolError`` if the daemon is of a version that does not take files so."""
        # without a connection this is asked again when there is one
        link = self._lifeline.link
        if link is not None and "transfer" not in link.peer.features:
            name = self._lifeline.name
            raise ProtocolError(
                f"the daemon on {name} is of an older version and takes files over ssh only",
                hint=f'upgrade psync on {name}, or configure transport = "ssh" for it',
            )

    def ready(self) -> bool:
        """Whether there is a connection."""
        return self._lifeline.link is not None

    def near(self) -> bool:
        """Whether the daemon is on this very machine."""
        link = self._lifeline.link
        return link is not None and (link.address == "::1" or link.address.startswith("127."))

    def connect(self) -> None:
        """Wait for a connection, made anew if the last one was lost.

        Raises:
            Interrupted: ``cancel`` was called.
            ProtocolError: the daemon is of a version that does not take files so.
            PsyncError: as ``Lifeline.ensure``.
        """
        self._lost = False
        self._call(self._lifeline.ensure())
        self.check()

    def lost(self) -> bool:
        """Whether the connection went away under a transfer since ``connect``."""
        return self._lost

    def cancel(self) -> None:
        """Have ``connect`` raise ``Interrupted``; from any thread or a signal handler."""
        self._cancelled = True
        waiting = self._waiting
        if waiting is not None:
            waiting.cancel()

    def carry(self) -> Carriage:
        """Get ready for one transfer.

        Raises:
            SyncError: this process has too many files open.
        """
        try:
            meeting = socket.socketpair()
        except OSError as error:
            raise SyncError(
                f"no transfer can be begun on this machine: {error.strerror}",
                hint="raise the limit of open files (ulimit -n)",
            ) from error
        return Carriage(self._lifeline, self._loop, self._on_loss, meeting)

    def discard(self, project: str) -> None:
        """Have what broken transfers left in a project's mirror removed.

        Raises:
            PsyncError: the daemon does not do it, or the connection was lost.
        """
        self._call(_Discarding(self._lifeline).ask(project))

    # -- in the event loop ------------------------------------------------------------------------

    def _on_loss(self) -> None:
        self._lost = True

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Have the event loop do it and wait for that."""
        self._waiting = waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        if self._cancelled:
            waiting.cancel()
        try:
            return waiting.result()
        except CancelledError:
            raise Interrupted("interrupted while syncing; nothing was started") from None
        finally:
            self._waiting = None


class _Discarding:
    """Asks for what is unfinished in a mirror to be removed; a transfer of nothing."""

    grace: float | None = 0.0

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._over = asyncio.Event()
        self._error: PsyncError | None = None

    async def ask(self, project: str) -> None:
        channel = self._lifeline.join(self)
        command = (b"psync-server", b"discard", project.encode())
        try:
            self._lifeline.send(m.OpenTransfer(channel=channel, command=command, arguments=b""))
            async with asyncio.timeout(DISCARD_TIMEOUT):
                await self._over.wait()
        except TimeoutError:
            self._error = ConnectionLost(f"{self._lifeline.name} does not answer")
        finally:
            self._lifeline.leave(channel)
        if self._error is not None:
            raise self._error

    def on_message(self, message: m.Message) -> None:
        if isinstance(message, m.Refused):
            self.on_failed(from_code(message.code, message.message, message.hint))
        elif isinstance(message, m.TransferEnded):
            self._over.set()

    def on_lost(self, error: PsyncError) -> None:
        self.on_failed(error)

    def on_connected(self) -> None:
        self.on_failed(ConnectionLost("the connection was lost"))

    def on_failed(self, error: PsyncError) -> None:
        self._error = error
        self._over.set()
