"""The codec: every message survives the trip; garbage raises ProtocolError and nothing else."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from psync.errors import ProtocolError
from psync.model import ExitStatus, HostFacts, RunSpec, RunState, Stream, Tool
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, MAX_MESSAGE, decode, encode

channels = st.integers(1, 0xFFFF)
offsets = st.integers(0, 2**63 - 1)
words = st.from_regex(r"\A[A-Za-z0-9_.+-]{1,64}\Z")
texts = st.text(st.characters(codec="utf-8"), max_size=50)
blobs = st.binary(max_size=200)
specs = st.builds(
    RunSpec,
    argv=st.lists(blobs, min_size=1, max_size=5).map(tuple),
    program=st.none() | blobs,
    env=st.lists(st.tuples(blobs, blobs), max_size=4).map(tuple),
    cwd=st.none() | blobs,
    project=st.none() | st.just("game-0123456789abcdef"),
    name=texts,
    disconnect_grace=st.none() | st.floats(0, 1e6),
)
facts = st.builds(
    HostFacts,
    hostname=texts,
    system=texts,
    machine=texts,
    projects_root=blobs,
    rsync=st.none() | st.builds(Tool, path=texts, version=texts),
    server=texts,
    software=texts,
)
statuses = st.one_of(
    st.builds(ExitStatus, code=st.integers(0, 255)),
    st.builds(ExitStatus, signal=st.sampled_from(["SIGINT", "SIGKILL", "SIGRTMIN+3"])),
    st.just(ExitStatus(lost=True)),
)
requests = st.integers(1, 2**31)
all_messages = st.one_of(
    st.builds(
        m.Hello,
        versions=st.lists(st.integers(0, 9), min_size=1, max_size=16).map(tuple),
        software=texts,
        features=st.lists(words, max_size=3).map(tuple),
        limits=st.just(m.Limits()),
        facts=st.none() | facts,
    ),
    st.builds(m.Error, code=words, message=texts, hint=texts),
    st.builds(m.Ping, st.integers(0, 2**64 - 1)),
    st.builds(m.Pong, st.integers(0, 2**64 - 1)),
    st.builds(m.OpenProject, request=requests, project=st.just("p-1"), source=blobs, host=texts),
    st.builds(m.ProjectOpened, request=requests, path=blobs),
    st.builds(m.RequestRefused, request=requests, code=words, message=texts, hint=texts),
    st.builds(m.Start, channel=channels, request_id=st.just("a" * 22), spec=specs),
    st.builds(m.Attach, channel=channels, run=st.just("abc123"), offset=offsets),
    st.builds(
        m.Attached,
        channel=channels,
        run=st.just("abc123"),
        state=st.sampled_from(RunState),
        stdin=offsets,
    ),
    st.builds(m.Refused, channel=channels, code=words, message=texts, hint=texts),
    st.builds(m.Detach, channel=channels),
    st.builds(
        m.Exited,
        channel=channels,
        end=offsets,
        status=statuses,
        error=st.none() | words,
        message=texts,
    ),
    st.builds(m.Signal, channel=channels, name=st.sampled_from(["SIGINT", "SIGTERM"])),
    st.builds(m.Stop, channel=channels, kill=st.booleans()),
    st.builds(m.CloseOutput, channel=channels, stream=st.sampled_from(Stream)),
    st.builds(m.StdinClosed, channel=channels),
    st.builds(m.Gap, channel=channels, start=offsets, end=offsets),
    st.builds(m.Data, channel=channels, stream=st.sampled_from(Stream), offset=offsets, data=blobs),
    st.builds(m.Ack, channel=channels, offset=offsets),
    st.builds(m.StdinEnd, channel=channels, offset=offsets),
)


@given(all_messages)
def test_every_message_survives_the_trip(message: m.Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=300))
@example(b"")
@example(HEADER.pack(0x01, 0, 0, 0) + b"[" * 100_000)
@example(HEADER.pack(0x20, 0, 0, 0) + b'{"spec":' * 50_000)
@example(HEADER.pack(0x01, 0, 0, 0) + b'{"versions":[1],"software":"\xff\xfe"}')
def test_garbage_raises_only_the_protocol_error(garbage: bytes) -> None:
    try:
        decode(garbage)
    except ProtocolError as error:
        assert error.message


@given(all_messages, st.data())
def test_a_mutated_message_raises_only_the_protocol_error(
    message: m.Message, data: st.DataObject
) -> None:
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for mutant in (bytes(raw), bytes(raw[:cut])):
        try:
            decode(mutant)
        except ProtocolError as error:
            assert error.message


@pytest.mark.long
@pytest.mark.timeout(600)
@settings(max_examples=100_000, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=120))
def test_garbage_behind_every_type(kind: int, garbage: bytes) -> None:
    try:
        decode(bytes([kind]) + garbage)
    except ProtocolError as error:
        assert error.message


def test_unknown_optional_messages_are_ignored_and_mandatory_ones_refused() -> None:
    assert decode(HEADER.pack(0x7E, 0, 0, 0) + b"{}") is None
    assert decode(HEADER.pack(0xFE, 0, 1, 0) + b"raw") is None
    for kind in (0x3E, 0xBE):
        with pytest.raises(ProtocolError, match="not known here"):
            decode(HEADER.pack(kind, 0, 1 if kind & 0x80 else 0, 0))


def test_sizes_are_bounded_both_ways() -> None:
    largest = bytes(m.MAX_PIECE)
    message = m.Data(1, Stream.STDOUT, 0, largest)
    assert decode(encode(message)) == message
    with pytest.raises(ProtocolError, match="limit"):
        encode(m.Data(1, Stream.STDOUT, 0, largest + b"x"))
    with pytest.raises(ProtocolError, match="limit"):
        decode(HEADER.pack(m.Data.TYPE, 1, 1, 0) + largest + b"x")
    spec = RunSpec(argv=(bytes(m.MAX_CONTROL),))
    with pytest.raises(ProtocolError, match="limit"):
        encode(m.Start(channel=1, request_id="a" * 22, spec=spec))
    with pytest.raises(ProtocolError, match="limit"):
        decode(HEADER.pack(m.Error.TYPE, 0, 0, 0) + b" " * (m.MAX_CONTROL + 1))
    assert HEADER.size + m.MAX_CONTROL == MAX_MESSAGE


@pytest.mark.parametrize(
    "header",
    [(0x02, 1, 0, 0), (0x02, 0, 1, 0), (0x02, 0, 0, 1), (0x82, 0, 0, 5), (0x82, 1, 1, 5),
     (0x83, 0, 1, 5), (0x81, 3, 1, 0), (0x81, 1, 0, 0)],
)  # fmt: skip
def test_header_fields_that_mean_nothing_must_be_zero(header: tuple[int, int, int, int]) -> None:
    with pytest.raises(ProtocolError):
        decode(HEADER.pack(*header) + b'{"code":"a","message":"b"}' * (header[0] == 0x02))


def test_control_fields_are_strict_except_in_hello() -> None:
    extra = {"channel": 1, "more": True}
    with pytest.raises(ProtocolError, match="more"):
        decode(HEADER.pack(m.Detach.TYPE, 0, 0, 0) + json.dumps(extra).encode())
    hello = {"versions": [1], "software": "x", "more": True, "limits": {"more": 1}}
    decoded = decode(HEADER.pack(m.Hello.TYPE, 0, 0, 0) + json.dumps(hello).encode())
    assert decoded == m.Hello(versions=(1,), software="x")


def test_type_numbers_are_unique_and_their_bits_say_how_to_read_them() -> None:
    raw: list[type[m.Raw]] = [m.Ping, m.Pong, m.Data, m.Ack, m.StdinEnd]
    numbers = [*m.CONTROL_TYPES, *(cls.TYPE for cls in raw)]
    assert len(set(numbers)) == len(numbers) == len(m.Message.__args__)
    assert all(not number & m.RAW for number in m.CONTROL_TYPES)
    assert all(cls.TYPE & m.RAW for cls in raw)
    assert all(issubclass(cls, msgspec.Struct) for cls in m.CONTROL_TYPES.values())


@pytest.mark.parametrize("project", ["p-1\n", "..", "a/b", "-a", "A", "", "a" * 81])
def test_ids_that_become_paths_are_strict(project: str) -> None:
    message = m.OpenProject(request=1, project=project, source=b"/", host="h")
    with pytest.raises(ProtocolError):
        decode(encode(message))
    with pytest.raises(ProtocolError):
        decode(encode(m.Attach(channel=1, run=project.replace("p-1", "abc"), offset=0)))
