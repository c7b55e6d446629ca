"""A daemon of a test's own and clients that speak to it directly: no ssh, no rsync, no psync.

    with Home() as home:
        home.start()
        async with home.client() as client:
            run = client.start("echo", "hello")
            assert (await run.ended()).status.code == 0
            assert run.output == b"hello\n"

The daemon is a process with real supervisors; clients are paired and come over TLS.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.support.field import SOURCES
from tests.support.waiting import alive, wait_until

from psync.daemon.enroll import enroll
from psync.daemon.listening import Presence, read_presence
from psync.daemon.service import running
from psync.errors import PsyncError
from psync.model import HostFacts, RunSpec, Stream
from psync.paths import ServerPaths, write_atomic
from psync.protocol import messages as m
from psync.supervisor import record
from psync.transport.connect import connect
from psync.transport.enrolment import EnrolRequest, encode
from psync.transport.identity import ClientIdentity
from psync.transport.link import Link
from psync.transport.tls import client_context

FACTS = HostFacts("host", "Linux", "x86_64", b"/projects", None, "/bin/psync-server", "0.1")
TIMEOUT = 30.0

_M = TypeVar("_M", bound=m.Message)


class Home:
    """``PSYNC_SERVER_HOME`` of a daemon, and the clients paired with it.

    Attributes:
        directory: holds everything.
        paths: the daemon's.
        env: environment of ``psync-server``.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="psync-home-", dir="/tmp"))
        self.env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.directory),
            "PYTHONPATH": SOURCES,
            "LC_ALL": "C.UTF-8",
            "PSYNC_SERVER_HOME": str(self.directory / "there"),
        }
        self.paths = ServerPaths.from_environ(self.env)
        self.daemon: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the daemon, every run, and remove the directory."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(10)
        if (presence := running(self.paths)) is not None:  # one in the background
            os.kill(presence.pid, signal.SIGKILL)
            wait_until(lambda: not alive(presence.pid))
        for directory in self.runs():
            with suppress(OSError, record.RecordError):
                owner = record.read_owner(str(directory))
                if owner.alive:
                    os.kill(owner.pid, signal.SIGKILL)
                if record.is_process(owner.program_pid, owner.program_start_time):
                    os.killpg(owner.program_pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- the daemon --------------------------------------------------------------------

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a ``psync-server`` whose stderr is appended to the log."""
        os.makedirs(self.paths.state, mode=0o700, exist_ok=True)
        with open(self.paths.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "psync.cli.server", *words],
                env=self.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def start(self, *words: str) -> Presence:
        """Start the daemon in the foreground and wait until clients can connect."""
        process = self.daemon = self.spawn("serve", *words)

        def ready() -> bool:
            assert process.poll() is None, self.log
            presence = read_presence(self.paths.record)
            return presence is not None and presence.pid == process.pid

        wait_until(ready)
        presence = read_presence(self.paths.record)
        assert presence is not None
        return presence

    def send_signal(self, number: int) -> None:
        """Send the daemon a signal."""
        assert self.daemon is not None
        self.daemon.send_signal(number)

    def leave(self, number: int = signal.SIGTERM) -> int:
        """Send the daemon a signal and return its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(TIMEOUT)

    def server(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run ``psync-server`` to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "psync.cli.server", *words],
            env=self.env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
        )

    @property
    def log(self) -> str:
        """What the daemons have logged."""
        return Path(self.paths.log).read_text()

    def runs(self) -> list[Path]:
        """The directories of runs, also those set aside."""
        return sorted(Path(self.paths.runs).glob("*"))

    def run(self, run_id: str) -> Path:
        """The directory of one run."""
        return Path(self.paths.runs) / run_id

    # -- clients -----------------------------------------------------------------------

    def pair(self, name: str = "desk") -> None:
        """Pair a client without ssh."""
        directory = self.directory / name
        identity = ClientIdentity.load_or_create(str(directory))
        request = EnrolRequest(name=name, client_id=identity.client_id, csr=identity.csr(name))
        answer = enroll(
            self.paths, encode(request), listen_info=lambda: (0, ()), facts=lambda: FACTS
        )
        write_atomic(f"{directory}/ca.pem", answer.ca_cert)
        write_atomic(f"{directory}/client.pem", answer.client_cert)
        write_atomic(f"{directory}/name", answer.server_name.encode())

    @asynccontextmanager
    async def client(self, name: str = "desk", **limits: int) -> AsyncIterator[Client]:
        """Connect as a client, which is paired if it is not yet."""
        directory = self.directory / name
        if not directory.exists():
            self.pair(name)
        presence = read_presence(self.paths.record)
        assert presence is not None
        host = presence.listen[0].rpartition(":")[0].strip("[]")
        link = await connect(
            (host, presence.port),
            tls=client_context(
                f"{directory}/ca.pem", f"{directory}/client.pem", f"{directory}/key.pem"
            ),
            server_name=(directory / "name").read_text(),
            software="a test",
        )
        client = Client(link)
        try:
            yield client
        finally:
            link.close()
            await link.wait_closed()


class Client:
    """One connection to the daemon.

    Attributes:
        link: the connection.
        said: what the daemon said that belongs to no attachment, oldest first.
        closed: whether it is over; ``error`` says why.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.said: list[m.Message] = []
        self.closed = False
        self.error: PsyncError | None = None
        self._news = asyncio.Event()
        self._channels: dict[int, Attachment] = {}
        link.on_message = self._on_message
        link.on_closed = self._on_closed

    def start(self, *argv: str | bytes, request: str | None = None, **options: Any) -> Attachment:
        """Start a run on a new channel."""
        return self.start_spec(spec(*argv, **options), request)

    def start_spec(self, what: RunSpec, request: str | None = None) -> Attachment:
        """The same with a whole spec."""
        attachment = self._attachment()
        request = request or secrets.token_hex(16)
        self.link.send(m.Start(channel=attachment.channel, request_id=request, spec=what))
        return attachment

    def attach(
        self,
        run: str,
        offset: int = 0,
        *,
        acks: bool = True,
        keeps: bool = True,
        viewer: str = "",
        **options: bool,
    ) -> Attachment:
        """Attach to a run on a new channel, as a new viewer unless one is given.

        Args:
            run: the run's ID.
            offset: where to begin.
            acks: acknowledge what comes; see ``Attachment.resume``.
            keeps: keep it for ``Attachment.output``.
            viewer: which attachment it is.
            **options: of ``Attach``.
        """
        attachment = self._attachment(offset, acks, keeps)
        self.link.send(
            m.Attach(
                channel=attachment.channel,
                run=run,
                offset=offset,
                viewer=viewer or secrets.token_hex(16),
                **options,
            )
        )
        return attachment

    def attach_as_0_1_0(self, run: str, offset: int = 0) -> Attachment:
        """The same as version 0.1.0 does it, which does not say which attachment it is."""
        attachment = self._attachment(offset)
        self.link.send(m.Attach(channel=attachment.channel, run=run, offset=offset))
        return attachment

    async def wait(self, what: Callable[[], object]) -> None:
        """Wait until it is true; it is looked at whenever the daemon says something."""
        async with asyncio.timeout(TIMEOUT):
            while not what():
                self._news.clear()
                await self._news.wait()

    async def expect_closed(self) -> PsyncError | None:
        """Wait for the end of the connection and return its reason."""
        await self.wait(lambda: self.closed)
        return self.error

    async def ask(self, message: m.Message) -> m.Message:
        """Send a request and return the answer."""
        self.link.send(message)
        await self.wait(lambda: self.said)
        return self.said.pop(0)

    def _attachment(self, offset: int = 0, acks: bool = True, keeps: bool = True) -> Attachment:
        channel = len(self._channels) + 1
        self._channels[channel] = Attachment(self, channel, offset, acks, keeps)
        return self._channels[channel]

    def _on_message(self, message: m.Message) -> None:
        attachment = self._channels.get(getattr(message, "channel", 0))
        if attachment is None:
            self.said.append(message)
        else:
            attachment.receive(message)
        self._news.set()

    def _on_closed(self, error: PsyncError | None) -> None:
        self.closed, self.error = True, error
        self._news.set()


class Attachment:
    """A client's view of a run.

    Attributes:
        said: everything but output and acknowledgements.
        output: the bytes that came, gaps left out.
        end: offset behind the last byte that came.
        received: how many bytes came.
        missed: how many were announced as gone.
    """

    def __init__(self, client: Client, channel: int, offset: int, acks: bool, keeps: bool) -> None:
        self.client = client
        self.channel = channel
        self.said: list[m.Message] = []
        self.pieces: list[bytes] = []
        self.end = offset
        self.stdin_taken = 0
        self.received = 0
        self.missed = 0
        self._acks = acks
        self._keeps = keeps

    def receive(self, message: m.Message) -> None:
        """Take what the daemon said, and check that it is in order."""
        if isinstance(message, m.Data):
            assert message.offset == self.end, "output out of order"
            assert not self.has(m.Exited), "output after the ending"
            self.end += len(message.data)
            self.received += len(message.data)
            if self._keeps:
                self.pieces.append(message.data)
            if self._acks:
                self.client.link.send(m.Ack(self.channel, self.end))
        elif isinstance(message, m.Ack):
            self.stdin_taken = message.offset
        else:
            if isinstance(message, m.Gap):
                assert message.start == self.end
                self.end = message.end
                self.missed += message.end - message.start
            self.said.append(message)

    def pause(self) -> None:
        """Acknowledge nothing any more: the window fills up."""
        self._acks = False

    def resume(self) -> None:
        """Acknowledge what has come and what comes."""
        self._acks = True
        self.client.link.send(m.Ack(self.channel, self.end))

    @property
    def output(self) -> bytes:
        return b"".join(self.pieces)

    def has(self, kind: type) -> bool:
        return any(isinstance(message, kind) for message in self.said)

    async def expect(self, kind: type[_M]) -> _M:
        """Wait for the first message of that kind."""
        await self.client.wait(lambda: self.has(kind) or self.client.closed)
        for message in self.said:
            if isinstance(message, kind):
                return message
        raise AssertionError(f"closed before {kind.__name__} came: {self.client.error}")

    async def running(self) -> str:
        """Wait for the answer and return the run's ID."""
        return (await self.expect(m.Attached)).run

    async def shows(self, text: bytes) -> None:
        """Wait until the output holds ``text``."""
        await self.client.wait(lambda: text in self.output or self.client.closed)
        assert text in self.output

    async def comes_to(self, end: int) -> None:
        """Wait until the output has come up to ``end``."""
        await self.client.wait(lambda: self.end >= end or self.client.closed)
        assert self.end >= end

    async def ended(self) -> m.Exited:
        """Wait for the ending, which comes after all output."""
        exited = await self.expect(m.Exited)
        assert exited.end == self.end
        return exited

    async def refused(self) -> m.Refused:
        return await self.expect(m.Refused)

    async def wait_holder(self, name: str | None) -> None:
        """Wait until ``StdinHolder`` has named this holder last, None for this attachment."""

        def named() -> bool:
            told = [said for said in self.said if isinstance(said, m.StdinHolder)]
            return bool(told) and told[-1].holder == name

        await self.client.wait(named)

    async def takes(self, end: int) -> None:
        """Wait until the window allows stdin up to ``end``."""
        await self.client.wait(lambda: end <= self.stdin_taken + m.WINDOW_STDIN)

    def send(self, data: bytes, offset: int = 0) -> None:
        """Send stdin."""
        self.client.link.send(m.Data(self.channel, Stream.STDIN, offset, data))


def spec(*argv: str | bytes, **options: Any) -> RunSpec:
    """What to run."""
    words = tuple(os.fsencode(word) for word in argv)
    return RunSpec(argv=words, **options)


def shell(text: str) -> tuple[str, str, str]:
    """argv of a shell that runs ``text``."""
    return ("/bin/sh", "-c", text)


def python(code: str) -> tuple[str, ...]:
    """argv of a quick interpreter that runs ``code``."""
    return (sys.executable, "-I", "-S", "-c", code)
