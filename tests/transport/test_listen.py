"""The daemon's door over real sockets: who gets in, who is turned away and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import websockets
from tests.transport.peers import Files, Pair, self_signed
from websockets.asyncio.client import connect as websockets_connect

from psync.errors import ConnectError, ProtocolError, PsyncError, Refused
from psync.model import HostFacts
from psync.protocol import messages as m
from psync.protocol.codec import HEADER
from psync.transport import certificates, door as doors
from psync.transport.connect import HungUp, connect
from psync.transport.contexts import ServerContexts
from psync.transport.door import Door
from psync.transport.gate import Gate, GateLimits
from psync.transport.link import Link
from psync.transport.listen import listen, quiet_strangers
from psync.transport.quiet import Note, QuietLog
from psync.transport.strangers import MAX_QUESTION, PAIR_SUBPROTOCOL
from psync.transport.tls import client_context

FACTS = HostFacts("deck", "Linux", "x86_64", b"/p", None, "/s", "psync-server 1")
HELLO = m.Hello(versions=(m.VERSION,), software="psync-server 1", facts=FACTS)
DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
FULL = b"\x15\x03\x03\x00\x02\x02\x50"


class Invitations:
    """Takes the word "sesame" while it is open."""

    def __init__(self) -> None:
        self.open = False
        self.ca = b"-----BEGIN CERTIFICATE-----\nAAAA\n"
        self.asked: list[tuple[bytes, str]] = []
        self.hold: asyncio.Event | None = None
        self.cancelled = asyncio.Event()

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
        self.asked.append((payload, address))
        if payload == b"raise":
            raise Refused("no such invitation")
        if payload == b"break":
            raise ValueError("a fault of ours")
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return (b"welcome", True) if payload == b"sesame" else (b"no", False)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class House:
    """A daemon's door and its one paired client."""

    def __init__(self, root: Path, **limits: object) -> None:
        self.pair = Pair(root)
        self.clock = Clock()
        self.gate = Gate(GateLimits(**limits), self.clock)  # type: ignore[arg-type]
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.notes: list[Note] = []
        self.noted: asyncio.Queue[Note] = asyncio.Queue()
        self.invitations = Invitations()
        self.contexts = ServerContexts(self.pair.authority.server)
        self.message = m.MAX_CONTROL
        self.door: Door
        self.where = ("127.0.0.1", 0)

    def note(self, note: Note) -> None:
        self.notes.append(note)
        self.noted.put_nowait(note)

    async def open(self, host: str = "127.0.0.1") -> None:
        asyncio.get_running_loop().set_exception_handler(quiet_strangers)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, 0), family=family)
        self.where = sock.getsockname()[:2]
        self.door = await listen(
            sock,
            tls=self.contexts,
            hello=lambda _certificate: HELLO,
            origins=(),
            accept=self.links.put_nowait,
            gate=self.gate,
            log=QuietLog(self.note, interval=3600, lines=10**6),
            message=self.message,
            stranger=self.invitations,
        )

    async def close(self) -> None:
        self.door.close()
        await self.door.wait_closed()
        while not self.links.empty():
            link = self.links.get_nowait()
            link.close()
            await link.wait_closed()

    async def connect(self, files: Files | None = None) -> Link:
        files = files or self.pair.client
        return await connect(
            self.where,
            tls=client_context(self.pair.ca, files.cert, files.key),
            server_name=self.pair.name,
            software="psync 1",
        )

    def raw(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.create_connection(self.where, 20, (source, 0))
        sock.setblocking(False)
        return sock

    async def noted_once(self, kind: str) -> Note:
        while (note := await self.noted.get()).kind != kind:
            pass
        return note

    async def empty(self) -> None:
        """Wait until nobody stands at the door."""
        await until(lambda: not self.gate.strangers and not self.door.tasks)


@contextlib.asynccontextmanager
async def opened(house: House) -> AsyncIterator[House]:
    await house.open()
    try:
        yield house
    finally:
        await house.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with opened(House(tmp_path)) as house:
        yield house


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces; the test's own time limit ends it."""
    for pause in itertools.repeat(0.005):
        if condition():
            return
        await asyncio.sleep(pause)


async def read_all(sock: socket.socket) -> bytes:
    """What a peer is told before it is hung up on; a reset counts as the end."""
    loop = asyncio.get_running_loop()
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while more := await loop.sock_recv(sock, 4096):
            said += more
    return said


def stranger(pair: Pair) -> ssl.SSLContext:
    """A context without a certificate that trusts the daemon."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pair.ca)
    return context


# -- attacks that must fail ------------------------------------------------------------------------


async def test_a_paired_client_gets_in_and_takes_no_place(house: House) -> None:
    link = await house.connect()
    assert house.gate.strangers == 0
    await house.empty()
    link.send(m.Ack(1, 5))
    there = house.links.get_nowait()
    got: asyncio.Queue[m.Message] = asyncio.Queue()
    there.on_message = got.put_nowait
    link.send(m.Ack(1, 6))
    assert isinstance(await got.get(), m.Ack)
    link.close()
    await link.wait_closed()
    assert house.notes == []


@pytest.mark.parametrize("invited", [False, True])
@pytest.mark.parametrize("kind", ["self-signed", "of another CA", "expired", "of a daemon"])
async def test_a_bad_certificate_never_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, invited: bool
) -> None:
    monkeypatch.setattr(certificates, "EARLIEST", 0.0)
    year = certificates.LEAF_LIFETIME
    async with opened(House(tmp_path)) as house:
        house.invitations.open = invited
        if kind == "self-signed":
            files = self_signed(tmp_path / "stranger", time.time())
        elif kind == "of another CA":
            files = Pair(tmp_path / "other").client
        elif kind == "expired":
            files = house.pair.client_signed_at(time.time() - year - 60)
        else:
            files = house.pair.server
        with pytest.raises(HungUp):
            await house.connect(files)
        assert (await house.noted_once("handshake")).text.startswith("turned away 127.0.0.1: its")
        await house.empty()
        assert house.links.empty()


async def test_no_certificate_does_not_get_in(house: House) -> None:
    _, writer = await asyncio.open_connection(
        *house.where, ssl=stranger(house.pair), server_hostname=house.pair.name
    )
    note = await house.noted_once("handshake")
    assert note.text == "turned away 127.0.0.1: it showed no certificate"
    writer.close()
    await house.empty()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain HTTP"),
        (b"\x00" * 100, "does not speak TLS"),
        (b"SSH-2.0-OpenSSH_9\r\n" * 3, "does not speak TLS"),
        (b"\x16\x03\x01\x00\x20" + b"x" * 60, "TLS failed"),
        (os.urandom(3) * 3000, "TLS"),
    ],
)
async def test_what_is_no_tls_is_turned_away(house: House, words: bytes, reason: str) -> None:
    with house.raw() as sock:
        await asyncio.get_running_loop().sock_sendall(sock, words)
        await read_all(sock)
    assert reason in (await house.noted_once("handshake")).text
    await house.empty()
    (await house.connect()).close()


async def test_who_hangs_up_without_a_word_is_no_failure(house: House) -> None:
    house.raw().close()
    linger = house.raw()
    linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    linger.close()
    (await house.connect()).close()
    await house.empty()
    assert house.notes == []


async def test_a_slow_handshake_ends_at_the_deadline(tmp_path: Path) -> None:
    """Byte by byte, never silent for long: the deadline is for all of it."""
    async with opened(House(tmp_path, handshake=0.3)) as house:
        loop = asyncio.get_running_loop()
        hello = client_hello(house.pair)

        async def drip() -> None:
            with house.raw() as sock, contextlib.suppress(OSError):
                for byte in hello * 100:
                    await loop.sock_sendall(sock, bytes([byte]))
                    await asyncio.sleep(0.01)
                raise AssertionError("nobody minded")

        await drip()
        assert "handshakes after 0.3 s" in (await house.noted_once("late")).text
        await house.empty()


async def test_tls_alone_does_not_lengthen_the_deadline(tmp_path: Path) -> None:
    """The websocket handshake has what TLS left of the time."""
    async with opened(House(tmp_path, handshake=0.3)) as house:
        files = house.pair.client
        reader, writer = await asyncio.open_connection(
            *house.where,
            ssl=client_context(house.pair.ca, files.cert, files.key),
            server_hostname=house.pair.name,
        )
        assert house.gate.strangers == 1
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await house.noted_once("late")
        await house.empty()
        writer.close()


def client_hello(pair: Pair) -> bytes:
    out = ssl.MemoryBIO()
    client = pair.client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=pair.name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


# -- crowds ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def crowd(house: House, count: int, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(house.raw(source)) for _ in range(count)]


async def test_500_idle_sockets_of_its_own_address_do_not_keep_a_client_out(house: House) -> None:
    with crowd(house, 500) as sockets:
        for _ in range(5):
            link = await house.connect()
            assert house.gate.strangers <= house.gate.limits.strangers_per_address
            link.close()
            await link.wait_closed()
        for sock in sockets[:100]:
            sock.close()
        with crowd(house, 100):
            (await house.connect()).close()
    await house.empty()


async def test_a_crowd_that_has_begun_to_talk_does_not_either(house: House) -> None:
    loop = asyncio.get_running_loop()
    hello = client_hello(house.pair)
    with crowd(house, 100) as sockets:
        for number, sock in enumerate(sockets):
            with contextlib.suppress(OSError):
                await loop.sock_sendall(sock, hello[: 1 + number % len(hello)])
        (await house.connect()).close()
        assert house.gate.strangers <= house.gate.limits.strangers_per_address


async def test_whoever_knocks_again_and_again_does_not_overtake_who_gets_on(house: House) -> None:
    """The client has asked for TLS; a hundred others come before the door answers it."""
    files = house.pair.client
    context = client_context(house.pair.ca, files.cert, files.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=house.pair.name)
    loop = asyncio.get_running_loop()
    with house.raw() as honest, crowd(house, 50):
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        honest.sendall(outgoing.read())
        with crowd(house, 50) as others:
            for sock in others:
                sock.send(b"\x16\x03\x01\x02\x00\x01")
            await until(lambda: house.gate.strangers == house.gate.limits.strangers_per_address)
            while True:
                incoming.write(await loop.sock_recv(honest, 65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
            assert tls.version() == "TLSv1.3"


async def test_many_addresses_are_limited_together(tmp_path: Path) -> None:
    async with opened(House(tmp_path, strangers=4, strangers_per_address=3)) as house:
        with contextlib.ExitStack() as stack:
            for last in range(2, 12):
                stack.enter_context(crowd(house, 2, f"127.0.0.{last}"))
            (await house.connect()).close()
            assert house.gate.strangers <= 4


async def test_who_has_to_make_place_is_told(tmp_path: Path) -> None:
    async with opened(House(tmp_path, strangers=1, strangers_per_address=1)) as house:
        with house.raw() as first, house.raw():
            assert await read_all(first) == FULL
        assert "too many strangers" in (await house.noted_once("overtaken")).text


async def test_the_sockets_of_a_crowd_are_freed(house: House) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")
    (await house.connect()).close()
    await house.empty()
    before = open_files()
    for _ in range(3):
        with crowd(house, 60) as sockets:
            for sock in sockets[::2]:
                with contextlib.suppress(OSError):
                    sock.send(b"\x16\x03")
            (await house.connect()).close()
    await house.empty()
    await until(lambda: not house.door._refused)
    link = await house.connect()
    link.close()
    await link.wait_closed()
    await until(lambda: open_files() <= before)
    assert house.door.strangers == set()


async def test_words_stay_few_in_a_crowd_of_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is refused may linger to read it, but not everybody at once."""
    monkeypatch.setattr(doors, "LINGERING", 3)
    async with opened(House(tmp_path, strangers=1, strangers_per_address=1)) as house:
        with crowd(house, 20) as sockets:
            (await house.connect()).close()
            assert len(house.door._refused) == 3
            said = [await read_all(sock) for sock in sockets]
    assert said == [FULL] * 3 + [b""] * 17


# -- penalties -------------------------------------------------------------------------------------


async def fail(house: House, source: str) -> bytes:
    with house.raw(source) as sock:
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(sock, b"nonsense, not TLS\r\n")
        said = await read_all(sock)
    await house.empty()
    return said


async def test_an_address_that_keeps_failing_is_refused_for_a_while(tmp_path: Path) -> None:
    async with opened(House(tmp_path, tolerated=2, exempt=("127.0.0.1/32",))) as house:
        for _ in range(3):
            assert await fail(house, "127.0.0.2") != DENIED
        assert await fail(house, "127.0.0.2") == DENIED
        note = await house.noted_once("penalty")
        assert note.text == "turned away 127.0.0.2: too many failed attempts, for 1 s more"
        assert await fail(house, "127.0.0.3") != DENIED
        for _ in range(5):
            assert await fail(house, "127.0.0.1") != DENIED
        (await house.connect()).close()
        house.clock.now += 1.001
        assert await fail(house, "127.0.0.2") != DENIED
        assert await fail(house, "127.0.0.2") == DENIED
        house.clock.now += 1.001
        assert await fail(house, "127.0.0.2") == DENIED  # it is twice as long now


async def test_bad_certificates_and_lateness_are_failures(tmp_path: Path) -> None:
    async with opened(House(tmp_path, tolerated=0, exempt=(), handshake=0.2)) as house:
        with house.raw():
            await house.noted_once("late")
        with house.raw() as sock:
            assert await read_all(sock) == DENIED
        house.clock.now += 3600
        with contextlib.suppress(ConnectError):
            await house.connect(self_signed(tmp_path / "stranger", time.time()))
        with house.raw() as sock:
            assert await read_all(sock) == DENIED


async def test_a_client_is_told_why_it_has_to_wait(tmp_path: Path) -> None:
    async with opened(House(tmp_path, tolerated=0, exempt=())) as house:
        house.gate.blame("127.0.0.1")
        for _ in range(20):  # the words never get lost in a reset
            with pytest.raises(ConnectError) as caught:
                await house.connect()
            assert str(caught.value) == (
                "the daemon refuses this address for a while after too many failed attempts; "
                "wait a minute"
            )


# -- out of descriptors ----------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_out_of_descriptors_peers_are_refused_in_words(house: House) -> None:
    with crowd(house, 3) as sockets:
        highest = os.dup(0)
        fillers = [highest]
        try:
            with descriptors(max(house.door._spare or 0, highest) + 1):
                with contextlib.suppress(OSError):
                    while True:
                        fillers.append(os.dup(0))
                for sock in sockets:
                    assert await read_all(sock) == FULL
                assert (await house.noted_once("starving")).text == (
                    "cannot accept 127.0.0.1: Too many open files"
                )
        finally:
            for filler in fillers:
                os.close(filler)
    (await house.connect()).close()


async def test_out_of_all_descriptors_the_door_waits_and_opens_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "RETRY", 0.05)
    with crowd(house, 3):
        with descriptors(3):
            for _ in range(3):
                await until(lambda: house.door._pause is None)
                await until(lambda: house.door._pause is not None)  # it does not ask all the time
        (await house.connect()).close()
        assert house.door._spare is not None
    assert house.notes[0].text == "cannot accept connections: Too many open files"


# -- limits of a client's --------------------------------------------------------------------------


async def test_a_message_over_the_limit_is_refused_in_words(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.message = 1000
    async with opened(house):
        link = await house.connect()
        closed: asyncio.Queue[PsyncError | None] = asyncio.Queue()
        link.on_closed = closed.put_nowait
        link.send_data(1, 0, 0, bytearray(28 + 60000))  # data has a limit of its own
        link._write(HEADER.pack(m.RunList.TYPE, 0, 0, 0) + b" " * 1001)
        error = await closed.get()
        assert isinstance(error, ProtocolError)
        assert "a message of 1001 bytes is over the other side's limit of 1000" in error.message


async def test_a_frame_that_no_version_sends_is_not_even_read(house: House) -> None:
    files = house.pair.client
    async with websockets_connect(
        f"wss://{house.pair.name}/",
        host="127.0.0.1",
        port=house.where[1],
        ssl=client_context(house.pair.ca, files.cert, files.key),
        subprotocols=[m.SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
    ) as peer:
        await peer.send(bytes(m.MAX_CONTROL + 1000))
        with pytest.raises(websockets.ConnectionClosed) as caught:
            while True:
                await peer.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


# -- strangers with an invitation ------------------------------------------------------------------


async def request(house: House, text: bytes) -> bytes:
    """Send an HTTP request as a stranger over TLS; return the whole answer."""
    reader, writer = await asyncio.open_connection(
        *house.where, ssl=stranger(house.pair), server_hostname=house.pair.name
    )
    writer.write(text)
    try:
        return await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def pairing(house: House, subprotocol: str = PAIR_SUBPROTOCOL) -> AsyncIterator[object]:
    async with websockets_connect(
        f"wss://{house.pair.name}/",
        host="127.0.0.1",
        port=house.where[1],
        ssl=stranger(house.pair),
        subprotocols=[subprotocol],  # type: ignore[list-item]
        compression=None,
    ) as peer:
        yield peer


async def say(house: House, *messages: bytes | str) -> tuple[list[object], int]:
    """Return what came back, and the code that the websocket was closed with."""
    answers: list[object] = []
    async with pairing(house) as peer:
        with contextlib.suppress(websockets.ConnectionClosed):
            for message in messages:
                await peer.send(message)  # type: ignore[attr-defined]
            while True:
                answers.append(await peer.recv())  # type: ignore[attr-defined]
    return answers, peer.close_code  # type: ignore[attr-defined]


GET_CA = b"GET /ca HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_stranger_reads_the_ca_and_pairs(house: House) -> None:
    house.invitations.open = True
    answer = await request(house, GET_CA)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n" + house.invitations.ca)
    assert await say(house, b"sesame") == ([b"welcome"], 1000)
    assert house.invitations.asked == [(b"sesame", "127.0.0.1")]
    await house.empty()
    assert house.notes == []


async def test_nothing_of_it_is_there_without_an_invitation(house: House) -> None:
    gone = (OSError, websockets.InvalidHandshake)  # an alert, an end or a reset, by timing
    with pytest.raises(gone):
        if not await request(house, GET_CA):
            raise ConnectionResetError
    with pytest.raises(gone):
        await say(house, b"sesame")
    assert house.invitations.asked == []
    await house.empty()


async def test_an_invitation_that_ends_during_the_handshake_is_over(house: House) -> None:
    house.invitations.open = True
    reader, writer = await asyncio.open_connection(
        *house.where, ssl=stranger(house.pair), server_hostname=house.pair.name
    )
    house.invitations.open = False
    writer.write(GET_CA)
    assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
    writer.close()


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ca/../ca HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /ca HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET /ca HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n\r\n",
        b"GET /ca HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: psync.v1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Protocol: psync-pair.v1\r\n\r\n",
    ],
)
async def test_a_stranger_gets_nothing_else(house: House, text: bytes) -> None:
    house.invitations.open = True
    answer = await request(house, text)
    assert answer[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")
    await house.empty()
    assert house.links.empty()
    assert house.invitations.asked == []


async def test_a_paired_client_gets_in_while_an_invitation_is_outstanding(house: House) -> None:
    house.invitations.open = True
    link = await house.connect()
    assert house.links.get_nowait().certificate
    link.close()
    await link.wait_closed()


@pytest.mark.parametrize(
    ("message", "code"),
    [("text", 1002), (bytes(MAX_QUESTION + 1), 1009), (b"raise", 1008), (b"break", 1011)],
)
async def test_a_message_that_is_no_question_ends_it(
    house: House, message: bytes | str, code: int
) -> None:
    house.invitations.open = True
    assert await say(house, message) == ([], code)
    await house.empty()


async def test_the_largest_question_is_taken(house: House) -> None:
    house.invitations.open = True
    assert await say(house, bytes(MAX_QUESTION)) == ([b"no"], 1000)


async def test_only_one_question_is_answered(house: House) -> None:
    house.invitations.open = True
    house.invitations.hold = asyncio.Event()
    _, code = await say(house, b"sesame", b"sesame")
    assert code == 1002
    assert len(house.invitations.asked) == 1


@pytest.mark.parametrize("word", [b"guess", b"raise", "text"])
async def test_a_wrong_invitation_is_a_failure(tmp_path: Path, word: bytes | str) -> None:
    async with opened(House(tmp_path, tolerated=0, exempt=())) as house:
        house.invitations.open = True
        await say(house, word)
        await house.empty()
        with house.raw() as sock:
            assert await read_all(sock) == DENIED


async def test_a_right_invitation_is_none(tmp_path: Path) -> None:
    async with opened(House(tmp_path, tolerated=0, exempt=())) as house:
        house.invitations.open = True
        await say(house, b"sesame")
        await house.empty()
        assert house.gate.refused("127.0.0.1") == 0


async def test_attempts_to_pair_are_few_in_a_second(tmp_path: Path) -> None:
    async with opened(House(tmp_path, attempts=2)) as house:
        house.invitations.open = True
        for _ in range(2):
            await say(house, b"guess")
        with pytest.raises(websockets.InvalidStatus) as caught:
            await say(house, b"sesame")
        assert caught.value.response.status_code == 429
        house.clock.now += 0.5
        assert (await say(house, b"sesame"))[0] == [b"welcome"]


async def test_a_stranger_stays_one_until_it_is_gone(tmp_path: Path) -> None:
    async with opened(House(tmp_path, handshake=0.3)) as house:
        house.invitations.open = True
        house.invitations.hold = asyncio.Event()
        async with pairing(house) as peer:
            await peer.send(b"sesame")  # type: ignore[attr-defined]
            with pytest.raises(websockets.ConnectionClosed):
                await peer.recv()  # type: ignore[attr-defined]
        await house.invitations.cancelled.wait()
        await house.noted_once("late")
        await house.empty()


# -- the door itself -------------------------------------------------------------------------------


async def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    house = House(tmp_path)
    await house.open("::1")
    try:
        link = await house.connect()
        assert house.links.get_nowait().address == "::1"
        link.close()
        await link.wait_closed()
    finally:
        await house.close()


async def test_a_closed_door_leaves_nobody_outside_and_who_is_inside_alone(house: House) -> None:
    link = await house.connect()
    with house.raw() as silent, house.raw() as talking:
        await asyncio.get_running_loop().sock_sendall(talking, b"\x16")
        await until(lambda: house.door.tasks)
        house.door.close()
        house.door.close()
        await house.door.wait_closed()
        assert await read_all(silent) == b""
        assert await read_all(talking) == b""
    there = house.links.get_nowait()
    got: asyncio.Queue[m.Message] = asyncio.Queue()
    there.on_message = got.put_nowait
    link.send(m.Ack(1, 5))
    assert await got.get() == m.Ack(1, 5)
    link.close()
    await link.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        house.raw()


async def test_a_fault_of_the_handler_is_reported_and_harms_nobody(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reported.put_nowait(context))

    def broken(_hello: bytes, *, demand: bool) -> ssl.SSLContext:
        raise RuntimeError(f"no context, {demand}")

    with monkeypatch.context() as patch, house.raw() as sock:
        patch.setattr(house.contexts, "choose", broken)
        await loop.sock_sendall(sock, b"\x16")
        assert await read_all(sock) == b""
        assert isinstance((await reported.get())["exception"], RuntimeError)
    (await house.connect()).close()
