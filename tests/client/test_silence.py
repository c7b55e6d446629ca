"""A connection on which nothing is heard."""

from __future__ import annotations

import asyncio

from tests.support.fake_link import FakeLink
from tests.support.fake_run import Stage, begun, settled

from psync.errors import ConnectionLost, NotPaired
from psync.model import Stream
from psync.protocol import messages as m


async def silent(stage: Stage, seconds: float) -> None:
    """Have the daemon have been silent for so long, and a second pass."""
    stage.link.heard_at = asyncio.get_running_loop().time() - seconds
    stage.lifeline._on_tick()
    await settled()


async def test_a_silent_daemon_is_asked_and_then_another_connection_takes_over() -> None:
    told: list[object] = []
    stage = await begun()
    stage.lifeline.on_connection = told.append
    stage.attach()
    stage.output(0, b"abc")
    stage.run.consumed(3)
    old = stage.link
    await silent(stage, 2.0)
    assert old.sent == []
    await silent(stage, 3.0)
    assert [type(message) for message in old.sent] == [m.Ping]
    assert stage.daemon.attempts == 1
    await silent(stage, 5.0)
    again = await stage.daemon.linked(2)
    assert (await again.said(m.Attach)).offset == 3
    assert not old.open
    assert told == []  # nobody has noticed anything
    stage.attach()
    stage.output(3, b"def")
    assert stage.run._output.end == 6


async def test_a_silent_connection_that_is_heard_again_stays() -> None:
    stage = await begun()
    stage.attach()
    old = stage.link
    dialled, go_on = asyncio.Event(), asyncio.Event()
    usual = stage.daemon.dial

    async def dial() -> FakeLink:
        dialled.set()
        await go_on.wait()
        return await usual()

    stage.lifeline._dial = dial  # type: ignore[assignment]
    await silent(stage, 6.0)
    await asyncio.wait_for(dialled.wait(), 10)
    old.say(m.Data(1, Stream.STDOUT, 0, b"abc"))
    go_on.set()
    other = await stage.daemon.linked(2)
    await settled()
    assert old.open
    assert not other.open
    assert stage.lifeline.link is old  # type: ignore[comparison-overlap]
    assert stage.lifeline._silence._task is None


async def test_a_silent_connection_that_ends_meanwhile_is_made_again_as_usual() -> None:
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
    await silent(stage, 6.0)
    await asyncio.wait_for(hanging.wait(), 10)
    stage.link.cut()
    await (await stage.daemon.linked(2)).said(m.Attach)
    await stage.lifeline.close()


async def test_an_attempt_that_is_refused_changes_nothing() -> None:
    stage = await begun()
    stage.attach()
    stage.daemon.refusals = [NotPaired("revoked")]
    await silent(stage, 6.0)
    assert stage.daemon.attempts == 2
    assert stage.link.open
    stage.output(0, b"abc")
    assert stage.run._output.end == 3


async def test_attempts_go_on_while_it_is_silent() -> None:
    stage = await begun()
    stage.attach()
    stage.daemon.refusals = [ConnectionLost("no")]
    await silent(stage, 6.0)
    assert stage.daemon.attempts == 2
    await (await stage.daemon.linked(2)).said(m.Attach)
