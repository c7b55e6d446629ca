"""The way to one daemon, kept open: one connection after the other, many runs on each.

    Lifeline ── dial() ──▶ Link ──▶ daemon
       ▲  ▲
       │  └ runs, by channel          told: message, lost, resumed, failed
       └ requests, by number          fail with the connection they went out on

While runs are attached, a lost connection is made again with growing, jittered pauses, and one
that this machine has slept through is not waited for: see ``wakeup``. What is not worth trying
again (no trust, no common protocol) ends every run at once; ``worth_retrying`` decides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, overload

import msgspec

from psync.client.requests import Answer, Request, Requests
from psync.client.silence import Silence
from psync.client.wakeup import ClockWatch, boottime
from psync.errors import ConnectionLost, Fault, ProtocolError, PsyncError
from psync.model import Overflow, RunSpec
from psync.protocol.messages import (
    HEARTBEAT_TIMEOUT,
    MAX_CHANNEL,
    BeginSync,
    CertificateRenewed,
    CheckMirror,
    EndSync,
    ListRuns,
    Locate,
    Located,
    Message,
    MirrorChecked,
    OpenProject,
    ProjectOpened,
    RenewCertificate,
    RequestRefused,
    RunList,
    SyncBegun,
    SyncEnded,
)

if TYPE_CHECKING:
    from psync.transport.link import Link

FIRST_PAUSE = 0.1
"""Seconds before the second attempt to connect again; the first is made at once."""

LONGEST_PAUSE = 1.0
"""Seconds between later attempts; each pause is shortened by up to half, at random. Output is to
flow again within two seconds after the network has healed."""

FIRST_MINUTE = 60.0
"""Seconds after which the pauses grow on: whoever has been away for so long is in less of a hurry,
and so is the host that is not there."""

PATIENT_PAUSE = 5.0
"""Seconds between attempts in the end."""

WAKING = 60.0
"""Seconds of attempts after this machine woke up, however long it slept: its network needs a moment
too, and what a run has come to is worth knowing also when its time is over."""


class Attachment(Protocol):
    """What a lifeline tells a run. All of it is called in the event loop and must not block."""

    grace: float | None
    """Seconds the run is kept without a connection, None for ever."""

    def on_message(self, message: Message) -> None:
        """A message for this run's channel."""

    def on_lost(self, error: PsyncError) -> None:
        """The connection is gone; another one is being made."""

    def on_connected(self) -> None:
        """There is a new connection; say again what the daemon has to know."""

    def on_failed(self, error: PsyncError) -> None:
        """There will be no other connection."""


def _ignore(*_arguments: object) -> None:
    return None


def worth_retrying(error: PsyncError) -> bool:
    """Whether another connection may succeed where this error ended or prevented one."""
    return error.fault is Fault.NETWORK


class Lifeline:
    """The connection to a daemon, made again whenever it is lost.

    Args:
        dial: makes one connection; raises ``PsyncError``.
        on_connection: called with the error when an open connection was lost and is being made
            again, and with None when that has succeeded.
        name: the target's name, for messages.

    Attributes:
        link: the open connection, None while there is none.
        writers: called when the open connection takes data again.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Link]],
        on_connection: Callable[[PsyncError | None], None] = lambda _error: None,
        name: str = "the daemon host",
    ) -> None:
        self.name = name
        self.link: Link | None = None
        self.writers: set[Callable[[], None]] = set()
        self.on_connection = on_connection
        self._dial = dial
        self._runs: dict[int, Attachment] = {}
        self._requests = Requests()
        self._features: tuple[str, ...] = ()
        self._last_channel = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False
        self._watch = ClockWatch(self._on_jump, self._on_tick)
        self._hurry = asyncio.Event()
        self._attempt: asyncio.Task[Link] | None = None
        self._silence = Silence(self._dial_once, self._replace, worth_retrying)
        self._patient_until = 0.0
        self._barren = 0  # connections one after the other on which the daemon said nothing

    async def open(self) -> Link:
        """Make the first connection; raises what ``dial`` raises. Cancellation leaves none."""
        link = await self._dial()
        self._take(link)
        return link

    async def ensure(self) -> None:
        """Return once there is a connection; makes one if the last was lost while nothing ran.

        Raises what ``dial`` raises. Cancelling it leaves an attempt made for runs going on.
        """
        if self._closed:
            raise ConnectionLost("this side closed the connection")
        if self.link is not None and not self.link.open:  # it is being closed just now
            await self.link.wait_closed()
        if self.link is None and self._reconnecting is not None:
            await asyncio.wait([self._reconnecting])
        if self.link is None:
            await self.open()

    async def close(self) -> None:
        """Close the connection and stop making new ones. Runs on the daemon host go on."""
        task, link = self._reconnecting, self.link
        self.abandon()
        if task is not None:
            await asyncio.wait([task])
        if link is not None:
            await link.wait_closed()

    def abandon(self) -> None:
        """Do what ``close`` does without waiting for the other side to take note."""
        self._closed = True
        self._watch.stop()
        self._silence.end()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        link, self.link = self.link, None
        if link is not None:
            link.close()
        gone = ConnectionLost("this side closed the connection")
        self._requests.fail(gone)
        for run in list(self._runs.values()):
            run.on_failed(gone)

    # -- for runs -----------------------------------------------------------------------------

    def join(self, run: Attachment) -> int:
        """Give ``run`` a channel of its own and tell it what happens there."""
        for _ in range(MAX_CHANNEL):
            self._last_channel = self._last_channel % MAX_CHANNEL + 1
            if self._last_channel not in self._runs:
                self._runs[self._last_channel] = run
                self._watch.start()
                return self._last_channel
        raise ProtocolError("all channels of this connection are in use")

    def leave(self, channel: int) -> None:
        """Forget the run of ``channel``."""
        self._runs.pop(channel, None)
        if not self._runs:
            self._watch.stop()
            self._silence.end()
        if not self._runs and self._reconnecting is not None and self.link is None:
            self._reconnecting.cancel()
            self._reconnecting = None

    def send(self, message: Message) -> None:
        """Send ``message``; returns at once.

        Raises:
            ConnectionLost: there is no connection now.
        """
        if self.link is None:
            raise ConnectionLost("there is no connection to the daemon now")
        self.link.send(message)

    # -- what the daemon can do -----------------------------------------------------------------

    @property
    def features(self) -> tuple[str, ...]:
        """What the daemon says it can do; of the last connection while there is none."""
        if self.link is not None:
            self._features = self.link.peer.features
        return self._features

    def need(self, feature: str, what: str) -> None:
        """Raise unless the daemon has a feature.

        Args:
            feature: one of ``protocol.FEATURES``.
            what: what it is needed for, in words that follow "cannot".

        Raises:
            ProtocolError: the daemon is of an older version.
        """
        if feature not in self.features:
            raise ProtocolError(
                f"the daemon on {self.name} is of an older version and cannot {what}",
                hint=f"upgrade psync on {self.name}",
            )

    def understood(self, spec: RunSpec) -> RunSpec:
        """Return ``spec`` without what an older daemon need not know.

        Raises:
            ProtocolError: it asks for something that the daemon cannot do.
        """
        if spec.overflow is not Overflow.BLOCK:
            self.need("overflow", "drop output that nobody reads")
        if spec.library_path:
            self.need("library-path", "look for shared libraries in the mirror")
        if spec.revision and "revision" not in self.features:
            spec = msgspec.structs.replace(spec, revision="")
        return spec

    # -- numbered requests ----------------------------------------------------------------------

    @overload
    async def request(self, make: Callable[[int], OpenProject]) -> ProjectOpened: ...
    @overload
    async def request(self, make: Callable[[int], ListRuns]) -> RunList: ...
    @overload
    async def request(self, make: Callable[[int], Locate]) -> Located: ...
    @overload
    async def request(self, make: Callable[[int], RenewCertificate]) -> CertificateRenewed: ...
    @overload
    async def request(self, make: Callable[[int], BeginSync]) -> SyncBegun: ...
    @overload
    async def request(self, make: Callable[[int], EndSync]) -> SyncEnded: ...
    @overload
    async def request(self, make: Callable[[int], CheckMirror]) -> MirrorChecked: ...
    async def request(self, make: Callable[[int], Request]) -> Answer:
        """Send a numbered request and return its answer. Nothing of it is sent twice.

        Args:
            make: makes the request with the number it is given.

        Raises:
            Refused: the daemon said no. It may name another class of error instead.
            ConnectionLost: the connection ended before the answer came, or there is none.
            ConnectError: the daemon did not answer in time.
            ProtocolError: too many requests wait for an answer.

        Cancellation forgets the request; the daemon may do what it asks for.
        """
        return await self._requests.ask(make, self.send, self.name)

    # -- inside -------------------------------------------------------------------------------

    def _take(self, link: Link) -> None:
        self.link = link
        link.on_message, link.on_closed = self._on_message, self._on_closed
        link.on_writable = self._on_writable

    def _on_writable(self) -> None:
        for writer in tuple(self.writers):
            writer()

    def _on_message(self, message: Message) -> None:
        self._barren = 0
        if isinstance(message, RequestRefused | Answer):
            self._requests.on_answer(message)
            return
        run = self._runs.get(getattr(message, "channel", 0))
        if run is not None:  # else it left, and this was on its way
            run.on_message(message)

    def _on_closed(self, error: PsyncError | None) -> None:
        self.link = None
        self._silence.end()
        if self._closed:
            return
        error = error or ConnectionLost("the daemon closed the connection")
        self._requests.fail(error)
        if not worth_retrying(error):
            self._fail_runs(error)
            return
        for run in list(self._runs.values()):
            run.on_lost(error)
        if self._runs:
            self.on_connection(error)
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect(error))
            self._reconnecting.add_done_callback(self._reconnected)

    def _on_jump(self, seconds: float) -> None:
        """This machine slept, or its clock was set: what is connected now may long be dead."""
        self._patient_until = asyncio.get_running_loop().time() + WAKING
        link = self.link
        if link is not None:
            self._drop(link)
            slept = f"this machine slept, or its clock was set, by {seconds:.0f} seconds"
            self._on_closed(ConnectionLost(slept))
            return
        self._hurry.set()
        if self._attempt is not None:
            self._attempt.cancel()

    def _on_tick(self) -> None:
        """Once a second while there are runs: see whether the daemon is heard."""
        if self.link is not None:
            self._silence.look(self.link)

    def _replace(self, old: Link, link: Link) -> bool:
        """Go on with ``link`` instead of the silent ``old``; False if that is not wanted."""
        if self.link is not old or not self._runs:
            return False
        self._drop(old)
        error = ConnectionLost("another connection has taken its place")
        self._requests.fail(error)
        for run in list(self._runs.values()):
            run.on_lost(error)
        self._begin(link)
        return True

    def _drop(self, link: Link) -> None:
        """Let go of a connection that nothing more is expected of."""
        link.on_message, link.on_closed = _ignore, _ignore
        link.close()

    # -- a connection that is lost --------------------------------------------------------------

    async def _reconnect(self, error: PsyncError) -> None:
        """Dial until it works, or until nothing waits for it any more."""
        lost_at = boottime()
        pause = min(FIRST_PAUSE * 2 ** min(self._barren, 10), LONGEST_PAUSE)
        if self._barren:  # what ended them so soon may well end the next one
            await self._rest(pause)
        while True:
            self._hurry.clear()
            try:
                link = await self._dial_unless_hurried()
                if link is not None:
                    break
            except PsyncError as failure:
                if not worth_retrying(failure):
                    self._fail_runs(failure)
                    return
                error = failure
            elapsed = boottime() - lost_at
            self._give_up(elapsed, error)
            if not self._runs:
                return
            if self._hurry.is_set():
                pause = FIRST_PAUSE
                continue
            longest = LONGEST_PAUSE if elapsed < FIRST_MINUTE else PATIENT_PAUSE
            await self._rest(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            pause = min(2 * pause, longest)
        self._barren += 1
        self.on_connection(None)
        self._begin(link)

    def _begin(self, link: Link) -> None:
        self._take(link)
        for run in list(self._runs.values()):
            if self.link is link:  # a run's first words may have ended it again
                run.on_connected()

    async def _dial_unless_hurried(self) -> Link | None:
        """Dial; return None where the attempt was given up for a better one."""
        attempt = self._attempt = asyncio.get_running_loop().create_task(self._dial_once())
        try:
            await asyncio.wait([attempt])
        except asyncio.CancelledError:
            attempt.cancel()
            await asyncio.wait([attempt])
            if not attempt.cancelled() and attempt.exception() is None:
                attempt.result().close()
            raise
        finally:
            self._attempt = None
        return None if attempt.cancelled() else attempt.result()

    async def _dial_once(self) -> Link:
        return await self._dial()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    def _reconnected(self, task: asyncio.Task[None]) -> None:
        if self._reconnecting is task:
            self._reconnecting = None
        if not task.cancelled():
            task.result()  # a defect in here must not pass unseen

    def _give_up(self, elapsed: float, error: PsyncError) -> None:
        """Fail the runs that the daemon has stopped by now, for want of a client."""
        if asyncio.get_running_loop().time() < self._patient_until:
            return
        for channel, run in list(self._runs.items()):
            # the daemon may have noticed the loss that much later
            if run.grace is not None and elapsed > run.grace + HEARTBEAT_TIMEOUT:
                del self._runs[channel]
                run.on_failed(
                    ConnectionLost(
                        f"no connection for {elapsed:.0f} seconds ({error.message}); the run's "
                        f"time without a client is over",
                        hint="psync ps -a shows what became of it",
                    )
                )

    def _fail_runs(self, error: PsyncError) -> None:
        for channel, run in list(self._runs.items()):
            self._runs.pop(channel, None)
            run.on_failed(error)
