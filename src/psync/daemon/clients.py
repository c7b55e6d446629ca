"""What the daemon does for one connected client: requests in, answers and output out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable

from psync.daemon.access import ClientRecord
from psync.daemon.guard import Guard
from psync.daemon.projects import Projects
from psync.daemon.run import Run
from psync.daemon.runs import Runs
from psync.daemon.viewer import Viewer
from psync.errors import ProtocolError, PsyncError
from psync.model import Stream
from psync.protocol import messages as m
from psync.text import printable
from psync.transport.link import Link

logger = logging.getLogger("psync.clients")

MAX_CHANNELS = 256
"""Attachments one connection may have at a time."""

LONGEST_MESSAGE = 4000
"""Characters of an error's message that a client is told."""

LOGGED = 200
"""Characters of a client's words that go into the log."""


class ClientConnection:
    """One link of one paired client.

    Args:
        link: the open connection; its callbacks are taken over.
        client: who it is.
        projects: where mirrors are.
        runs: the registry of runs.
        guard: what it may do; replaced when that changes.
        renew: makes a new certificate from a request (PEM); returns it and when it ends.
    """

    def __init__(
        self,
        link: Link,
        client: ClientRecord,
        projects: Projects,
        runs: Runs,
        guard: Guard | None = None,
        renew: Callable[[bytes], Awaitable[tuple[bytes, float]]] | None = None,
    ) -> None:
        self.link = link
        self.client = client
        self.guard = guard
        self._renew = renew
        self.since = time.time()
        self._projects = projects
        self._runs = runs
        self._attachments: dict[int, tuple[Run, Viewer]] = {}
        link.on_message = self._on_message
        link.on_writable = self._on_writable

    def closed(self) -> None:
        """Leave every run; they go on under their disconnect policy."""
        for channel in list(self._attachments):
            self._leave(channel)

    # -- messages ----------------------------------------------------------------------

    def _on_message(self, message: m.Message) -> None:
        match message:
            case m.Data():
                self._stdin(message)
            case m.Ack():
                if attachment := self._attachments.get(message.channel):
                    run, viewer = attachment
                    viewer.ack(message.offset)
                    run.acknowledged()
            case m.Start():
                self._answer(message.channel, lambda: self._start(message))
            case m.Attach():
                self._answer(message.channel, lambda: self._attach(message))
            case m.OpenProject():
                self._open_project(message)
            case _:
                self._control(message)

    def _control(self, message: m.Message) -> None:
        """Act on what concerns an attachment; one that is gone (the run just ended) is no error."""
        attachment = self._attachments.get(getattr(message, "channel", 0))
        if attachment is None:
            return
        run, _viewer = attachment
        match message:
            case m.Signal():
                run.signal(message.name)
            case m.Stop():
                run.kill() if message.kill else run.terminate()
            case m.StdinEnd():
                run.end_stdin(message.offset)
            case m.CloseOutput():
                if message.stream is Stream.STDIN:
                    raise ProtocolError("stdin is ended with StdinEnd")
                run.close_output(message.stream)
            case m.Detach():
                self._leave(message.channel)

    def _stdin(self, message: m.Data) -> None:
        if attachment := self._attachments.get(message.channel):
            attachment[0].write_stdin(message.offset, message.data)

    def _open_project(self, message: m.OpenProject) -> None:
        try:
            path = self._projects.open(
                message.project,
                client=self.client.client_id,
                source=message.source,
                host=message.host,
            )
        except PsyncError as error:
            self.link.send(
                m.RequestRefused(
                    request=message.request,
                    code=error.code,
                    message=error.message[:LONGEST_MESSAGE],
                    hint=error.hint,
                )
            )
        else:
            self.link.send(m.ProjectOpened(request=message.request, path=os.fsencode(path)))

    # -- attachments -------------------------------------------------------------------

    def _answer(self, channel: int, attach: Callable[[], None]) -> None:
        if channel in self._attachments:
            raise ProtocolError(f"channel {channel} is in use")
        try:
            if len(self._attachments) >= MAX_CHANNELS:
                raise PsyncError(f"a connection may have {MAX_CHANNELS} attachments at a time")
            attach()
        except PsyncError as error:
            self._refuse(channel, error)

    def _start(self, message: m.Start) -> None:
        spec = message.spec
        executable = cwd = None
        if spec.project is not None:
            directory = self._projects.check(spec.project, client=self.client.client_id)
            if spec.program is not None:
                executable = self._projects.resolve(directory, spec.program)
            if spec.cwd is not None:
                cwd = self._projects.working_directory(directory, spec.cwd)
        elif spec.program is not None or spec.cwd is not None:
            raise ProtocolError("a program or cwd in a mirror needs a project")
        run = self._runs.start(
            message.request_id, self.client.client_id, spec, executable=executable, cwd=cwd
        )
        command = printable(spec.argv[0])[:LOGGED]
        logger.info("run %s of %s: %s", run.id, printable(self.client.name), command)
        self._join(message.channel, run, offset=0)

    def _attach(self, message: m.Attach) -> None:
        self._join(message.channel, self._runs.find(message.run), offset=message.offset)

    def _join(self, channel: int, run: Run, *, offset: int) -> None:
        viewer = Viewer(
            self.link, channel, run.directory, offset, lambda error: self._over(channel, error)
        )
        self._attachments[channel] = (run, viewer)
        run.join(viewer)

    def _over(self, channel: int, error: PsyncError | None) -> None:
        """Everything was said on this channel, or it cannot be said."""
        self._leave(channel)
        if error is not None and self.link.open:
            self._refuse(channel, error)

    def _refuse(self, channel: int, error: PsyncError) -> None:
        # the message may repeat what the client said, at any length
        message = error.message[:LONGEST_MESSAGE]
        logger.info("refused %s: %s", printable(self.client.name), message[:LOGGED])
        self.link.send(
            m.Refused(channel=channel, code=error.code, message=message, hint=error.hint)
        )

    def _leave(self, channel: int) -> None:
        run, viewer = self._attachments.pop(channel)
        run.leave(viewer)

    def _on_writable(self) -> None:
        for _run, viewer in list(self._attachments.values()):
            viewer.pump()
