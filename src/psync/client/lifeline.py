"""The way to one daemon, kept open: one connection after the other, many runs on each.

    Lifeline ── dial() ──▶ Link ──▶ daemon
       ▲  ▲
       │  └ runs, by channel          told: message, lost, resumed, failed
       └ requests, by number          fail with the connection they went out on

While runs are attached, a lost connection is made again with growing, jittered pauses. What is
not worth trying again (no trust, no common protocol) ends every run at once; ``worth_retrying``
decides.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, overload

import msgspec

from psync.errors import ConnectError, ConnectionLost, Fault, ProtocolError, PsyncError, from_code
from psync.model import Overflow, RunSpec
from psync.protocol.messages import (
    HEARTBEAT_TIMEOUT,
    MAX_CHANNEL,
    CertificateRenewed,
    ListRuns,
    Locate,
    Located,
    Message,
    OpenProject,
    ProjectOpened,
    RenewCertificate,
    RequestRefused,
    RunList,
)

if TYPE_CHECKING:
    from psync.transport.link import Link

FIRST_PAUSE = 0.1
"""Seconds before the second attempt to connect again; the first is made at once."""

LONGEST_PAUSE = 5.0
"""Seconds between later attempts; each pause is shortened by up to half, at random."""


REQUEST_TIMEOUT = 60.0
"""Seconds the daemon has to answer a numbered request. A connection that died is noticed sooner;
this is for a daemon that lives and does not answer."""

MOST_REQUESTS = 256
"""Numbered requests that may wait for their answers at a time."""

Request = OpenProject | ListRuns | Locate | RenewCertificate
Answer = ProjectOpened | RunList | Located | CertificateRenewed

_ANSWERS: dict[type[Request], type[Answer]] = {
    OpenProject: ProjectOpened,
    ListRuns: RunList,
    Locate: Located,
    RenewCertificate: CertificateRenewed,
}


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
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Link]],
        on_connection: Callable[[PsyncError | None], None] = lambda _error: None,
        name: str = "the daemon host",
    ) -> None:
        self.name = name
        self.link: Link | None = None
        self.on_connection = on_connection
        self._dial = dial
        self._runs: dict[int, Attachment] = {}
        self._requests: dict[int, tuple[type[Answer], asyncio.Future[Answer]]] = {}
        self._features: tuple[str, ...] = ()
        self._last_channel = 0
        self._last_request = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._closed = False

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
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        link, self.link = self.link, None
        if link is not None:
            link.close()
        gone = ConnectionLost("this side closed the connection")
        self._fail_requests(gone)
        for run in list(self._runs.values()):
            run.on_failed(gone)

    # -- for runs -----------------------------------------------------------------------------

    def join(self, run: Attachment) -> int:
        """Give ``run`` a channel of its own and tell it what happens there."""
        for _ in range(MAX_CHANNEL):
            self._last_channel = self._last_channel % MAX_CHANNEL + 1
            if self._last_channel not in self._runs:
                self._runs[self._last_channel] = run
                return self._last_channel
        raise ProtocolError("all channels of this connection are in use")

    def leave(self, channel: int) -> None:
        """Forget the run of ``channel``."""
        self._runs.pop(channel, None)
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
        if len(self._requests) >= MOST_REQUESTS:
            raise ProtocolError("too many requests are waiting for an answer")
        self._last_request += 1
        number = self._last_request
        message = make(number)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._requests[number] = _ANSWERS[type(message)], answer
        try:
            self.send(message)
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await answer
        except TimeoutError:
            raise ConnectError(
                f"the daemon on {self.name} did not answer within {REQUEST_TIMEOUT:.0f} seconds"
            ) from None
        finally:
            self._requests.pop(number, None)

    # -- inside -------------------------------------------------------------------------------

    def _take(self, link: Link) -> None:
        self.link = link
        link.on_message = self._on_message
        link.on_closed = self._on_closed

    def _on_message(self, message: Message) -> None:
        if isinstance(message, RequestRefused | Answer):
            self._on_answer(message)
            return
        run = self._runs.get(getattr(message, "channel", 0))
        if run is not None:  # else it left, and this was on its way
            run.on_message(message)

    def _on_answer(self, message: RequestRefused | Answer) -> None:
        kind, answer = self._requests.get(message.request, (None, None))
        if kind is None or answer is None or answer.done():
            return  # it was given up meanwhile
        if isinstance(message, RequestRefused):
            answer.set_exception(from_code(message.code, message.message, message.hint))
        elif isinstance(message, kind):
            answer.set_result(message)
        else:
            raise ProtocolError(f"{type(message).__name__} answers no request for one")

    def _on_closed(self, error: PsyncError | None) -> None:
        self.link = None
        if self._closed:
            return
        error = error or ConnectionLost("the daemon closed the connection")
        self._fail_requests(error)
        if not worth_retrying(error):
            self._fail_runs(error)
            return
        for run in list(self._runs.values()):
            run.on_lost(error)
        if self._runs:
            self.on_connection(error)
            task = asyncio.get_running_loop().create_task(self._reconnect(error))
            task.add_done_callback(self._reconnected)
            self._reconnecting = task

    async def _reconnect(self, error: PsyncError) -> None:
        """Dial until it works, or until nothing waits for it any more."""
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        pause = FIRST_PAUSE
        while True:
            try:
                link = await self._dial()
                break
            except PsyncError as failure:
                if not worth_retrying(failure):
                    self._fail_runs(failure)
                    return
                error = failure
            self._give_up(loop.time() - lost_at, error)
            if not self._runs:
                return
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            pause = min(2 * pause, LONGEST_PAUSE)
        self._take(link)
        self.on_connection(None)
        for run in list(self._runs.values()):
            if self.link is link:  # a run's first words may have ended it again
                run.on_connected()

    def _reconnected(self, task: asyncio.Task[None]) -> None:
        if self._reconnecting is task:
            self._reconnecting = None
        if not task.cancelled():
            task.result()  # a defect in here must not pass unseen

    def _give_up(self, elapsed: float, error: PsyncError) -> None:
        """Fail the runs that the daemon has stopped by now, for want of a client."""
        for channel, run in list(self._runs.items()):
            # the daemon may have noticed the loss that much later
            if run.grace is not None and elapsed > run.grace + HEARTBEAT_TIMEOUT:
                del self._runs[channel]
                run.on_failed(
                    ConnectionLost(
                        f"no connection for {elapsed:.0f} seconds ({error.message}); the run's "
                        f"time without a client is over"
                    )
                )

    def _fail_runs(self, error: PsyncError) -> None:
        for channel, run in list(self._runs.items()):
            self._runs.pop(channel, None)
            run.on_failed(error)

    def _fail_requests(self, error: PsyncError) -> None:
        for _kind, answer in self._requests.values():
            if not answer.done():
                answer.set_exception(error)
