"""The Ctrl-C ladder."""

from __future__ import annotations

import asyncio
import signal

import pytest
from tests.support.fake_run import begun

from psync.client import interrupts
from psync.client.interrupts import Ladder
from psync.errors import ConnectionLost, Interrupted
from psync.model import RunSpec
from psync.protocol import messages as m


async def test_each_ctrl_c_is_a_stronger_request() -> None:
    said: list[str] = []
    stage = await begun()
    ladder = Ladder(stage.run, said.append)
    ladder.handle(signal.SIGINT)
    assert stage.link.sent.pop() == m.Signal(channel=1, name="SIGINT")
    assert said == []  # the program may handle it
    ladder.handle(signal.SIGINT)
    assert stage.link.sent.pop() == m.Stop(channel=1, kill=False)
    assert said == ["sent SIGTERM to the whole run; Ctrl-C again kills it"]
    ladder.handle(signal.SIGINT)
    assert stage.link.sent.pop() == m.Stop(channel=1, kill=True)
    assert said[1:] == ["killing the whole run"]
    ladder.handle(signal.SIGINT)
    assert stage.link.sent == []
    assert not ladder.leaving.done()
    ladder.close()


async def test_a_program_that_takes_its_time_is_worth_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    said: asyncio.Queue[str] = asyncio.Queue()
    stage = await begun()
    ladder = Ladder(stage.run, said.put_nowait)
    ladder.handle(signal.SIGINT)
    line = await asyncio.wait_for(said.get(), 10)
    assert line == "sent SIGINT; Ctrl-C again stops the whole run"
    ladder.close()


async def test_a_daemon_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "LAST_PATIENCE", 0.0)
    stage = await begun()
    stage.attach()
    ladder = Ladder(stage.run, lambda line: None)
    for _ in range(4):
        ladder.handle(signal.SIGINT)
    with pytest.raises(Interrupted, match="does not answer; the run goes on there for up to 300"):
        await ladder.leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
async def test_other_signals_are_forwarded_by_name_every_time(number: signal.Signals) -> None:
    stage = await begun()
    ladder = Ladder(stage.run, lambda line: None)
    for _ in range(5):
        ladder.handle(number)
    assert stage.link.sent == [m.Signal(channel=1, name=number.name)] * 5


@pytest.mark.parametrize(
    ("grace", "fate"), [(None, "goes on there$"), (60.0, "goes on there for up to 60 seconds$")]
)
async def test_without_a_connection_any_signal_leaves(grace: float | None, fate: str) -> None:
    stage = await begun(RunSpec(argv=(b"x",), disconnect_grace=grace))
    stage.attach()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    ladder = Ladder(stage.run, lambda line: None)
    ladder.handle(signal.SIGTERM)
    ladder.handle(signal.SIGINT)  # once is enough
    with pytest.raises(Interrupted, match=fate):
        await ladder.leaving
    await stage.lifeline.close()


async def test_who_leaves_is_told_how_to_come_back() -> None:
    stage = await begun()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    ladder = Ladder(stage.run, lambda line: None, hint=lambda: "psync ps")
    ladder.handle(signal.SIGINT)
    with pytest.raises(Interrupted, match="if the run was started, it goes on there; psync ps"):
        await ladder.leaving
    await stage.lifeline.close()
