"""A daemon that says what it likes, for a client that is paired with it.

    with Rogue(field) as rogue:
        rogue.answer = lambda link, message: link.send(…)
        done = field.psync("ps")

It speaks psync.v1 over TLS with a proper CA, so nothing but what it says is wrong. It runs in a
thread of its own; ``answer`` is called there, in the event loop.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec
from tests.support.fake_link import FACTS
from tests.support.field import Field
from tests.support.waiting import wait_until

from psync.client.targets import FORMAT, TargetFiles, TargetRecord
from psync.model import ExitStatus, HostFacts, RunInfo, RunState, Stream, Tool
from psync.paths import ClientPaths
from psync.protocol import messages as m
from psync.transport.authority import Authority
from psync.transport.contexts import ServerContexts
from psync.transport.identity import ClientIdentity
from psync.transport.link import Link
from psync.transport.listen import listen
from psync.transport.strangers import Pairing

NASTY = (
    "\x1b]0;title\x07\x1b[2J\x1b[31m\x9b31m\r\nforged line\n\tpsync: forged\0\x08\x7f\x85"
    "\u202egnp.exe\u2066\u2028\u200f\ufeff\U000e0041|\x1bP1$r\x1b\\"
)
"""Moves the cursor, sets the title, asks the terminal, writes lines and runs text backwards."""

RUN = "0123456789"

Answer = Callable[[Link, m.Message], None]


class Rogue:
    """A target ``rogue`` of a field's client, and what answers there.

    Args:
        field: the client; no daemon host is needed.
        facts: what it says about its host.
        pairing: makes what answers strangers with an invitation.

    Attributes:
        field: the client.
        hello: what it says first.
        answer: called with every message of the client.
        heard: of what kinds the client's messages were.
        links: connections that were made, oldest first.
        port: where it listens.
    """

    def __init__(
        self,
        field: Field,
        *,
        facts: HostFacts = FACTS,
        pairing: Callable[[Rogue], Pairing] | None = None,
    ) -> None:
        self.hello = m.Hello(versions=(1,), software="rogue", features=m.FEATURES, facts=facts)
        self.answer: Answer = obedient()
        self.heard: set[type] = set()
        self.links: list[Link] = []
        self.port = 0
        self.field = field
        self._facts = facts
        self._ready = threading.Event()
        self._over: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.authority = Authority.load_or_create(str(field.directory / "rogue"))
        self.pairing = None if pairing is None else pairing(self)

    def __enter__(self) -> Rogue:
        self._thread.start()
        assert self._ready.wait(20)
        self.pair()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._loop is not None and self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)

    def pair(self, **record: Any) -> None:
        """Make it the client's default target; ``record`` replaces fields of ``target.json``."""
        field = self.field
        paths = ClientPaths.from_environ(field.env)
        identity = ClientIdentity.load_or_create(paths.identity)
        signed = self.authority.sign_client(identity.csr("desk"), "desk")
        files = TargetFiles(paths, "rogue")
        known = TargetRecord(
            format=FORMAT,
            host="rogue-host",
            hostname="127.0.0.1",
            server="/usr/bin/psync-server",
            server_name=self.authority.server.name,
            port=self.port,
            listen=(f"127.0.0.1:{self.port}",),
            facts=self._facts,
        )
        files.write_certificates(ca=self.authority.certificate, certificate=signed.pem)
        files.write(msgspec.structs.replace(known, **record))
        self.point_at(self.port)

    def point_at(self, port: int) -> None:
        """Have the client's target lead to a port."""
        field = self.field
        field.config.parent.mkdir(parents=True, exist_ok=True)
        field.config.write_text(
            '[targets.rogue]\nhost = "rogue-host"\nconnect = "direct"\n'
            f'address = "127.0.0.1:{port}"\n'
        )
        field.env["PSYNC_TARGET"] = "rogue"

    def wait(self, kind: type[m.Message]) -> None:
        """Wait until the client has said something of this kind."""
        wait_until(lambda: kind in self.heard)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        # what a client does to its links is not this test's business
        self._loop.set_exception_handler(lambda _loop, _context: None)
        server = self.authority.server
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            self.port = sock.getsockname()[1]
            door = await listen(
                sock,
                tls=ServerContexts(server),
                hello=lambda _certificate: self.hello,
                origins=(),
                accept=self._accept,
                stranger=self.pairing,
            )
            self._ready.set()
            await self._over.wait()
            door.close()
            for link in self.links:
                link.close()

    def _accept(self, link: Link) -> None:
        self.links.append(link)
        link.on_message = lambda message: self._on_message(link, message)

    def _on_message(self, link: Link, message: m.Message) -> None:
        self.heard.add(type(message))
        self.answer(link, message)


def run_info(**fields: Any) -> RunInfo:
    """What a daemon tells of a run."""
    known: dict[str, Any] = {"command": (b"./game",), "state": RunState.RUNNING, "created": 1.8e9}
    return RunInfo(id=RUN, **{**known, **fields})


def obedient(
    runs: tuple[RunInfo, ...] = (run_info(),),
    *,
    output: bytes = b"",
    status: ExitStatus | None = None,
    **instead: Any,
) -> Answer:
    """Return an ``answer`` as of a proper daemon, but for what is given ``instead``.

    Args:
        runs: what lists tell.
        output: of a run that is started or attached to.
        status: how it ends.
        instead: names of messages and what is said instead of an answer: a list of messages, or of
            functions that are given the channel or request.
    """

    def answer(link: Link, message: m.Message) -> None:
        number = getattr(message, "channel", getattr(message, "request", 0))
        other = instead.get(type(message).__name__)
        if other is not None:
            for said in other:
                link.send(said(number) if callable(said) else said)
            return
        match message:
            case m.OpenProject():
                link.send(m.ProjectOpened(request=number, path=b"/projects/x"))
            case m.ListRuns():
                link.send(m.RunList(request=number, runs=runs))
            case m.Locate():
                link.send(m.Located(request=number, offset=0, oldest=0, end=len(output)))
            case m.Start() | m.Attach():
                end = len(output)
                link.send(
                    m.Attached(channel=number, run=RUN, state=RunState.RUNNING, stdin=0, end=end)
                )
                if output:
                    link.send(m.Data(number, Stream.STDOUT, 0, output))
                if status is not None or isinstance(message, m.Start):
                    how = status or ExitStatus(code=0)
                    link.send(m.Exited(channel=number, end=end, status=how))
            case m.Stop():
                how = status or ExitStatus(signal="SIGTERM")
                link.send(m.Exited(channel=number, end=len(output), status=how))

    return answer


def nasty_facts(text: str = NASTY) -> HostFacts:
    """A host all of whose names are nasty."""
    return HostFacts(
        hostname=text,
        system=text,
        machine=text,
        projects_root=b"/" + text.encode(),
        rsync=Tool(path=text, version=text),
        server=text,
        software=text,
    )
