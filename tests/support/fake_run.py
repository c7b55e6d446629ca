"""A run that has begun on a daemon that the test plays."""

from __future__ import annotations

import asyncio

from tests.support.fake_link import FakeDaemon, FakeLink

from psync.client.lifeline import Lifeline
from psync.client.run import RemoteRun
from psync.model import ExitStatus, RunSpec, RunState, Stream
from psync.protocol import messages as m

SPEC = RunSpec(argv=(b"x",))


class Stage:
    """A run that has begun on a fake daemon."""

    def __init__(self, daemon: FakeDaemon, lifeline: Lifeline, run: RemoteRun) -> None:
        self.daemon = daemon
        self.lifeline = lifeline
        self.run = run
        self.channel = 1

    @property
    def link(self) -> FakeLink:
        return self.daemon.link

    def attach(self, *, stdin: int = 0, state: RunState = RunState.RUNNING) -> None:
        self.link.say(m.Attached(channel=self.channel, run="r1", state=state, stdin=stdin))

    def output(self, offset: int, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        self.link.say(m.Data(self.channel, stream, offset, data))

    def exit(self, end: int, code: int = 0) -> None:
        self.link.say(m.Exited(channel=self.channel, end=end, status=ExitStatus(code=code)))


async def begun(spec: RunSpec = SPEC) -> Stage:
    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)  # type: ignore[arg-type]
    await lifeline.open()
    run = RemoteRun(lifeline, spec)
    run.begin()
    stage = Stage(daemon, lifeline, run)
    start = await stage.link.said(m.Start)
    assert start.spec == spec
    stage.channel = start.channel
    return stage


async def settled() -> None:
    """Let everything that is ready in the loop run."""
    for _ in range(5):
        await asyncio.sleep(0)
