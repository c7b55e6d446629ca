"""What the daemon does for one connected client: runs are started and attached to, output goes out,
files come and go.

A client that only looks at a run (``Attach.read_only``) changes nothing about it: its stdin,
signals, and requests to stop the run or to close its output are ignored. They are no breach, and
nothing that deserves an answer, since psync sends none of them from there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from psync.daemon.access import ClientRecord
from psync.daemon.audit import REFUSALS
from psync.daemon.few import Few
from psync.daemon.guard import Guard
from psync.daemon.listing import no_such_run
from psync.daemon.projects import Projects
from psync.daemon.requests import LONGEST_MESSAGE, Renew, Requests
from psync.daemon.run import Run
from psync.daemon.runs import Runs
from psync.daemon.spec import with_library_path
from psync.daemon.transfers import Running, Transfers
from psync.daemon.viewer import Viewer
from psync.errors import ProtocolError, PsyncError, Refused
from psync.model import HostFacts, Stream
from psync.protocol import messages as m
from psync.text import printable
from psync.transport.link import Link

logger = logging.getLogger("psync.clients")

MAX_CHANNELS = 256
"""Attachments one connection may have at a time."""

LOGGED = 200
"""Characters of a client's words that go into the log."""

_refusals = Few(REFUSALS)  # of all connections of this daemon


class _Attachment(msgspec.Struct, eq=False):
    """A run that the client looks at."""

    run: Run
    viewer: Viewer
    project: str | None
    stopped: str = ""  # how the client wanted it stopped last

    @property
    def acts(self) -> bool:
        return not self.viewer.read_only


class ClientConnection:
    """One link of one paired client.

    Args:
        link: the open connection; its callbacks are taken over.
        client: who it is.
        projects: where mirrors are.
        runs: the registry of runs.
        guard: what it may do; replaced when that changes.
        renew: makes a new certificate.
        facts: says what is true of this host.
        transfers: all transfers of the daemon.
    """

    def __init__(
        self,
        link: Link,
        client: ClientRecord,
        projects: Projects,
        runs: Runs,
        guard: Guard,
        renew: Renew,
        facts: Callable[[], HostFacts],
        transfers: Running,
    ) -> None:
        self.link = link
        self.client = client
        self.since = time.time()
        self._guard = guard
        self._projects = projects
        self._runs = runs
        self._requests = Requests(link, client.client_id, projects, runs, renew)
        self._attachments: dict[int, _Attachment] = {}
        self._transfers = Transfers(link, client.client_id, projects.root, facts, transfers)
        self._files_first = False
        link.on_message = self._on_message
        link.on_writable = self._on_writable

    def closed(self) -> None:
        """Leave every run; they go on under their disconnect policy. Transfers end."""
        self._requests.close()
        self._transfers.close()
        for channel in list(self._attachments):
            self._leave(channel, lost=True)

    @property
    def guard(self) -> Guard:
        """What the client may do. Setting it ends what it may not have any more."""
        return self._guard

    @guard.setter
    def guard(self, guard: Guard) -> None:
        self._guard = guard
        for channel, attachment in list(self._attachments.items()):
            if not guard.check_see(attachment.project):
                self._over(channel, no_such_run(attachment.run.id))
            elif attachment.acts and not guard.may_act(attachment.project):
                self._over(channel, Refused("this client may only look at this run from now on"))
        for transfer in self._transfers.review(guard):
            gone = f"this client may not sync files of {transfer.project} any more"
            self._refuse(transfer.channel, Refused(gone))

    # -- messages ----------------------------------------------------------------------

    def _on_message(self, message: m.Message) -> None:
        match message:
            case m.Data():
                if transfer := self._transfers.get(message.channel):
                    transfer.data(message)
                elif attachment := self._attachments.get(message.channel):
                    attachment.run.write_stdin(attachment.viewer, message.offset, message.data)
            case m.Ack():
                if transfer := self._transfers.get(message.channel):
                    transfer.ack(message.offset)
                elif attachment := self._attachments.get(message.channel):
                    attachment.viewer.ack(message.offset)
                    if attachment.acts:
                        attachment.run.acknowledged()
            case m.Start():
                self._answer(message.channel, lambda: self._start(message))
            case m.Attach():
                self._answer(message.channel, lambda: self._attach(message))
            case m.OpenTransfer():
                self._answer(message.channel, lambda: self._transfers.open(message, self._guard))
            case (
                m.OpenProject()
                | m.ListRuns()
                | m.Locate()
                | m.RenewCertificate()
                | m.BeginSync()
                | m.EndSync()
                | m.CheckMirror()
            ):
                self._requests.on_request(message, self._guard)
            case _:
                self._control(message)

    def _control(self, message: m.Message) -> None:
        """Act on what concerns a channel; one that is gone (the run just ended) is no error."""
        channel = getattr(message, "channel", 0)
        if transfer := self._transfers.get(channel):
            if isinstance(message, m.StdinEnd):
                transfer.end_stdin(message.offset)
            elif isinstance(message, m.CancelTransfer):
                transfer.cancel()
            return
        attachment = self._attachments.get(channel)
        if attachment is None:
            return
        run = attachment.run
        if isinstance(message, m.Detach):
            if message.keep and attachment.acts:
                run.keep()
            self._leave(message.channel)
        elif isinstance(message, m.StdinEnd):
            run.end_stdin(attachment.viewer, message.offset)
        elif attachment.acts:
            match message:
                case m.Signal():
                    run.signal(message.name)
                case m.Stop():
                    self._stop(attachment, message)
                case m.CloseOutput():
                    if message.stream is Stream.STDIN:
                        raise ProtocolError("stdin is ended with StdinEnd")
                    run.close_output(message.stream)

    def _stop(self, attachment: _Attachment, message: m.Stop) -> None:
        run = attachment.run
        if message.signal is not None:
            how = message.signal
            try:
                run.stop_by(message.signal, message.grace)
            except Refused as error:
                self._over(message.channel, error)
                return
        elif message.kill:
            how = "killed"
            run.kill()
        else:
            how = "terminated"
            run.terminate()
        if how != attachment.stopped:
            attachment.stopped = how
            self._guard.stopped(run.id, how)

    # -- attachments -------------------------------------------------------------------

    def _answer(self, channel: int, attach: Callable[[], None]) -> None:
        if channel in self._attachments or self._transfers.get(channel):
            raise ProtocolError(f"channel {channel} is in use")
        try:
            if len(self._attachments) >= MAX_CHANNELS:
                raise PsyncError(f"a connection may have {MAX_CHANNELS} attachments at a time")
            attach()
        except PsyncError as error:
            self._refuse(channel, error)

    def _start(self, message: m.Start) -> None:
        spec = message.spec
        client = self.client.client_id
        again = self._runs.asked(client, message.request_id)
        if again:
            self._guard.check_act(spec.project)
        else:
            self._guard.check_start(spec, len(self._runs.active(client)))
        executable = cwd = None
        if spec.project is not None:
            directory = self._projects.check(spec.project, client=client)
            if not again and "seal" in self.link.peer.features:  # older clients never say its end
                self._projects.check_whole(directory)
            if spec.program is not None:
                executable = self._projects.resolve(directory, spec.program)
            if spec.cwd is not None:
                cwd = self._projects.working_directory(directory, spec.cwd)
            if spec.library_path:
                found = [self._projects.resolve(directory, path) for path in spec.library_path]
                spec = with_library_path(spec, found)
        elif spec.program is not None or spec.cwd is not None or spec.library_path:
            raise ProtocolError("a program or directory in a mirror needs a project")
        run = self._runs.start(
            message.request_id,
            client,
            spec,
            executable=executable,
            cwd=cwd,
            client_name=self.client.name,
        )
        if not again:
            command = printable(spec.argv[0])[:LOGGED]
            logger.info("run %s of %s: %s", run.id, printable(self.client.name), command)
            self._guard.started(run.id, spec)
        self._join(message.channel, run, spec.project, viewer=message.request_id)

    def _attach(self, message: m.Attach) -> None:
        run = self._runs.find(message.run)
        project = self._runs.project(message.run)
        if not self._guard.check_see(project):
            raise no_such_run(message.run)
        if not message.read_only:
            self._guard.check_act(project)
        self._join(
            message.channel,
            run,
            project,
            viewer=message.viewer,
            offset=message.offset,
            read_only=message.read_only,
            times=message.times,
        )
        self._guard.attached(run.id, "read only" if message.read_only else "")

    def _join(
        self,
        channel: int,
        run: Run,
        project: str | None,
        *,
        viewer: str | None,
        offset: int = 0,
        read_only: bool = False,
        times: bool = False,
    ) -> None:
        who, lasting = run.stdin.who(self.client.client_id, viewer)
        attached = Viewer(
            self.link,
            channel,
            run.directory,
            offset,
            lambda error: self._over(channel, error),
            who=who,
            lasting=lasting,
            name=self.client.name,
            read_only=read_only,
            times=times,
        )
        self._attachments[channel] = _Attachment(run, attached, project)
        run.join(attached)

    def _over(self, channel: int, error: PsyncError | None) -> None:
        """Everything was said on this channel, or it cannot be said."""
        self._leave(channel)
        if error is not None and self.link.open:
            self._refuse(channel, error)

    def _refuse(self, channel: int, error: PsyncError) -> None:
        # the message may repeat what the client said, at any length
        message = error.message[:LONGEST_MESSAGE]
        more = _refusals.left_out(self.client.client_id)
        if more is not None:
            also = f" (and {more} more before)" if more else ""
            logger.info("refused %s: %s%s", printable(self.client.name), message[:LOGGED], also)
        self.link.send(
            m.Refused(channel=channel, code=error.code, message=message, hint=error.hint)
        )

    def _leave(self, channel: int, *, lost: bool = False) -> None:
        attachment = self._attachments.pop(channel)
        attachment.run.leave(attachment.viewer, lost=lost)

    def _on_writable(self) -> None:
        # Each may fill the connection by itself, so they take turns.
        self._files_first = not self._files_first
        if self._files_first:
            self._transfers.pump()
        for attachment in list(self._attachments.values()):
            attachment.viewer.pump()
        if not self._files_first:
            self._transfers.pump()
