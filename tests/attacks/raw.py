"""A paired client that sends whatever it likes: frames that are none, or no websocket at all."""

from __future__ import annotations

import asyncio
import os
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.daemon import TIMEOUT, Home

from psync.daemon.listening import read_presence
from psync.errors import ConnectionLost, PsyncError, from_code
from psync.protocol import messages as m
from psync.protocol.codec import decode, encode
from psync.protocol.connection import client_hello
from psync.transport.tls import client_context

BINARY = 0x2
CLOSE = 0x8


class RawClient:
    """A TLS connection on which a websocket stands, without any of psync's own checks.

    Attributes:
        said: what the daemon has said so far, oldest first.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.said: list[m.Message] = []

    def send(self, payload: bytes, *, kind: int = BINARY, first: int = 0x80) -> None:
        """Send one websocket frame; nothing is checked."""
        self.writer.write(frame(payload, kind=kind, first=first))

    async def hear(self) -> m.Message | None:
        """Return the daemon's next message; None once it has closed the connection."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    head = await self.reader.readexactly(2)
                    size = head[1] & 0x7F
                    if size == 126:
                        (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                    elif size == 127:
                        (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                    payload = await self.reader.readexactly(size)
                except (OSError, asyncio.IncompleteReadError):
                    return None
                if head[0] & 0x0F == CLOSE:
                    return None
                message = decode(payload)
                assert message is not None
                self.said.append(message)
                return message

    async def survives(self, nonce: int) -> PsyncError | None:
        """Ping and wait for the pong; return the error the daemon closed with instead.

        One that came without a word is ``ConnectionLost``.
        """
        self.send(encode(m.Ping(nonce)))
        while True:
            message = await self.hear()
            if message is None:
                return ConnectionLost("closed without a word")
            if isinstance(message, m.Pong) and message.nonce == nonce:
                return None
            if isinstance(message, m.Error):
                return from_code(message.code, message.message, message.hint)

    def abort(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()


def frame(payload: bytes, *, kind: int = BINARY, first: int = 0x80) -> bytes:
    """Return a masked websocket frame (the mask is zero)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first | kind, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first | kind, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first | kind, 0xFF, size)
    return head + bytes(4) + payload


def context(home: Home, name: str = "desk") -> tuple[ssl.SSLContext, str, str, int]:
    """Return TLS context, server name, host and port of a paired client."""
    directory = home.directory / name
    if not directory.exists():
        home.pair(name)
    presence = read_presence(home.paths.record)
    assert presence is not None
    tls = client_context(f"{directory}/ca.pem", f"{directory}/client.pem", f"{directory}/key.pem")
    host = presence.listen[0].rpartition(":")[0].strip("[]")
    return tls, Path(directory / "name").read_text(), host, presence.port


async def dial(home: Home, name: str = "desk", *, hello: bool = True) -> RawClient:
    """Connect as a paired client; with ``hello`` both sides have said it."""
    tls, server, host, port = context(home, name)
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=tls, server_hostname=server, limit=1 << 20
        )
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        writer.write(
            f"GET / HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {m.SUBPROTOCOL}\r\n\r\n".encode()
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer
    client = RawClient(reader, writer)
    if hello:
        client.send(encode(client_hello("a test")))
        assert isinstance(await client.hear(), m.Hello)
    return client


@asynccontextmanager
async def connected(
    home: Home, name: str = "desk", *, hello: bool = True
) -> AsyncIterator[RawClient]:
    """The same, dropped at the end."""
    client = await dial(home, name, hello=hello)
    try:
        yield client
    finally:
        client.abort()


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had so far, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {os.fspath(str(pid))}")
