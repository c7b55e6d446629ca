"""Valid messages of every type, and ways to spoil them. Seeded: the same every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from psync.model import ExitStatus, HostFacts, RunInfo, RunSpec, RunState, Stream, Tool
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, encode

NO_PROGRAM = b"psync-no-such-program"
"""What a ``Start`` asks for here. Whatever becomes of it, nothing is executed."""

PROJECT = "a-project-0123456789abcdef"

FACTS = HostFacts(
    "host", "Linux", "x86_64", b"/projects", Tool("/usr/bin/rsync", "3.2.7"), "/bin/x", "0"
)

SAMPLES: tuple[m.Message, ...] = (
    m.Hello(versions=(1, 2), software="a client", features=("list", "times")),
    m.Hello(versions=(1,), software="a daemon", facts=FACTS, certificate_expires=1e9),
    m.Error(code="refused", message="no", hint="try again"),
    m.Ping(7),
    m.Pong(7),
    m.OpenProject(request=1, project=PROJECT, source=b"/home/me/game", host="desk"),
    m.ProjectOpened(request=1, path=b"/projects/x"),
    m.RequestRefused(request=1, code="refused", message="no", hint="h"),
    m.ListRuns(request=1, match="abc", active=True, before="0123456789"),
    m.RunList(
        request=1,
        runs=(
            RunInfo(
                id="0123456789",
                command=(b"./game", b"--level"),
                state=RunState.EXITED,
                created=1.5,
                name="n",
                status=ExitStatus(code=3),
                output=12,
            ),
        ),
        more=True,
    ),
    m.Locate(request=1, run="0123456789", lines=10, since=5.0, stream=Stream.STDOUT),
    m.Located(request=1, offset=1, oldest=0, end=2),
    m.RenewCertificate(request=1, csr=b"-----BEGIN CERTIFICATE REQUEST-----\nAA==\n"),
    m.CertificateRenewed(request=1, certificate=b"-----BEGIN CERTIFICATE-----\n", expires=1e9),
    m.Start(
        channel=1,
        request_id="0123456789abcdef",
        spec=RunSpec(argv=(NO_PROGRAM, b"-x"), env=((b"A", b"b"),), name="n", disconnect_grace=1.0),
    ),
    m.Start(
        channel=2,
        request_id="fedcba9876543210",
        spec=RunSpec(argv=(NO_PROGRAM,), project=PROJECT, program=b"tree/x", cwd=b"tree/y"),
    ),
    m.Attach(channel=1, run="0123456789", offset=5, viewer="v" * 16, times=True),
    m.Attached(channel=1, run="0123456789", state=RunState.RUNNING, stdin=3, end=4, holder="h"),
    m.Refused(channel=1, code="refused", message="no"),
    m.Detach(channel=1),
    m.Exited(channel=1, end=5, status=ExitStatus(signal="SIGKILL"), message="x"),
    m.StdinHolder(channel=1, offset=5, holder="h"),
    m.Times(channel=1, stamps=((0, 1), (5, 2))),
    m.Signal(channel=1, name="SIGINT"),
    m.Stop(channel=1, kill=False, signal="SIGTERM", grace=1.0),
    m.CloseOutput(channel=1, stream=Stream.STDERR),
    m.StdinClosed(channel=1),
    m.Gap(channel=1, start=0, end=5),
    m.Data(1, Stream.STDIN, 0, b"input\n"),
    m.Data(1, Stream.STDOUT, 3, b"output\n"),
    m.Ack(1, 5),
    m.StdinEnd(1, 5),
)

FRAMES = tuple(encode(message) for message in SAMPLES)

_NUMBERS = (
    b"0",
    b"-1",
    b"65536",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1" + b"0" * 400,
    b"1" + b"0" * 5000,
    b"1e308",
    b"1e999",
    b"-1e308",
    b"0.1",
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
)

_TEXTS = (
    "..",
    "../../etc",
    "/etc/passwd",
    "-e",
    "a\0b",
    "a\nb",
    "\x1b]0;x\x07",
    "\u202e",
    "\ud800",
    "x" * 20_000,
    "\U0010ffff" * 100,
)


def spoiled(count: int, seed: int = 1) -> Iterator[bytes]:
    """Yield so many frames; a tenth is random bytes, the rest are mutated messages."""
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.1:
            yield _random(chance)
            continue
        frame = bytearray(chance.choice(FRAMES))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            frame = chance.choice(_WAYS)(frame, chance)
        yield bytes(frame)


def oversized() -> Iterator[bytes]:
    """Yield messages that are too large, too deep or too many, one of each kind."""
    for kind in (m.Start.TYPE, m.Hello.TYPE, m.ListRuns.TYPE, m.Error.TYPE, m.RunList.TYPE):
        head = HEADER.pack(kind, 0, 0, 0)
        yield head + b"[" * 200_000
        yield head + b'{"a":' * 40_000 + b"1" + b"}" * 40_000
        yield head + b'{"spec":' * 30_000
        yield head + b" " * m.MAX_CONTROL + b"{}"
        yield head + b'{"request":1' + b',"request":1' * 20_000 + b"}"
        yield head + b'"' + b"\\u0000" * 40_000 + b'"'
        yield head + b"1" * 200_000
    yield HEADER.pack(m.Data.TYPE, 0, 1, 0) + bytes(m.MAX_PIECE + 1)
    yield HEADER.pack(m.Data.TYPE, 0, 1, 2**64 - 1) + bytes(m.MAX_PIECE)


def _random(chance: random.Random) -> bytes:
    size = chance.choice((0, 1, 11, 12, 13, 40, 300, 5000))
    data = bytearray(chance.randbytes(size))
    if size > 12 and chance.random() < 0.5:
        HEADER.pack_into(data, 0, chance.choice(FRAMES)[0], 0, 0, 0)
    return bytes(data)


def _flip(frame: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 1, 3, 20))):
        if frame:
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    return frame


def _truncate(frame: bytearray, chance: random.Random) -> bytearray:
    return frame[: chance.randrange(len(frame) + 1)]


def _splice(frame: bytearray, chance: random.Random) -> bytearray:
    other = chance.choice(FRAMES)
    return frame[: chance.randrange(len(frame) + 1)] + other[chance.randrange(len(other)) :]


def _repeat(frame: bytearray, chance: random.Random) -> bytearray:
    at, size = chance.randrange(len(frame) + 1), chance.randrange(1, 40)
    return frame[:at] + frame[at : at + size] * chance.choice((2, 3, 300)) + frame[at + size :]


def _header(frame: bytearray, chance: random.Random) -> bytearray:
    """Another type, stream, channel or offset: wrong direction, wrong channel, too far."""
    if len(frame) < HEADER.size:
        return frame
    kind, stream, channel, offset = HEADER.unpack_from(frame)
    match chance.randrange(4):
        case 0:
            kind = chance.choice(FRAMES)[0] if chance.random() < 0.7 else chance.randrange(256)
        case 1:
            stream = chance.randrange(256)
        case 2:
            channel = chance.choice((0, 1, 2, 3, 255, 256, 65535))
        case _:
            offset = chance.choice((0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1))
    HEADER.pack_into(frame, 0, kind, stream, channel, offset)
    return frame


def _field(frame: bytearray, chance: random.Random) -> bytearray:
    """Another value, or a field that is missing, unknown or there twice."""
    try:
        fields = json.loads(frame[HEADER.size :])
    except ValueError:
        return _flip(frame, chance)
    if not isinstance(fields, dict) or not fields:
        return _flip(frame, chance)
    name = chance.choice(list(fields))
    value = _NUMBERS[chance.randrange(len(_NUMBERS))]
    if chance.random() < 0.4:
        value = json.dumps(chance.choice(_TEXTS)).encode()
    kept = json.dumps(fields).encode()[1:-1]
    match chance.randrange(4):
        case 0:
            del fields[name]
            body = json.dumps(fields).encode()
        case 1:
            body = b"{%b,%b:%b}" % (kept, json.dumps(name).encode(), value)
        case 2:
            body = b'{%b,"unknown":%b}' % (kept, value)
        case _:
            fields[name] = "@"
            body = json.dumps(fields).encode().replace(b'"@"', value, 1)
    return frame[: HEADER.size] + body


def _inner(frame: bytearray, chance: random.Random) -> bytearray:
    """The same one level deeper, where there is one."""
    try:
        fields = json.loads(frame[HEADER.size :])
        inner = [key for key, value in fields.items() if isinstance(value, dict)]
    except (ValueError, AttributeError):
        return _flip(frame, chance)
    if not inner:
        return _field(frame, chance)
    key = chance.choice(inner)
    deeper = _field(frame[: HEADER.size] + bytearray(json.dumps(fields[key]).encode()), chance)
    fields[key] = "@@"
    body = json.dumps(fields).encode().replace(b'"@@"', bytes(deeper[HEADER.size :]), 1)
    return frame[: HEADER.size] + body


_WAYS = (_flip, _truncate, _splice, _repeat, _header, _header, _field, _field, _inner)
