"""The frames, over arbitrary splits and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.supervisor import wire
from psync.supervisor.frames import MAX_PAYLOAD

offsets = st.integers(0, 2**64 - 1)
numbers = st.integers(0, 2**32 - 1)
signals = st.integers(1, 64)
text = st.text(max_size=50)

from_daemon = st.one_of(
    st.builds(wire.Viewers, numbers),
    st.builds(wire.Stdin, offsets, st.binary(min_size=1, max_size=300)),
    st.builds(wire.StdinEof, offsets),
    st.builds(wire.Signal, signals),
    st.just(wire.Terminate()),
    st.just(wire.Kill()),
    st.builds(wire.Stop, signals, numbers),
    st.builds(wire.Floor, offsets),
    st.builds(wire.Lead, offsets),
    st.builds(wire.CloseOutput, st.sampled_from([1, 2])),
)
from_supervisor = st.one_of(
    st.builds(wire.Hello, numbers, offsets, st.integers(0, 255)),
    st.just(wire.Started()),
    st.just(wire.Grew()),
    st.builds(wire.StdinTaken, offsets),
    st.just(wire.StdinClosed()),
    st.just(wire.Exited()),
)
to_launcher = st.builds(wire.Launch, st.binary(max_size=300))
from_launcher = st.one_of(
    st.builds(wire.Launched, numbers), st.builds(wire.LaunchFailed, numbers, text)
)

DIRECTIONS = [
    (wire.FROM_DAEMON, from_daemon),
    (wire.FROM_SUPERVISOR, from_supervisor),
    (wire.TO_LAUNCHER, to_launcher),
    (wire.FROM_LAUNCHER, from_launcher),
]


@pytest.mark.parametrize(("kinds", "frames"), DIRECTIONS)
def test_what_is_encoded_is_decoded_however_it_is_split(
    kinds: dict[int, type[wire.Frame]], frames: st.SearchStrategy[wire.Frame]
) -> None:
    @given(st.lists(frames, max_size=8), st.data())
    def check(sent: list[wire.Frame], data: st.DataObject) -> None:
        stream = b"".join(frame.encode() for frame in sent)
        decoder = wire.FrameDecoder(kinds)
        received: list[wire.Frame] = []
        at = 0
        while at < len(stream):
            step = data.draw(st.integers(1, len(stream) - at))
            received += decoder.feed(stream[at : at + step])
            at += step
        assert received == sent
        assert decoder.pending == 0

    check()


@pytest.mark.parametrize(("kinds", "frames"), DIRECTIONS)
def test_garbage_raises_nothing_but_the_one_error(
    kinds: dict[int, type[wire.Frame]], frames: st.SearchStrategy[wire.Frame]
) -> None:
    @given(st.lists(frames, max_size=3), st.binary(max_size=100))
    def check(sent: list[wire.Frame], garbage: bytes) -> None:
        decoder = wire.FrameDecoder(kinds)
        assert decoder.feed(b"".join(frame.encode() for frame in sent)) == sent
        try:
            decoder.feed(garbage)
        except wire.WireError:
            pass
        else:
            assert decoder.pending <= MAX_PAYLOAD + 5

    check()


def test_every_frame_is_tested_and_has_its_own_number() -> None:
    tables = [kinds for kinds, _ in DIRECTIONS]
    kinds = [kind for table in tables for kind in table.values()]
    numbers = [number for table in tables for number in table]
    assert len(set(numbers)) == len(numbers) == len(kinds)
    declared = {
        kind
        for kind in vars(wire).values()
        if isinstance(kind, type) and issubclass(kind, wire.Frame) and kind.TYPE
    }
    assert declared == set(kinds)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x00\x00\x63",  # unknown type
        b"\x00\x00\x00\x05\x01",  # Viewers of the wrong length
        b"\x7f\xff\xff\xff\x02",  # stdin without end
        b"\x00\x00\x00\x08\x02" + bytes(8),  # stdin without bytes
        b"\x00\x00\x00\x01\x09\x00",  # no such output
        b"\x00\x00\x00\x04\x04\x00\x00\x00\x00",  # no such signal
        b"\x00\x00\x00\x04\x04\x00\x00\x00\x41",
        b"\x00\x00\x00\x08\x07\xff\xff\xff\xff\x00\x00\x00\x00",
        wire.Grew().encode(),  # the other direction's
    ],
)
def test_each_kind_of_garbage_is_refused(stream: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.FrameDecoder(wire.FROM_DAEMON).feed(stream)


def test_a_frame_of_the_greatest_size_passes_and_one_more_byte_does_not() -> None:
    frame = wire.Stdin(0, bytes(wire.MAX_STDIN))
    assert wire.FrameDecoder(wire.FROM_DAEMON).feed(frame.encode()) == [frame]
    with pytest.raises(wire.WireError):
        wire.FrameDecoder(wire.FROM_DAEMON).feed(wire.Stdin(0, bytes(wire.MAX_STDIN + 1)).encode())


def test_a_frame_says_what_it_is() -> None:
    assert repr(wire.Stdin(1, b"x")).startswith("Stdin(")
    assert len({wire.Grew(), wire.Grew(), wire.Exited()}) == 2
