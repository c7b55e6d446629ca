"""Whatever happens in whatever order: a state machine over starts, faults and ends.

Hypothesis chooses what happens next, and makes a failing history short. The model knows what each
program was told; at the end every byte of it has to have come back, once, and every status.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.faults.world import Collected, World, collect

from psync.client.run import RemoteRun
from psync.client.target import Target
from psync.errors import ConnectError, ConnectionLost

_T = TypeVar("_T")

ECHO = 'while read x; do case $x in exit*) exit "${x#exit }";; *) echo "$x";; esac; done'
"""A program that repeats lines until it is told a status."""

MOST_RUNS = 4
MOST_VIEWERS = 3


class Told:
    """A run and what the model knows of it."""

    def __init__(self, run: RemoteRun) -> None:
        self.run = run
        self.got = Collected()
        self.collecting = asyncio.ensure_future(collect(run, self.got))
        self.lines: list[bytes] = []
        self.code: int | None = None
        self.killed = ""  # the signal it was ended with
        self.viewers: list[asyncio.Future[Collected]] = []


class Life(RuleBasedStateMachine):
    """The history of one world."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = World()
        self.runs: list[Told] = []
        self.sofa: Target | None = None  # another client, which looks on
        self.daemon_up = True
        self.stalled = False

    def do(self, what: Coroutine[Any, Any, _T]) -> _T:
        """Have something happen, and what it causes begin."""

        async def bounded() -> _T:
            async with asyncio.timeout(30):
                result = await what
                await asyncio.sleep(0)
                return result

        return self.loop.run_until_complete(bounded())

    @property
    def open_runs(self) -> list[Told]:
        return [told for told in self.runs if told.code is None and not told.killed]

    @initialize()
    def begin(self) -> None:
        self.do(self.world.__aenter__())

    @precondition(lambda self: self.daemon_up and not self.stalled)
    @precondition(lambda self: len(self.open_runs) < MOST_RUNS)
    @rule()
    def start(self) -> None:
        async def start() -> Told:
            await self.world.connect()
            return Told(await self.world.start("sh", "-c", ECHO))

        self.runs.append(self.do(start()))

    @precondition(lambda self: self.open_runs)
    @rule(which=st.integers(0, MOST_RUNS - 1), count=st.integers(1, 2000))
    def tell(self, which: int, count: int) -> None:
        """Have a run repeat lines, connected or not."""
        told = self.open_runs[which % len(self.open_runs)]
        lines = [b"%d of %d" % (number, len(told.lines)) for number in range(count)]
        text = b"".join(line + b"\n" for line in lines)
        if told.run.stdin_room >= len(text):
            told.run.send_stdin(text)
            told.lines.extend(lines)

    @precondition(lambda self: self.open_runs)
    @rule(which=st.integers(0, MOST_RUNS - 1), code=st.integers(0, 255))
    def end(self, which: int, code: int) -> None:
        """Have a run end by itself."""
        told = self.open_runs[which % len(self.open_runs)]
        text = b"exit %d\n" % code
        if told.run.stdin_room >= len(text):
            told.run.send_stdin(text)
            told.code = code

    @precondition(lambda self: self.open_runs and self.daemon_up and not self.stalled)
    @rule(which=st.integers(0, MOST_RUNS - 1))
    def attach(self, which: int) -> None:
        """Have another client look on, from the first byte.

        Only look: one that may speak takes stdin over from a client that is cut off just then.
        """
        told = self.open_runs[which % len(self.open_runs)]
        if len(told.viewers) < MOST_VIEWERS:
            self.do(self._attach(told))

    async def _attach(self, told: Told) -> None:
        if self.sofa is None:
            self.sofa = self.world.client("sofa")
        try:
            run = await self.sofa.attach(told.run.id, read_only=True)
        except (ConnectError, ConnectionLost):
            return  # a cut came first
        told.viewers.append(asyncio.ensure_future(collect(run)))

    @precondition(lambda self: self.open_runs and self.daemon_up and not self.stalled)
    @rule(which=st.integers(0, MOST_RUNS - 1), kill=st.booleans())
    def stop(self, which: int, kill: bool) -> None:
        told = self.open_runs[which % len(self.open_runs)]
        told.killed = "SIGKILL" if kill else "SIGTERM"
        self.do(self._stop(told, kill))

    async def _stop(self, told: Told, kill: bool) -> None:
        """Say it again and again: a connection that is lost takes what was just said along."""
        while not told.collecting.done():
            try:
                if kill:
                    told.run.stop(kill=True)
                else:
                    told.run.stop(signal="SIGTERM", grace=20)
            except ConnectionLost:
                pass
            await asyncio.wait([told.collecting], timeout=0.5)

    @rule()
    def cut(self) -> None:
        self.world.proxy.cut()
        self.do(asyncio.sleep(0))

    @rule(count=st.integers(1, 50_000))
    def cut_later(self, count: int) -> None:
        self.world.proxy.cut_after(count)

    @precondition(lambda self: self.daemon_up and not self.stalled and self.open_runs)
    @rule()
    def reorder(self) -> None:
        """Have another client's connection overtake the one that is made anew."""
        self.do(self._overtake())

    async def _overtake(self) -> None:
        proxy = self.world.proxy
        before = proxy.connections
        proxy.reorder()
        proxy.cut()
        await proxy.wait_connections(before + 1)
        other = self.world.client("sofa")
        try:
            await other.open()
        except ConnectError:
            return  # a planned cut hit this one
        await other.close()

    @rule(seconds=st.floats(0, 0.2))
    def let_time_pass(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @precondition(lambda self: not self.stalled)
    @rule()
    def stall(self) -> None:
        self.stalled = True
        self.world.proxy.stall()

    @precondition(lambda self: self.stalled)
    @rule()
    def flow(self) -> None:
        self.stalled = False
        self.world.proxy.flow()

    @precondition(lambda self: self.daemon_up)
    @rule(number=st.sampled_from([signal.SIGKILL, signal.SIGTERM]))
    def daemon_dies(self, number: signal.Signals) -> None:
        self.daemon_up = False
        self.do(asyncio.to_thread(self.world.kill_daemon, number))

    @precondition(lambda self: not self.daemon_up)
    @rule()
    def daemon_returns(self) -> None:
        self.daemon_up = True
        self.do(asyncio.to_thread(self.world.start_daemon))

    def teardown(self) -> None:
        try:
            if self.stalled:
                self.flow()
            if not self.daemon_up:
                self.daemon_returns()
            self.do(self._finish())
            self.do(asyncio.to_thread(self.world.check))
        finally:
            if self.sofa is not None:
                self.sofa.abandon()
            self.do(self.world.__aexit__(None, None, None))
            self.loop.close()

    async def _finish(self) -> None:
        for told in self.open_runs:
            await told.run.write_stdin(b"exit 99\n")
            told.code = 99
        for told in self.runs:
            got = await told.collecting
            expected = b"".join(line + b"\n" for line in told.lines)
            assert got.status is not None
            assert got.gaps == []
            if told.killed:  # what it had not read yet is nobody's
                assert expected.startswith(got.output)
                assert got.status.signal == told.killed
            else:
                assert (got.output, got.status.code) == (expected, told.code)
            for viewer in told.viewers:
                seen = await viewer
                assert (seen.output, seen.gaps, seen.status) == (got.output, [], got.status)


@pytest.mark.timeout(300)
def test_any_history() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_histories() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=150,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
