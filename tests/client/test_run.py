"""A run as its client sees it, against a daemon that the test plays."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.support.fake_link import FakeDaemon
from tests.support.fake_run import SPEC, Stage, begun, settled

from psync.client.lifeline import Lifeline
from psync.client.run import ACK_BYTES, Gap, Output, RemoteRun
from psync.errors import (
    ConnectionLost,
    NotPaired,
    ProgramNotFound,
    ProtocolError,
    Refused,
    UsageError,
)
from psync.model import ExitStatus, RunSpec, RunState, Stream
from psync.protocol import messages as m


async def collect(run: RemoteRun) -> list[Output | Gap]:
    return [piece async for piece in run.output()]


async def test_output_of_both_streams_arrives_in_order_and_the_status_after_it() -> None:
    stage = await begun()
    stage.attach()
    stage.output(0, b"one")
    stage.output(3, b"two", Stream.STDERR)
    stage.exit(6, code=3)
    assert await collect(stage.run) == [
        Output(Stream.STDOUT, 0, b"one"),
        Output(Stream.STDERR, 3, b"two"),
    ]
    assert await stage.run.wait() == ExitStatus(code=3)
    assert stage.run.id == "r1"
    await stage.link.said(m.Detach)


async def test_a_refusal_is_raised_by_all_who_wait() -> None:
    stage = await begun()
    stage.link.say(m.Refused(channel=1, code="refused", message="too many runs", hint="stop one"))
    for waiting in (stage.run.started(), stage.run.wait(), collect(stage.run)):
        with pytest.raises(Refused, match="too many runs; stop one"):
            await waiting


async def test_a_program_that_could_not_be_executed_is_an_error() -> None:
    stage = await begun()
    stage.attach()
    stage.link.say(
        m.Exited(
            channel=1,
            end=0,
            status=ExitStatus(code=127),
            error="program-not-found",
            message="no such program: x",
        )
    )
    with pytest.raises(ProgramNotFound, match="no such program: x"):
        await stage.run.wait()


async def test_what_is_consumed_is_acknowledged_at_once_when_it_is_much() -> None:
    stage = await begun()
    stage.attach()
    piece = bytes(64 * 1024)
    for i in range(ACK_BYTES // len(piece)):
        stage.output(i * len(piece), piece)
    await settled()
    assert not any(isinstance(message, m.Ack) for message in stage.link.sent)
    stage.run.consumed(ACK_BYTES)
    assert m.Ack(1, ACK_BYTES) in stage.link.sent


async def test_a_little_is_acknowledged_after_a_while() -> None:
    stage = await begun()
    stage.attach()
    stage.output(0, b"abc")
    stage.run.consumed(2)
    stage.run.consumed(3)
    assert (await stage.link.said(m.Ack)).offset == 3


async def test_pieces_not_asked_for_are_not_acknowledged() -> None:
    stage = await begun()
    stage.attach()
    stage.output(0, b"abc")
    stage.output(3, b"def")
    pieces = stage.run.output()
    await anext(pieces)
    await settled()
    assert stage.run._output.consumed == 0  # the first piece is still in the consumer's hands
    await anext(pieces)
    assert stage.run._output.consumed == 3
    await pieces.aclose()  # type: ignore[attr-defined]


async def test_more_output_than_the_window_is_a_breach() -> None:
    stage = await begun()
    stage.attach()
    piece = bytes(m.MAX_DATA)
    for i in range(m.WINDOW_OUTPUT // len(piece)):
        stage.output(i * len(piece), piece)
    assert stage.link.open
    stage.output(m.WINDOW_OUTPUT, b"x")
    assert isinstance(stage.link.closed_with, ProtocolError)
    with pytest.raises(ProtocolError, match="more output than was asked for"):
        await stage.run.wait()


async def test_a_gap_is_passed_on_and_does_not_count_as_unread() -> None:
    stage = await begun()
    stage.attach()
    far = 10 * m.WINDOW_OUTPUT
    stage.output(0, b"ab")
    stage.link.say(m.Gap(channel=1, start=2, end=far))
    stage.output(far, b"cd")
    stage.exit(far + 2)
    assert await collect(stage.run) == [
        Output(Stream.STDOUT, 0, b"ab"),
        Gap(2, far),
        Output(Stream.STDOUT, far, b"cd"),
    ]


async def test_an_end_that_leaves_output_out_is_a_breach() -> None:
    stage = await begun()
    stage.attach()
    stage.output(0, b"ab")
    stage.exit(5)
    with pytest.raises(ProtocolError, match="ends at 5, and 2 bytes came"):
        await stage.run.wait()


# -- stdin --------------------------------------------------------------------------------------


async def test_stdin_waits_for_room() -> None:
    stage = await begun()
    data = random.Random(1).randbytes(m.WINDOW_STDIN + 100_000)
    writing = asyncio.create_task(stage.run.write_stdin(data))
    await settled()
    assert not writing.done()
    assert stage.run.stdin_room == 0
    stage.attach()
    stage.link.say(m.Ack(1, 50_000))
    await settled()
    assert not writing.done()
    stage.link.say(m.Ack(1, 100_000))
    async with asyncio.timeout(10):
        await writing
    stage.run.close_stdin()
    stage.run.close_stdin()
    ends = [message for message in stage.link.sent if isinstance(message, m.StdinEnd)]
    assert ends == [m.StdinEnd(1, len(data))]
    assert stage.link.stdin() == data


@pytest.mark.parametrize("how", ["closed by the program", "exited"])
async def test_writing_ends_when_nobody_reads(how: str) -> None:
    stage = await begun()
    stage.attach()
    writing = asyncio.create_task(stage.run.write_stdin(bytes(m.WINDOW_STDIN + 1)))
    await settled()
    if how == "exited":
        stage.exit(0)
    else:
        stage.link.say(m.StdinClosed(channel=1))
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(writing, 10)


# -- lost connections ---------------------------------------------------------------------------


async def test_a_lost_connection_is_resumed_at_the_next_byte() -> None:
    told: list[object] = []
    stage = await begun()
    stage.lifeline.on_connection = told.append
    stage.attach()
    stage.output(0, b"abcdef")
    stage.run.consumed(4)
    stage.link.cut()
    assert not stage.run.connected
    with pytest.raises(ConnectionLost):
        stage.run.signal("SIGINT")
    again = await stage.daemon.linked(2)
    attach = await again.said(m.Attach)
    assert (attach.run, attach.offset) == ("r1", 4)
    stage.attach()
    stage.output(4, b"efgh")
    stage.exit(8)
    assert b"".join(p.data for p in await collect(stage.run) if isinstance(p, Output)) == (
        b"abcdefgh"
    )
    assert [type(error) for error in told] == [ConnectionLost, type(None)]


async def test_stdin_goes_on_from_what_the_program_has() -> None:
    stage = await begun()
    stage.attach()
    await stage.run.write_stdin(b"0123456789")
    stage.link.say(m.Ack(1, 2))
    stage.link.cut()
    stage.run.send_stdin(b"abc")  # kept
    stage.run.close_stdin()
    stage.run.close_output(Stream.STDERR)
    again = await stage.daemon.linked(2)
    await again.said(m.Attach)
    assert again.stdin() == b""  # how far it got is not known yet
    stage.attach(stdin=7)
    assert [(p.offset, p.data) for p in again.sent if isinstance(p, m.Data)] == [
        (7, b"789"),
        (10, b"abc"),
    ]
    assert m.StdinEnd(1, 13) in again.sent
    assert m.CloseOutput(channel=1, stream=Stream.STDERR) in again.sent


async def test_a_start_that_was_not_answered_is_sent_again_with_its_request_id() -> None:
    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)  # type: ignore[arg-type]
    await lifeline.open()
    run = RemoteRun(lifeline, SPEC)
    run.begin()
    await run.write_stdin(b"in")
    first = await daemon.link.said(m.Start)
    daemon.link.cut()
    again = await daemon.linked(2)
    second = await again.said(m.Start)
    assert second == first
    await run.write_stdin(b" and more")
    assert again.stdin() == b""  # the daemon may be another one; it says first how much there is
    again.say(m.Attached(channel=1, run="r1", state=RunState.RUNNING, stdin=1))
    await asyncio.wait_for(run.started(), 10)
    assert again.stdin() == b"n and more"


async def test_attempts_go_on_until_one_succeeds() -> None:
    stage = await begun()
    stage.attach()
    stage.daemon.refusals = [ConnectionLost("no"), ConnectionLost("still not")]
    stage.link.cut()
    await (await stage.daemon.linked(2)).said(m.Attach)
    assert stage.daemon.attempts == 4


async def test_a_client_that_is_refused_does_not_go_on() -> None:
    stage = await begun()
    stage.attach()
    stage.daemon.refusals = [ConnectionLost("no"), NotPaired("revoked")]
    stage.link.cut()
    with pytest.raises(NotPaired, match="revoked"):
        await asyncio.wait_for(stage.run.wait(), 10)
    assert stage.daemon.attempts == 3


async def test_an_error_of_the_daemon_ends_the_run_here_without_another_attempt() -> None:
    stage = await begun()
    stage.attach()
    stage.link.cut(NotPaired("revoked"))
    with pytest.raises(NotPaired, match="revoked"):
        await asyncio.wait_for(stage.run.wait(), 10)
    assert stage.daemon.attempts == 1


async def test_attempts_end_when_the_grace_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psync.client.lifeline.HEARTBEAT_TIMEOUT", 0.0)
    stage = await begun(RunSpec(argv=(b"x",), disconnect_grace=0.0))
    stage.attach()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    with pytest.raises(ConnectionLost, match="without a client is over"):
        await asyncio.wait_for(stage.run.wait(), 10)


async def test_losing_it_again_and_again_asks_for_no_more_than_a_window() -> None:
    stage = await begun()
    stage.attach()
    piece = bytes(m.MAX_DATA)
    for round_ in range(3):
        for i in range(m.WINDOW_OUTPUT // len(piece)):
            stage.output(i * len(piece), piece)
        assert stage.link.open
        stage.link.cut()
        again = await stage.daemon.linked(round_ + 2)
        assert (await again.said(m.Attach)).offset == 0
        stage.attach()
    assert (
        sum(len(p.data) for p in stage.run._output.waiting if isinstance(p, Output))
        == m.WINDOW_OUTPUT
    )


# -- requests -----------------------------------------------------------------------------------


async def test_signals_go_behind_the_start_and_stop_as_asked() -> None:
    stage = await begun()
    stage.run.signal("SIGINT")
    stage.run.stop()
    stage.run.stop(kill=True)
    assert stage.link.sent == [
        m.Signal(channel=1, name="SIGINT"),
        m.Stop(channel=1, kill=False),
        m.Stop(channel=1, kill=True),
    ]


async def test_requests_after_the_end_are_ignored() -> None:
    stage = await begun()
    stage.attach()
    stage.exit(0)
    await stage.link.said(m.Detach)
    stage.run.signal("SIGINT")
    stage.run.stop()
    stage.run.detach()
    assert stage.link.sent == []


async def test_two_runs_share_a_connection() -> None:
    stage = await begun()
    other = RemoteRun(stage.lifeline, RunSpec(argv=(b"y",)))
    other.begin()
    assert (await stage.link.said(m.Start)).channel == 2
    stage.link.say(
        m.Attached(channel=2, run="r2", state=RunState.RUNNING, stdin=0),
        m.Data(2, Stream.STDOUT, 0, b"two"),
        m.Exited(channel=2, end=3, status=ExitStatus(code=2)),
    )
    assert await collect(other) == [Output(Stream.STDOUT, 0, b"two")]
    assert not stage.run._ended.done()


async def test_closing_the_lifeline_ends_waiting() -> None:
    stage = await begun()
    stage.attach()
    waiting = asyncio.create_task(stage.run.wait())
    await settled()
    await stage.lifeline.close()
    with pytest.raises(ConnectionLost, match="this side closed"):
        await asyncio.wait_for(waiting, 10)


async def test_closing_the_lifeline_while_it_reconnects() -> None:
    stage = await begun()
    stage.attach()
    stage.daemon.refusals = [ConnectionLost(f"no {i}") for i in range(1000)]
    stage.link.cut()
    await settled()
    await stage.lifeline.close()
    attempts = stage.daemon.attempts
    await settled()
    assert stage.daemon.attempts == attempts


async def test_arguments_that_do_not_fit_are_the_users_to_mend() -> None:
    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)  # type: ignore[arg-type]
    await lifeline.open()
    run = RemoteRun(lifeline, RunSpec(argv=(b"x", bytes(m.MAX_CONTROL))))
    with pytest.raises(UsageError, match="arguments and environment are too long"):
        run.begin()
    assert daemon.link.open


async def open_project(stage: Stage, project: str) -> m.ProjectOpened:
    return await stage.lifeline.request(
        lambda number: m.OpenProject(request=number, project=project, source=b"/src", host="host")
    )


async def test_projects_are_opened_by_request() -> None:
    stage = await begun()
    opening = asyncio.create_task(open_project(stage, "p"))
    refused = asyncio.create_task(open_project(stage, "q"))
    first = await stage.link.said(m.OpenProject)
    second = await stage.link.said(m.OpenProject)
    stage.link.say(
        m.RequestRefused(request=second.request, code="refused", message="not yours"),
        m.ProjectOpened(request=first.request, path=b"/projects/p"),
        m.ProjectOpened(request=99, path=b"/nobody/asked"),
    )
    assert (await asyncio.wait_for(opening, 10)).path == b"/projects/p"
    with pytest.raises(Refused, match="not yours"):
        await asyncio.wait_for(refused, 10)


async def test_a_request_fails_with_its_connection() -> None:
    stage = await begun()
    opening = asyncio.create_task(open_project(stage, "p"))
    await stage.link.said(m.OpenProject)
    stage.link.cut()
    with pytest.raises(ConnectionLost, match="cut by the test"):
        await asyncio.wait_for(opening, 10)


async def test_a_connection_lost_in_idleness_is_made_again_when_it_is_needed() -> None:
    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)  # type: ignore[arg-type]
    await lifeline.ensure()
    daemon.link.cut()
    await settled()
    assert daemon.attempts == 1
    await lifeline.ensure()
    assert daemon.attempts == 2
