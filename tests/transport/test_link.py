"""Links over real TLS on loopback: what passes, what is refused and in which words."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from websockets.asyncio.client import connect as websockets_connect

from psync.errors import (
    ConnectError,
    ConnectionLost,
    DaemonNotRunning,
    NotPaired,
    ProtocolError,
    PsyncError,
    WrongDaemon,
)
from psync.model import HostFacts, Stream
from psync.protocol import messages as m
from psync.protocol.codec import encode
from psync.transport.authority import Authority
from psync.transport.connect import HungUp, connect
from psync.transport.identity import ClientIdentity, key_path
from psync.transport.link import FRONT, HEADROOM, UNSENT, WRITE_HIGH_WATER, Link, limit_unsent
from psync.transport.listen import listen, quiet_strangers
from psync.transport.tls import client_context, fingerprint, server_context

FACTS = HostFacts("deck", "Linux", "x86_64", b"/p", None, "/s", "psync-server 1")


class Host:
    """A daemon's and a client's certificates, and a listening socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.load_or_create(str(directory / "ca"))
        identity = ClientIdentity.load_or_create(str(directory / "identity"))
        signed = self.authority.sign_client(identity.csr("desk"), "desk")
        (directory / "client.crt").write_bytes(signed.pem)
        self.fingerprint = signed.fingerprint
        server = self.authority.server
        self.name = server.name
        self.client_tls = client_context(
            server.ca, str(directory / "client.crt"), key_path(str(directory / "identity"))
        )
        self.server_tls = server_context(server.certificate, server.key, server.ca)
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.received: asyncio.Queue[m.Message] = asyncio.Queue()
        self.closed: asyncio.Queue[PsyncError | None] = asyncio.Queue()
        self.where = ("127.0.0.1", 0)
        self.refusal: PsyncError | None = None
        self.versions = (m.VERSION,)

    def accept(self, link: Link) -> None:
        link.on_message = self.received.put_nowait
        link.on_closed = self.closed.put_nowait
        if self.refusal is not None:
            link.close(self.refusal)
        self.links.put_nowait(link)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_exception_handler(quiet_strangers)
        sock = socket.create_server(("127.0.0.1", 0))
        self.where = sock.getsockname()
        hello = m.Hello(versions=self.versions, software="psync-server 1", facts=FACTS)
        server = await listen(
            sock,
            tls=self.server_tls,
            hello=lambda _certificate: hello,
            origins={"https://good.example"},
            accept=self.accept,
        )
        try:
            yield
        finally:
            server.close()
            while not self.links.empty():
                link = self.links.get_nowait()
                link.close()
                await link.wait_closed()

    async def connect(self, **changes: object) -> Link:
        options = {"tls": self.client_tls, "server_name": self.name, "software": "psync 1"}
        return await connect(self.where, **{**options, **changes})  # type: ignore[arg-type]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    async with host.serve():
        yield host


async def test_messages_flow_both_ways_and_certificates_are_known(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()
    assert fingerprint(there.certificate) == host.fingerprint
    assert there.address == "127.0.0.1"
    assert link.peer.facts == FACTS
    link.send(m.Ack(1, 5))
    assert await host.received.get() == m.Ack(1, 5)
    back: asyncio.Queue[m.Message] = asyncio.Queue()
    link.on_message = back.put_nowait
    there.send_data(1, Stream.STDOUT, 0, bytearray(HEADROOM) + b"hello")
    assert await back.get() == m.Data(1, Stream.STDOUT, 0, b"hello")
    link.close()
    await link.wait_closed()
    assert isinstance(await host.closed.get(), ConnectionLost)
    with pytest.raises(ConnectionLost):
        link.send(m.Ack(1, 6))


async def test_a_buffer_may_be_used_again_although_its_piece_waits_to_be_sent(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()
    assert there._transport is not None and there.peer.limits.data == m.MAX_PIECE
    there._transport.underlying_transport.pause_reading()
    sent = []
    with memoryview(bytearray(FRONT + m.MAX_PIECE)) as buffer:
        while link.writable:
            sent.append(os.urandom(m.MAX_PIECE))
            buffer[FRONT:] = sent[-1]
            link.send_piece(1, Stream.STDIN, (len(sent) - 1) * m.MAX_PIECE, buffer)
    there._transport.underlying_transport.resume_reading()
    for number, piece in enumerate(sent):
        message = await host.received.get()
        assert message == m.Data(1, Stream.STDIN, number * m.MAX_PIECE, piece)


async def test_a_refusal_arrives_typed(host: Host) -> None:
    host.refusal = NotPaired("this client was revoked", hint="psync pair deck")
    with pytest.raises(NotPaired, match="revoked"):
        await host.connect()


async def test_a_cut_connection_is_told_once(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()
    closed: asyncio.Queue[PsyncError | None] = asyncio.Queue()
    link.on_closed = closed.put_nowait
    assert there._transport is not None
    there._transport.underlying_transport.abort()
    assert isinstance(await closed.get(), ConnectionLost)
    await link.wait_closed()
    assert closed.empty()


async def test_a_slow_reader_stops_the_writer_until_it_reads_again(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()
    assert link._transport is not None
    under = link._transport.underlying_transport
    under.pause_reading()
    sent = 0
    writable = asyncio.Event()
    there.on_writable = writable.set
    while there.writable:
        there.send_data(1, Stream.STDOUT, sent, bytearray(HEADROOM + m.MAX_DATA))
        sent += m.MAX_DATA
    assert sent > WRITE_HIGH_WATER
    got = 0
    done = asyncio.Event()

    def count(message: m.Message) -> None:
        nonlocal got
        assert isinstance(message, m.Data)
        got += len(message.data)
        if got == sent:
            done.set()

    link.on_message = count
    under.resume_reading()
    await writable.wait()
    await done.wait()


@pytest.mark.skipif(
    not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system has no TCP_NOTSENT_LOWAT"
)
async def test_the_kernel_takes_little_that_it_cannot_send_yet(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()
    for end in (link, there):
        assert end._transport is not None
        sock = end._transport.underlying_transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT


def test_a_unix_socket_has_no_such_limit() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        limit_unsent(sock)
    limit_unsent(None)


async def test_a_breach_found_by_the_owner_ends_the_connection_with_its_words(host: Host) -> None:
    link = await host.connect()
    there = await host.links.get()

    def refuse(_message: m.Message) -> None:
        raise ProtocolError("that was wrong")

    there.on_message = refuse
    closed: asyncio.Queue[PsyncError | None] = asyncio.Queue()
    link.on_closed = closed.put_nowait
    link.send(m.Ack(1, 0))
    error = await closed.get()
    assert isinstance(error, ProtocolError)
    assert error.message == "that was wrong"


async def test_wrong_name_and_wrong_ca_are_the_wrong_daemon(host: Host, tmp_path: Path) -> None:
    with pytest.raises(WrongDaemon):
        await host.connect(server_name="d-0000000000000000.psync.invalid")
    stranger = Host(tmp_path / "stranger")
    with pytest.raises(WrongDaemon):
        await host.connect(tls=_with_ca(host, stranger))
    with pytest.raises(HungUp, match="does not accept it, or something cuts") as caught:
        await host.connect(tls=_with_ca(stranger, host))
    assert "psync pair" in caught.value.hint


def _with_ca(client: Host, trusted: Host) -> ssl.SSLContext:
    """The first host's client certificate, trusting the second one's CA."""
    own = client.directory
    return client_context(
        trusted.authority.server.ca, str(own / "client.crt"), key_path(str(own / "identity"))
    )


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_connection_cut_again_and_again_is_no_refusal(host: Host, orderly: bool) -> None:
    """By something in between, once the client has shown its certificate."""
    port = host.where[1]
    cuts = 0

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cuts
        there, onward = await asyncio.open_connection("127.0.0.1", port)
        onward.write(await reader.read(65536))
        answered = asyncio.create_task(_pass(there, writer))
        assert await reader.read(65536)  # the client's certificate
        cuts += 1
        answered.cancel()
        await asyncio.wait([answered])
        onward.transport.abort()
        if orderly:
            writer.close()
        else:
            writer.transport.abort()

    async with await asyncio.start_server(between, "127.0.0.1", 0) as server:
        host.where = server.sockets[0].getsockname()
        with pytest.raises(ConnectError):
            await host.connect()
    assert cuts >= (4 if orderly else 2)


async def _pass(there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await there.read(65536):
        writer.write(data)


async def test_nobody_listens(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    options = {"tls": host.client_tls, "server_name": host.name, "software": "psync 1"}
    with pytest.raises(DaemonNotRunning, match=str(port)):
        await connect(("127.0.0.1", port), **options)  # type: ignore[arg-type]
    with pytest.raises(DaemonNotRunning):
        await connect(b"/nonexistent/psync.sock", **options)  # type: ignore[arg-type]
    with pytest.raises(ConnectError, match="resolved"):
        await connect(("no.such.host.invalid", 1), **options)  # type: ignore[arg-type]


async def test_a_peer_that_never_answers_runs_into_the_time_limit(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        host.where = sock.getsockname()
        with pytest.raises(ConnectError, match="did not answer"):
            await host.connect(timeout=0.2)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\nhi", b"SSH-2.0-OpenSSH_9\r\n", b"\0" * 64]
)
async def test_a_peer_that_speaks_something_else_is_named(host: Host, answer: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        host.where = server.sockets[0].getsockname()
        with pytest.raises(PsyncError) as caught:
            await host.connect()
    assert isinstance(caught.value, ProtocolError | ConnectError)
    assert "psync" in caught.value.message


async def test_a_tls_peer_that_speaks_http_is_named(host: Host) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0, ssl=host.server_tls) as server:
        host.where = server.sockets[0].getsockname()
        with pytest.raises(ProtocolError, match="not a psync daemon"):
            await host.connect()


async def test_an_older_protocol_is_refused_in_words(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.versions = (m.VERSION + 1,)
    async with host.serve():
        with pytest.raises(ProtocolError, match="speaks psync protocol"):
            await host.connect()


@pytest.mark.parametrize(
    ("headers", "subprotocols", "status"),
    [
        ({"Origin": "https://evil.example"}, [m.SUBPROTOCOL], 403),
        ({"Origin": "https://good.example"}, [m.SUBPROTOCOL], 101),
        ({}, [m.SUBPROTOCOL], 101),
        ({}, None, 400),
    ],
)
async def test_origin_and_subprotocol_are_checked(
    host: Host, headers: dict[str, str], subprotocols: list[str] | None, status: int
) -> None:
    opening = websockets_connect(
        f"wss://{host.name}:{host.where[1]}/",
        host="127.0.0.1",
        ssl=host.client_tls,
        server_hostname=host.name,
        additional_headers=headers,
        subprotocols=subprotocols,  # type: ignore[arg-type]
        compression=None,
    )
    if status == 101:
        async with opening as peer:
            await peer.send(encode(m.Hello(versions=(1,), software="another implementation")))
            assert isinstance(await peer.recv(), bytes)
    else:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            await opening
        assert caught.value.response.status_code == status


async def test_text_and_fragments_are_no_messages(host: Host) -> None:
    async with websockets_connect(
        f"wss://{host.name}:{host.where[1]}/",
        host="127.0.0.1",
        ssl=host.client_tls,
        server_hostname=host.name,
        subprotocols=[m.SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
    ) as peer:
        await peer.send("text")
        assert isinstance(await host.closed.get(), ProtocolError)
