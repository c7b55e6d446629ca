"""Stdin and who holds it."""

from __future__ import annotations

import pytest

from psync.client.outgoing import Outgoing
from psync.errors import Refused
from psync.model import Stream
from psync.protocol import messages as m


class Wire:
    """What was sent, and what was told about holders."""

    def __init__(self, *, held: bool) -> None:
        self.sent: list[m.Message] = []
        self.told: list[int] = []
        self.stdin = Outgoing(self.sent.append, held=held)
        self.stdin.channel = 1
        self.stdin.on_holder = self.told.append

    def take(self) -> list[tuple[int, bytes]]:
        taken = [(p.offset, p.data) for p in self.sent if isinstance(p, m.Data)]
        self.sent.clear()
        return taken


async def test_who_joins_a_run_goes_on_where_its_stdin_is() -> None:
    wire = Wire(held=False)
    assert wire.stdin.room == 0
    wire.stdin.on_attached(1000, None)
    assert wire.told == []  # nothing was lost, and nobody asked
    wire.stdin.send(b"abc")
    assert wire.sent == [m.Data(1, Stream.STDIN, 1000, b"abc")]
    wire.stdin.on_ack(1003)
    assert wire.stdin.room == m.WINDOW_STDIN
    wire.stdin.end()
    assert wire.sent[-1] == m.StdinEnd(1, 1003)


async def test_who_joins_and_finds_it_held_is_told_and_gets_it_later() -> None:
    wire = Wire(held=False)
    wire.stdin.on_attached(10, "ada")
    assert (wire.stdin.holder, wire.stdin.held, wire.stdin.room) == ("ada", False, 0)
    with pytest.raises(Refused, match="held by ada"):
        await wire.stdin.write(b"x")
    wire.stdin.on_holder_changed(25, None)
    assert (wire.stdin.holder, wire.stdin.held) == (None, True)
    wire.stdin.send(b"x")
    assert wire.take() == [(25, b"x")]
    assert wire.told == [0, 0]


async def test_what_was_not_taken_when_another_took_over_is_dropped() -> None:
    wire = Wire(held=True)
    wire.stdin.send(b"0123456789")
    wire.stdin.on_ack(2)
    wire.take()
    wire.stdin.on_holder_changed(6, "ada")
    assert wire.told == [4]
    assert wire.stdin.room == 0
    wire.stdin.on_holder_changed(20, None)
    assert wire.take() == []  # not sent again: the program got what ada wrote there
    wire.stdin.send(b"x")
    assert wire.take() == [(20, b"x")]


async def test_a_connection_that_comes_back_too_late_finds_another_holder() -> None:
    wire = Wire(held=True)
    wire.stdin.send(b"0123456789")
    wire.stdin.on_ack(2)
    wire.take()
    wire.stdin.on_attached(500, "ada")
    assert wire.told == [8]  # at most
    assert wire.take() == []


async def test_what_is_beyond_our_own_offset_was_another_holders() -> None:
    wire = Wire(held=True)
    wire.stdin.send(b"0123456789")
    wire.take()
    wire.stdin.on_attached(500, None)  # who has left again
    assert wire.told == [10]
    assert wire.take() == []
    wire.stdin.send(b"x")
    assert wire.take() == [(500, b"x")]


async def test_unacknowledged_bytes_are_sent_again_once() -> None:
    wire = Wire(held=True)
    wire.stdin.send(b"0123456789")
    wire.stdin.end()
    wire.take()
    wire.stdin.on_attached(7, None)
    assert wire.sent == [m.Data(1, Stream.STDIN, 7, b"789"), m.StdinEnd(1, 10)]
    assert wire.told == []


async def test_an_end_that_came_while_another_held_it_ends_nothing() -> None:
    wire = Wire(held=False)
    wire.stdin.on_attached(0, "ada")
    wire.stdin.end()
    wire.stdin.on_holder_changed(5, None)
    assert wire.sent == []


async def test_who_only_looks_sends_nothing() -> None:
    wire = Wire(held=False)
    wire.stdin.never()
    with pytest.raises(Refused, match="does not send stdin"):
        await wire.stdin.write(b"x")
    wire.stdin.end()
    assert wire.sent == []
