"""A TCP proxy that misbehaves on command: the bad network between a client and a daemon.

    async with Proxy(port) as proxy:
        proxy.rate = 100_000              # bytes per second towards the client
        proxy.cut()                       # every connection is reset, now
        proxy.stall(); proxy.flow()       # nothing moves, nobody is told; then it does again
        proxy.refuse(True)                # new connections are reset at once
        proxy.cut_after(4711)             # after so many more bytes towards the client
        proxy.cut_after_sent(4711)        # the same towards the daemon
        proxy.reorder()                   # the next connection waits until the one after it is made

It runs in the event loop of the test. Bytes are passed on in order and whole; what a cut finds in
the proxy's hands is lost, as it would be in a router's.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

PIECE = 16 * 1024
"""Bytes that are moved at once; a rate is kept in steps of a tenth of a second at most."""


class Proxy:
    """Listens on a loopback port and leads to another.

    Args:
        port: where connections are led to.
        buffer: bytes that the kernel may hold per socket and direction, None as it likes. A slow
            link whose buffers hold megabytes is not slow at all, at first.

    Attributes:
        port: where it listens.
        to: the port connections are led to; may be changed.
        rate: bytes per second towards the client over all connections, None as fast as it goes.
        connections: how many were accepted, ever.
        passed: bytes that were passed on towards the client, ever.
        sent: bytes that were passed on towards the daemon, ever.
        cuts: how many planned cuts have happened.
    """

    def __init__(self, port: int, buffer: int | None = None) -> None:
        self._buffer = buffer
        self.port = 0
        self.to = port
        self.rate: float | None = None
        self.connections = 0
        self.passed = 0
        self.sent = 0
        self.cuts = 0
        self._knock = asyncio.Event()
        self._refusing = False
        self._cut_at: int | None = None
        self._plan: list[int] = []
        self._sent_cut_at: int | None = None
        self._sent_plan: list[int] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._held: asyncio.Event | None = None
        self._hold_next = False
        self._pairs: dict[asyncio.Task[None], tuple[socket.socket, socket.socket | None]] = {}
        self._server: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._next_turn = 0.0

    async def __aenter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._accepting is not None
        assert self._server is not None
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._server.close()
        tasks = list(self._pairs)
        self.cut()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- faults ------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset every connection there is, at both ends."""
        for task in list(self._pairs):
            task.cancel()  # its sockets are reset when it is over: the loop still watches them

    def cut_after(self, *counts: int) -> None:
        """Cut when so many more bytes have gone towards the client; then after the next count."""
        self._plan = list(counts)
        self._arm()

    def cut_after_sent(self, *counts: int) -> None:
        """Cut when so many more bytes have gone towards the daemon; then after the next count."""
        self._sent_plan = list(counts)
        self._arm_sent()

    def stall(self) -> None:
        """Move nothing any more; connections stay, and new ones are accepted and stay silent."""
        self._flowing.clear()

    def flow(self) -> None:
        """End a stall."""
        self._flowing.set()

    def refuse(self, refusing: bool) -> None:
        """Reset new connections at once, or take them again."""
        self._refusing = refusing

    def reorder(self) -> None:
        """Hold the next connection back until the one after it has been led through."""
        self._hold_next = True

    async def wait_connections(self, count: int) -> None:
        """Wait until so many connections were accepted, ever."""
        while self.connections < count:
            self._knock.clear()
            await self._knock.wait()

    # -- inside ------------------------------------------------------------------------

    async def _accept(self) -> None:
        assert self._server is not None
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._server)
            sock.setblocking(False)
            self._limit(sock)
            self.connections += 1
            self._knock.set()
            if self._refusing:
                _reset(sock)
                continue
            wait, release = None, self._held
            if self._hold_next:
                self._hold_next = False
                wait = self._held = asyncio.Event()
            task = loop.create_task(self._lead(sock, wait, release))
            self._pairs[task] = (sock, None)
            task.add_done_callback(self._ended)

    def _arm(self) -> None:
        self._cut_at = self.passed + self._plan.pop(0) if self._plan else None

    def _arm_sent(self) -> None:
        self._sent_cut_at = self.sent + self._sent_plan.pop(0) if self._sent_plan else None

    def _limit(self, sock: socket.socket) -> None:
        if self._buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for sock in self._pairs.pop(task):
            if sock is not None:
                _reset(sock)
        if not task.cancelled():
            task.result()  # a defect in here must not pass unseen

    async def _lead(
        self, here: socket.socket, wait: asyncio.Event | None, release: asyncio.Event | None
    ) -> None:
        loop = asyncio.get_running_loop()
        if wait is not None:
            await wait.wait()
        there = socket.socket()
        there.setblocking(False)
        self._limit(there)
        task = asyncio.current_task()
        assert task is not None
        self._pairs[task] = (here, there)
        try:
            await loop.sock_connect(there, ("127.0.0.1", self.to))
            if release is not None:
                release.set()
            for sock in (here, there):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(here, there, towards_client=False))
                group.create_task(self._pass(there, here, towards_client=True))
        except* OSError:
            pass  # one side is gone; the other one learns it when both sockets are reset

    async def _pass(
        self, source: socket.socket, sink: socket.socket, *, towards_client: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            size = PIECE if self.rate is None else max(1, min(PIECE, int(self.rate / 10)))
            data = await loop.sock_recv(source, size)
            await self._flowing.wait()
            if towards_client:
                if self._cut_at is not None and self.passed + len(data) >= self._cut_at:
                    data = data[: self._cut_at - self.passed]
                    await loop.sock_sendall(sink, data)
                    self.passed += len(data)
                    self.cuts += 1
                    self.cut()
                    self._arm()
                    return
                await self._pace(len(data))
                self.passed += len(data)
            else:
                if self._sent_cut_at is not None and self.sent + len(data) >= self._sent_cut_at:
                    data = data[: self._sent_cut_at - self.sent]
                    await loop.sock_sendall(sink, data)
                    self.sent += len(data)
                    self.cuts += 1
                    self.cut()
                    self._arm_sent()
                    return
                self.sent += len(data)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(sink, data)

    async def _pace(self, count: int) -> None:
        """Wait for this piece's turn on a link of ``rate`` bytes per second."""
        if self.rate is None:
            return
        loop = asyncio.get_running_loop()
        self._next_turn = max(self._next_turn, loop.time()) + count / self.rate
        await asyncio.sleep(self._next_turn - loop.time())


def _reset(sock: socket.socket) -> None:
    """Close a socket with RST: the other side learns it at once and loses what is queued."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it is closed already
    sock.close()
