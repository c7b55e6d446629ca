"""A client's numbered requests: about anything but one attachment."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from psync.daemon.guard import Guard
from psync.daemon.listing import no_such_run
from psync.daemon.projects import Projects
from psync.daemon.runs import Runs
from psync.daemon.tasks import Tasks
from psync.errors import PsyncError, Refused
from psync.protocol import messages as m
from psync.transport.link import Link

logger = logging.getLogger("psync.clients")

MOST_REQUESTS = 16
"""Requests of one connection that may be worked on at a time."""

LONGEST_MESSAGE = 4000
"""Characters of an error's message that a client is told."""

Request = (
    m.OpenProject
    | m.ListRuns
    | m.Locate
    | m.RenewCertificate
    | m.BeginSync
    | m.EndSync
    | m.CheckMirror
)
Answer = (
    m.ProjectOpened
    | m.RunList
    | m.Located
    | m.CertificateRenewed
    | m.SyncBegun
    | m.SyncEnded
    | m.MirrorChecked
)

Renew = Callable[[bytes], Awaitable[tuple[bytes, float]]]
"""Makes a new certificate from a request (PEM); returns it (PEM) and when it ends."""


class Requests:
    """The requests of one connection.

    Args:
        link: the open connection.
        client_id: the client's.
        projects: where mirrors are.
        runs: the registry of runs.
        renew: see ``Renew``.
    """

    def __init__(
        self, link: Link, client_id: str, projects: Projects, runs: Runs, renew: Renew
    ) -> None:
        self._link = link
        self._client_id = client_id
        self._projects = projects
        self._seals = projects.seals
        self._runs = runs
        self._renew = renew
        self._tasks = Tasks()

    def on_request(self, request: Request, guard: Guard) -> None:
        """Answer a request now, or when what takes time is done.

        Args:
            request: what is asked for.
            guard: what the client may do and see.
        """
        try:
            match request:
                case m.OpenProject():
                    self._link.send(self._open(request, guard))
                case m.ListRuns():
                    self._link.send(self._list(request, guard))
                case m.Locate():
                    self._later(request, self._locate(request, guard))
                case m.RenewCertificate():
                    self._later(request, self._certificate(request))
                case m.BeginSync():
                    self._seals.begin(self._mirror(request, guard))
                    self._link.send(m.SyncBegun(request=request.request))
                case m.EndSync():
                    directory = self._mirror(request, guard)
                    self._seals.finish(directory)  # before a ``Start`` that follows on its heels
                    self._later(request, self._end_sync(request, directory))
                case m.CheckMirror():
                    self._later(request, self._check(request, self._mirror(request, guard)))
        except PsyncError as error:
            self._refuse(request, error)

    def close(self) -> None:
        """Nobody waits for the answers any more."""
        self._tasks.cancel()

    # -- inside ------------------------------------------------------------------------

    def _later(self, request: Request, answer: Coroutine[Any, Any, Answer]) -> None:
        if len(self._tasks) >= MOST_REQUESTS:
            answer.close()
            raise Refused(
                f"{MOST_REQUESTS} requests of this connection are being worked on",
                hint="wait for an answer, then ask again",
            )
        self._tasks.start(f"answer {type(request).__name__}", self._answer(request, answer))

    async def _answer(self, request: Request, answer: Awaitable[Answer]) -> None:
        try:
            self._say(await answer)
        except PsyncError as error:
            self._refuse(request, error)
        except Exception:
            failed = PsyncError("the daemon could not answer", hint="the daemon's log says more")
            self._refuse(request, failed)
            raise

    def _say(self, message: Answer | m.RequestRefused) -> None:
        """Send an answer, unless the connection has ended meanwhile, for whatever reason."""
        if self._link.open:
            self._link.send(message)

    def _refuse(self, request: Request, error: PsyncError) -> None:
        # the message may repeat what the client said, at any length
        self._say(
            m.RequestRefused(
                request=request.request,
                code=error.code,
                message=error.message[:LONGEST_MESSAGE],
                hint=error.hint,
            )
        )

    def _open(self, request: m.OpenProject, guard: Guard) -> m.ProjectOpened:
        guard.check_open(request.project)
        path = self._projects.open(
            request.project, client=self._client_id, source=request.source, host=request.host
        )
        return m.ProjectOpened(request=request.request, path=os.fsencode(path))

    def _mirror(self, request: m.BeginSync | m.EndSync | m.CheckMirror, guard: Guard) -> str:
        guard.check_transfer(request.project)
        return self._projects.check(request.project, client=self._client_id)

    async def _end_sync(self, request: m.EndSync, directory: str) -> m.SyncEnded:
        seal = await self._seals.end(directory, request.base, request.names)
        return m.SyncEnded(request=request.request, seal=seal)

    async def _check(self, request: m.CheckMirror, directory: str) -> m.MirrorChecked:
        found = await self._seals.check(directory, request.seal, request.skip)
        return m.MirrorChecked(
            request=request.request, known=found.known, changed=found.changed, more=found.more
        )

    def _list(self, request: m.ListRuns, guard: Guard) -> m.RunList:
        runs, more = self._runs.listing(
            request.match, request.active, request.before, guard.check_see
        )
        return m.RunList(request=request.request, runs=runs, more=more)

    async def _locate(self, request: m.Locate, guard: Guard) -> m.Located:
        if not guard.check_see(self._runs.project(request.run)):
            raise no_such_run(request.run)
        offset, oldest, end = await self._runs.locate(
            request.run, request.lines, request.since, request.stream
        )
        return m.Located(request=request.request, offset=offset, oldest=oldest, end=end)

    async def _certificate(self, request: m.RenewCertificate) -> m.CertificateRenewed:
        certificate, expires = await self._renew(request.csr)
        return m.CertificateRenewed(
            request=request.request, certificate=certificate, expires=expires
        )
