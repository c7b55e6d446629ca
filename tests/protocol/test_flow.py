"""Offsets and windows: whatever is cut, repeated or split, each byte arrives exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.errors import ProtocolError
from psync.protocol.flow import Inbound, Outbound


@given(st.binary(max_size=500), st.data())
def test_any_splits_and_repeats_give_the_same_bytes(whole: bytes, data: st.DataObject) -> None:
    inbound = Inbound()
    received = b""
    while inbound.offset < len(whole):
        start = data.draw(st.integers(0, inbound.offset))  # a resumed sender may go back
        end = data.draw(st.integers(start, len(whole)))
        received += inbound.accept(start, whole[start:end])
    assert received == whole


@given(st.integers(0, 100), st.integers(1, 100), st.binary(max_size=10))
def test_a_hole_is_refused(at: int, hole: int, data: bytes) -> None:
    inbound = Inbound(at)
    with pytest.raises(ProtocolError, match="missing"):
        inbound.accept(at + hole, data)
    assert inbound.offset == at


def test_an_announced_gap_is_counted_once() -> None:
    inbound = Inbound(10)
    assert inbound.skip(10, 25) == 15
    assert inbound.skip(10, 25) == 0
    assert inbound.skip(20, 30) == 5
    for start, end in ((31, 40), (30, 30), (30, 20)):
        with pytest.raises(ProtocolError):
            inbound.skip(start, end)
    assert inbound.offset == 30


@given(st.lists(st.binary(max_size=40), max_size=20), st.data())
def test_outbound_keeps_exactly_what_is_not_acknowledged(
    pieces: list[bytes], data: st.DataObject
) -> None:
    outbound = Outbound(window=64)
    sent = b""
    for piece in pieces:
        if len(piece) > outbound.room:
            outbound.ack(data.draw(st.integers(outbound.offset - 24, outbound.offset)))
        assert outbound.push(piece) == len(sent)
        sent += piece
        outbound.ack(data.draw(st.integers(0, outbound.offset)))
        kept = outbound.unacknowledged()
        assert b"".join(chunk for _, chunk in kept) == sent[outbound.acked :]
        assert all(sent[at : at + len(chunk)] == chunk for at, chunk in kept)
        assert outbound.room == 64 - (outbound.offset - outbound.acked)


def test_outbound_refuses_what_cannot_be() -> None:
    outbound = Outbound(window=4)
    outbound.push(b"1234")
    with pytest.raises(ValueError, match="room"):
        outbound.push(b"5")
    with pytest.raises(ProtocolError, match="only 4 sent"):
        outbound.ack(5)
    outbound.ack(4)
    outbound.ack(1)
    assert outbound.acked == 4
    assert outbound.unacknowledged() == []
