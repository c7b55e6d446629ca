"""What a target is asked, by a daemon that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support.fake_link import FakeDaemon

from psync.client.lifeline import Lifeline
from psync.client.run import Output
from psync.client.target import Target
from psync.client.targets import TargetSpec
from psync.errors import ConnectError, ProtocolError, Refused
from psync.model import ExitStatus, Overflow, RunInfo, RunSpec, RunState, Stream
from psync.paths import ClientPaths
from psync.protocol import messages as m

_T = TypeVar("_T")


class Played:
    """A target whose daemon is the test."""

    def __init__(self, home: Path, features: tuple[str, ...] = m.FEATURES) -> None:
        self.daemon = FakeDaemon()
        self.daemon.features = features
        paths = ClientPaths.from_environ({"HOME": str(home)})
        self.target = Target(TargetSpec("local"), paths)
        self.target._lifeline = Lifeline(
            self.daemon.dial,  # type: ignore[arg-type]
            name="there",
        )

    async def asked(self, call: Coroutine[Any, Any, _T], *answers: Any) -> tuple[_T, list[Any]]:
        """Answer each request of ``call`` with the next of ``answers``."""
        task = asyncio.create_task(call)
        requests = []
        await self.daemon.linked(1)
        for answer in answers:
            request = await self.daemon.link.said(m.Control)  # type: ignore[type-var]
            requests.append(request)
            self.daemon.link.say(answer(request))
        return await asyncio.wait_for(task, 10), requests


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def info(run_id: str) -> RunInfo:
    return RunInfo(id=run_id, command=(b"x",), state=RunState.RUNNING, created=1.0)


async def test_runs_are_asked_for_page_by_page(played: Played) -> None:
    found, requests = await played.asked(
        played.target.runs("ga", active=True),
        lambda asked: m.RunList(request=asked.request, runs=(info("r3"), info("r2")), more=True),
        lambda asked: m.RunList(request=asked.request, runs=(info("r1"),)),
    )
    assert [run.id for run in found] == ["r3", "r2", "r1"]
    assert [(one.match, one.active, one.before) for one in requests] == [
        ("ga", True, None),
        ("ga", True, "r2"),
    ]


async def test_a_list_that_promises_more_and_brings_nothing_ends(played: Played) -> None:
    found, _ = await played.asked(
        played.target.runs(), lambda asked: m.RunList(request=asked.request, runs=(), more=True)
    )
    assert found == []


async def test_places_are_asked_for(played: Played) -> None:
    found, (asked,) = await played.asked(
        played.target.locate("r1", lines=10, since=5.0, stream=Stream.STDERR),
        lambda asked: m.Located(request=asked.request, offset=7, oldest=3, end=90),
    )
    assert (found.offset, found.oldest, found.end) == (7, 3, 90)
    assert (asked.run, asked.lines, asked.since, asked.stream) == ("r1", 10, 5.0, Stream.STDERR)


async def test_a_refused_request_is_raised(played: Played) -> None:
    with pytest.raises(Refused, match="no run zz"):
        await played.asked(
            played.target.locate("zz"),
            lambda asked: m.RequestRefused(
                request=asked.request, code="refused", message="there is no run zz"
            ),
        )


async def test_the_answer_to_another_question_is_a_breach(played: Played) -> None:
    with pytest.raises(ProtocolError, match="RunList answers no request"):
        await played.asked(
            played.target.locate("r1"), lambda asked: m.RunList(request=asked.request, runs=())
        )


async def test_a_daemon_that_never_answers_is_not_waited_for_forever(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psync.client.requests.REQUEST_TIMEOUT", 0.0)
    with pytest.raises(ConnectError, match="there did not answer"):
        await played.target.runs()


async def test_an_older_daemon_is_named_and_not_asked(tmp_path: Path) -> None:
    played = Played(tmp_path, features=())
    target = played.target
    for call in (target.runs(), target.locate("r1"), target.attach("r1")):
        with pytest.raises(ProtocolError, match=r"older version and cannot .*; upgrade psync on"):
            await call
    with pytest.raises(ProtocolError, match="cannot drop output"):
        await target.begin(RunSpec(argv=(b"x",), overflow=Overflow.DROP))
    with pytest.raises(ProtocolError, match="cannot look for shared libraries in the mirror"):
        await target.begin(RunSpec(argv=(b"x",), project="p", library_path=(b"tree/lib",)))
    run = await target.begin(RunSpec(argv=(b"x",), revision="abc"))
    assert (await played.daemon.link.said(m.Start)).spec.revision == ""
    with pytest.raises(ProtocolError, match="step by step"):
        run.stop(signal="SIGINT")
    played.daemon.link.say(m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=0))
    played.daemon.link.cut()
    attach = await (await played.daemon.linked(2)).said(m.Attach)
    assert attach.viewer is None
    target.abandon()


async def test_attaching_shows_the_output_from_there_with_its_times(played: Played) -> None:
    run, (asked,) = await played.asked(
        played.target.attach("r1", offset=50, times=True, grace=60.0),
        lambda asked: m.Attached(
            channel=asked.channel, run="r1", state=RunState.RUNNING, stdin=4, end=80, holder="ada"
        ),
    )
    assert (asked.run, asked.offset, asked.read_only, asked.times) == ("r1", 50, False, True)
    assert (run.end_at_attach, run.holder, run.holds_stdin, run.grace) == (80, "ada", False, 60.0)
    link = played.daemon.link
    link.say(
        m.Times(channel=1, stamps=((50, 10**18),)),
        m.Data(1, Stream.STDOUT, 50, b"abc"),
    )
    piece = await anext(aiter(run.output()))
    assert piece == Output(Stream.STDOUT, 50, b"abc", 10**18)
    told: list[int] = []
    run.on_stdin_holder(told.append)
    link.say(m.StdinHolder(channel=1, offset=9))
    assert (told, run.holder, run.holds_stdin) == ([0], None, True)
    await run.write_stdin(b"x")
    assert (await link.said(m.Data)).offset == 9
    link.cut()
    again = await (await played.daemon.linked(2)).said(m.Attach)
    assert again.viewer == asked.viewer
    assert (again.offset, again.times) == (50, True)
    played.daemon.link.say(
        m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=9, end=90),
        m.Times(channel=1, stamps=((50, 10**18),)),
        m.Exited(channel=1, end=53, status=ExitStatus(code=0)),
    )
    assert run.end_at_attach == 80
    assert await run.wait() == ExitStatus(code=0)


async def test_who_only_looks_sends_nothing(played: Played) -> None:
    run, (asked,) = await played.asked(
        played.target.attach("r1", read_only=True),
        lambda asked: m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=4),
    )
    assert asked.read_only
    with pytest.raises(Refused, match="only looks"):
        run.signal("SIGINT")
    with pytest.raises(Refused, match="only looks"):
        run.stop(kill=True)
    with pytest.raises(Refused, match="only looks"):
        run.stop(signal="SIGINT")
    with pytest.raises(Refused):
        await run.write_stdin(b"x")
    run.close_output(Stream.STDOUT)
    run.close_stdin()
    played.daemon.link.cut()
    again = await played.daemon.linked(2)
    assert (await again.said(m.Attach)).read_only
    assert again.sent == []


async def test_stopping_step_by_step(played: Played) -> None:
    run, _ = await played.asked(
        played.target.attach("r1"),
        lambda asked: m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=0),
    )
    run.stop(signal="SIGHUP", grace=3.0)
    run.stop(grace=1.0)
    assert played.daemon.link.sent == [
        m.Stop(channel=1, kill=False, signal="SIGHUP", grace=3.0),
        m.Stop(channel=1, kill=False, signal="SIGTERM", grace=1.0),
    ]
