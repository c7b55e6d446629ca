"""How a connection is made again: how fast, and after a sleep of this machine."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.fake_link import FakeLink
from tests.support.fake_run import begun, settled

from psync.client import lifeline
from psync.errors import ConnectionLost
from psync.model import RunSpec
from psync.protocol import messages as m


class Pauses:
    """Takes the place of waiting between attempts; collects how long it would have been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[float] = []
        self.now = 1000.0
        monkeypatch.setattr(lifeline, "boottime", lambda: self.now)
        monkeypatch.setattr("random.uniform", lambda _low, high: high)
        monkeypatch.setattr(lifeline.Lifeline, "_rest", self.rest)

    async def rest(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds


async def test_pauses_are_short_for_a_minute_and_longer_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = Pauses(monkeypatch)
    stage = await begun(RunSpec(argv=(b"x",), disconnect_grace=None))
    stage.attach()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(100)]
    stage.link.cut()
    await (await stage.daemon.linked(2)).said(m.Attach)
    first_minute = [taken for i, taken in enumerate(pauses.taken) if sum(pauses.taken[:i]) < 60.0]
    assert first_minute[:3] == [0.1, 0.2, 0.4]
    assert max(first_minute[:-1]) <= 1.0
    assert pauses.taken[-1] == 5.0


async def test_connections_that_bring_nothing_are_not_made_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = Pauses(monkeypatch)
    stage = await begun(RunSpec(argv=(b"x",), disconnect_grace=None))
    stage.attach()
    for count in range(2, 10):
        stage.link.cut()  # as soon as it is there
        await (await stage.daemon.linked(count)).said(m.Attach)
    assert pauses.taken == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    stage.attach()
    stage.link.cut()
    await (await stage.daemon.linked(10)).said(m.Attach)
    assert len(pauses.taken) == 7  # the daemon had said something


async def test_after_a_sleep_there_is_another_connection_at_once() -> None:
    told: list[object] = []
    stage = await begun()
    stage.lifeline.on_connection = told.append
    stage.attach()
    stage.output(0, b"abc")
    stage.run.consumed(3)
    old = stage.link
    stage.lifeline._on_jump(3600.0)
    assert not old.open
    again = await stage.daemon.linked(2)
    assert (await again.said(m.Attach)).offset == 3
    assert [error is None for error in told] == [False, True]
    assert "slept" in str(told[0])
    old.on_message(m.Data(1, 1, 3, b"late"))  # type: ignore[arg-type]
    stage.attach()
    stage.output(3, b"def")
    assert stage.run._output.end == 6


async def test_a_sleep_cuts_a_pause_and_a_hanging_attempt_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = await begun()
    stage.attach()
    hanging = asyncio.Event()
    usual = stage.daemon.dial

    async def dial() -> FakeLink:
        if not hanging.is_set():
            hanging.set()
            await asyncio.Event().wait()
        return await usual()

    stage.lifeline._dial = dial  # type: ignore[assignment]
    stage.link.cut()
    await asyncio.wait_for(hanging.wait(), 10)
    stage.lifeline._on_jump(10.0)
    await (await stage.daemon.linked(2)).said(m.Attach)

    stage.attach()
    stage.daemon.refusals = [ConnectionLost("no")]
    attempts = stage.daemon.attempts
    resting = asyncio.Event()

    async def rest(_seconds: float) -> None:
        resting.set()
        await stage.lifeline._hurry.wait()  # as long as it takes

    monkeypatch.setattr(stage.lifeline, "_rest", rest)
    stage.link.cut()
    await asyncio.wait_for(resting.wait(), 10)
    stage.lifeline._on_jump(10.0)
    await (await stage.daemon.linked(3)).said(m.Attach)
    assert stage.daemon.attempts == attempts + 2


async def test_time_slept_counts_for_the_grace_but_leaves_time_to_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = Pauses(monkeypatch)
    stage = await begun(RunSpec(argv=(b"x",), disconnect_grace=300.0))
    stage.attach()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(3)]
    stage.link.cut()
    pauses.now += 7200.0
    stage.lifeline._on_jump(7200.0)  # the run's time is over, and its end can still be fetched
    await (await stage.daemon.linked(2)).said(m.Attach)
    monkeypatch.setattr(lifeline, "WAKING", 0.0)
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    pauses.now += 7200.0
    stage.lifeline._on_jump(7200.0)
    with pytest.raises(ConnectionLost, match="psync ps -a"):
        await asyncio.wait_for(stage.run.wait(), 10)


async def test_clocks_are_watched_only_while_there_are_runs() -> None:
    stage = await begun()
    assert stage.lifeline._watch._timer is not None
    stage.attach()
    stage.exit(0)
    await settled()
    assert stage.lifeline._watch._timer is None


async def test_a_connection_that_is_being_closed_is_none() -> None:
    stage = await begun()
    stage.attach()
    stage.exit(0)
    await stage.run.wait()
    before = stage.link
    before.leave()
    await stage.lifeline.ensure()
    assert stage.link is not before
    stage.lifeline.send(m.Ack(1, 0))  # would raise on the one before
