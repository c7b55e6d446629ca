"""Numbered requests of one connection that wait for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from psync.errors import ConnectError, ProtocolError, PsyncError, from_code
from psync.protocol.messages import (
    BeginSync,
    CertificateRenewed,
    CheckMirror,
    EndSync,
    ListRuns,
    Locate,
    Located,
    MirrorChecked,
    OpenProject,
    ProjectOpened,
    RenewCertificate,
    RequestRefused,
    RunList,
    SyncBegun,
    SyncEnded,
)

REQUEST_TIMEOUT = 60.0
"""Seconds the daemon has to answer. A connection that died is noticed sooner; this is for a daemon
that lives and does not answer."""

MOST_REQUESTS = 256
"""Requests that may wait for their answers at a time."""

Request = OpenProject | ListRuns | Locate | RenewCertificate | BeginSync | EndSync | CheckMirror
Answer = (
    ProjectOpened | RunList | Located | CertificateRenewed | SyncBegun | SyncEnded | MirrorChecked
)

_ANSWERS: dict[type[Request], type[Answer]] = {
    OpenProject: ProjectOpened,
    ListRuns: RunList,
    Locate: Located,
    RenewCertificate: CertificateRenewed,
    BeginSync: SyncBegun,
    EndSync: SyncEnded,
    CheckMirror: MirrorChecked,
}


class Requests:
    """The requests that are waiting."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[int, tuple[type[Answer], asyncio.Future[Answer]]] = {}

    async def ask(
        self, make: Callable[[int], Request], send: Callable[[Request], None], whom: str
    ) -> Answer:
        """Send what ``make`` makes of a number and return the answer; see ``Lifeline.request``."""
        if len(self._waiting) >= MOST_REQUESTS:
            raise ProtocolError("too many requests are waiting for an answer")
        self._last += 1
        number = self._last
        request = make(number)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = _ANSWERS[type(request)], answer
        try:
            send(request)
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return await answer
        except TimeoutError:
            raise ConnectError(
                f"the daemon on {whom} did not answer within {REQUEST_TIMEOUT:.0f} seconds"
            ) from None
        finally:
            self._waiting.pop(number, None)

    def on_answer(self, message: RequestRefused | Answer) -> None:
        """Hand an answer to whoever waits for it.

        Raises:
            ProtocolError: it answers something else than was asked.
        """
        kind, answer = self._waiting.get(message.request, (None, None))
        if kind is None or answer is None or answer.done():
            return  # it was given up meanwhile
        if isinstance(message, RequestRefused):
            answer.set_exception(from_code(message.code, message.message, message.hint))
        elif isinstance(message, kind):
            answer.set_result(message)
        else:
            raise ProtocolError(f"{type(message).__name__} answers no request for one")

    def fail(self, error: PsyncError) -> None:
        """End the waiting: the connection is gone."""
        for _kind, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
