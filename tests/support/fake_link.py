"""A ``Link`` in memory, with the test as the daemon at its other end.

    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)
    await lifeline.open()
    link = daemon.link
    start = await link.said(Start)
    link.say(Attached(...))
    link.cut()

What psync sends passes through the real codec, and what the test says too, so that nothing can be
said here that could not be said on a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from psync.errors import ConnectionLost, PsyncError
from psync.model import HostFacts, Tool
from psync.protocol.codec import decode, encode
from psync.protocol.messages import FEATURES, FROM_CLIENT, FROM_DAEMON, Data, Hello, Message

_M = TypeVar("_M", bound=Message)

FACTS = HostFacts(
    hostname="fake",
    system="Linux",
    machine="x86_64",
    projects_root=b"/projects",
    rsync=Tool(path="/usr/bin/rsync", version="3.2.7"),
    server="/usr/bin/psync-server",
    software="psync-server 0",
)


class FakeLink:
    """See ``psync.transport.link.Link``; the methods for the test are ``said``, ``say``, ``cut``.

    Attributes:
        sent: everything psync has sent, oldest first; ``said`` takes from its front.
        closed_with: what psync closed the link with; None when it did not, or without an error.
    """

    def __init__(self, features: tuple[str, ...] = FEATURES) -> None:
        self.peer = Hello(versions=(1,), software="fake", features=features, facts=FACTS)
        self.on_message: Callable[[Message], None] = lambda message: None
        self.on_closed: Callable[[PsyncError | None], None] = lambda error: None
        self.on_writable: Callable[[], None] = lambda: None
        self.writable = True
        self.open = True
        self.heard_at = asyncio.get_running_loop().time()
        self.sent: list[Message] = []
        self.closed_with: PsyncError | None = None
        self._news = asyncio.Event()

    # -- what psync calls ---------------------------------------------------------------------

    def send(self, message: Message) -> None:
        if not self.open:
            raise ConnectionLost("the fake link is closed")
        decoded = decode(encode(message))
        assert isinstance(decoded, FROM_CLIENT)
        self.sent.append(decoded)
        self._news.set()

    def close(self, error: PsyncError | None = None) -> None:
        if self.open:
            self.open = False
            self.closed_with = error
            self._news.set()
            asyncio.get_running_loop().call_soon(self.on_closed, error)

    async def wait_closed(self) -> None:
        assert not self.open
        await asyncio.sleep(0)  # the owner is told before whoever waits here

    def leave(self) -> None:
        """The daemon says that it leaves; the owner is told a moment later."""
        self.open = False
        self._news.set()
        gone = ConnectionLost("the daemon left")
        asyncio.get_running_loop().call_soon(lambda: self.on_closed(gone))

    # -- what the test calls ------------------------------------------------------------------

    async def said(self, kind: type[_M]) -> _M:
        """Wait for the next message of this kind; drop what came before it."""
        async with asyncio.timeout(10):
            while True:
                while self.sent:
                    message = self.sent.pop(0)
                    if isinstance(message, kind):
                        return message
                assert self.open, f"closed while waiting for {kind.__name__}: {self.closed_with}"
                self._news.clear()
                await self._news.wait()

    def stdin(self) -> bytes:
        """Take all stdin that has been sent, whatever its offsets."""
        pieces = [message.data for message in self.sent if isinstance(message, Data)]
        self.sent = [message for message in self.sent if not isinstance(message, Data)]
        return b"".join(pieces)

    def say(self, *messages: Message) -> None:
        """Have the daemon say something; breaches of the protocol close the link, as for real."""
        for message in messages:
            if not self.open:
                return
            self.heard_at = asyncio.get_running_loop().time()
            decoded = decode(encode(message))
            assert isinstance(decoded, FROM_DAEMON)
            try:
                self.on_message(decoded)
            except PsyncError as error:
                self.close(error)

    def cut(self, error: PsyncError | None = None) -> None:
        """End the connection from outside."""
        assert self.open
        self.open = False
        self._news.set()
        self.on_closed(error or ConnectionLost("cut by the test"))


class FakeDaemon:
    """Hands out links, or refuses to.

    Attributes:
        links: all that were handed out.
        refusals: errors for the next attempts, in this order; then links again.
        attempts: how often somebody dialled.
        features: what the daemon says it can do.
    """

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.refusals: list[PsyncError] = []
        self.attempts = 0
        self.features: tuple[str, ...] = FEATURES
        self._news = asyncio.Event()

    @property
    def link(self) -> FakeLink:
        """The link handed out last."""
        return self.links[-1]

    async def dial(self) -> FakeLink:
        self.attempts += 1
        if self.refusals:
            raise self.refusals.pop(0)
        self.links.append(FakeLink(self.features))
        self._news.set()
        return self.links[-1]

    async def linked(self, count: int) -> FakeLink:
        """Wait for the ``count``-th link and return it."""
        async with asyncio.timeout(10):
            while len(self.links) < count:
                self._news.clear()
                await self._news.wait()
        return self.links[count - 1]
