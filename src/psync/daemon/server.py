"""The daemon's life: start, serve, stop.

lock → CA and certificate → launcher → adopt runs that are alive → listen → serve
SIGTERM: stop listening, close connections, leave the runs to the next daemon
SIGINT (foreground): stop every run by the ladder, tell the clients, leave; a second one kills
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable

import msgspec

import psync
from psync.daemon.audit import Audit
from psync.daemon.connections import Connections, Services
from psync.daemon.descriptors import raise_limit
from psync.daemon.enroll import InvitedPairing
from psync.daemon.facts import Facts
from psync.daemon.guard import ClientLimits
from psync.daemon.invitations import Invitations
from psync.daemon.launcher import Launcher
from psync.daemon.listening import (
    Presence,
    bind,
    handed_over,
    name_of,
    read_presence,
    write_presence,
)
from psync.daemon.lock import DaemonLock
from psync.daemon.projects import Projects
from psync.daemon.retention import Retention
from psync.daemon.runs import LogLimits, Runs
from psync.daemon.tasks import Tasks
from psync.errors import PsyncError
from psync.paths import ServerPaths, private_directory
from psync.protocol.messages import MAX_CONTROL
from psync.transport.authority import ensure_server_identity, set_damaged_aside
from psync.transport.contexts import OwnCertificate, ServerContexts
from psync.transport.gate import Gate, GateLimits
from psync.transport.listen import listen, quiet_strangers
from psync.transport.quiet import Note, QuietLog, to

RENEWAL_INTERVAL = 24 * 3600.0
"""Seconds between two looks at the daemon's certificate; it is renewed 30 days before its end."""

FAREWELL = 3.0
"""Seconds that closing connections may take when the daemon leaves."""

logger = logging.getLogger("psync.daemon")


class ServerSettings(msgspec.Struct, frozen=True):
    """What a daemon can be told.

    Attributes:
        listen: (host, port) pairs; port 0 means the last one used, else any free one.
        origins: ``Origin`` headers that are let in.
        projects: absolute directory of the mirrors.
        limits: how much output of a run is kept.
        retention: which finished runs are kept.
        gate: what strangers may take up.
        clients: what one client may take up.
        message: largest control message of a client, in bytes.
        own: a certificate of the user's, shown to whoever does not ask for psync's.
        client_ca: file with authorities whose clients are let in besides the paired ones.
    """

    listen: tuple[tuple[str, int], ...]
    origins: frozenset[str]
    projects: str
    limits: LogLimits
    retention: Retention = Retention()
    gate: GateLimits = GateLimits()
    clients: ClientLimits = ClientLimits()
    message: int = MAX_CONTROL
    own: OwnCertificate | None = None
    client_ca: str | None = None


class Daemon:
    """One psync-server process.

    Args:
        paths: where it lives.
        settings: what it was told.
    """

    def __init__(self, paths: ServerPaths, settings: ServerSettings) -> None:
        self._paths = paths
        self._settings = settings
        self._tasks = Tasks()
        self._audit = Audit(paths.audit)
        self._log = QuietLog(self._note)
        self._leaving = asyncio.Event()
        self._interrupts = 0
        self._runs: Runs | None = None

    async def serve(self, ready: Callable[[Presence], None]) -> None:
        """Run until a signal ends it.

        Args:
            ready: called once, when clients can connect.

        Raises:
            PsyncError: it cannot start: another daemon has the lock, a port is in use, a directory
                is not private, …
        """
        asyncio.get_running_loop().set_exception_handler(quiet_strangers)
        sockets = handed_over(os.environ)  # before there is anybody who could inherit them
        private_directory(self._paths.data)
        private_directory(self._paths.state)
        lock = DaemonLock(self._paths.lock)
        lock.acquire()
        launcher = Launcher(raise_limit(), lock.fileno())
        try:
            await launcher.start()
            self._runs = Runs(
                self._paths.runs,
                launcher,
                self._tasks,
                self._settings.limits,
                os.environb,
                self._settings.retention,
            )
            await self._runs.adopt()
            self._runs.on_ended = self._audit.exited  # not what ended before this daemon
            await self._serve(ready, sockets)
        finally:
            if self._runs is not None:
                self._runs.close()
            await self._tasks.close()
            await launcher.close()
            lock.release()

    async def _serve(self, ready: Callable[[Presence], None], sockets: list[socket.socket]) -> None:
        set_damaged_aside(self._paths.ca)
        identity = ensure_server_identity(self._paths.ca)
        facts = Facts(os.fsencode(self._settings.projects))

        last = read_presence(self._paths.record)
        tls = ServerContexts(identity, own=self._settings.own, client_ca=self._settings.client_ca)
        sockets = sockets or bind(list(self._settings.listen), last_port=last.port if last else 0)
        names = tuple(name_of(sock) for sock in sockets)
        port = sockets[0].getsockname()[1]
        gate = Gate(self._settings.gate)
        assert self._runs is not None
        projects = Projects(self._settings.projects)
        connections = Connections(
            Services(
                paths=self._paths,
                projects=projects,
                runs=self._runs,
                tasks=self._tasks,
                facts=facts.current,
                contexts=tls,
                gate=gate,
                log=self._log,
                audit=self._audit,
                limits=self._settings.clients,
            )
        )
        pairing = InvitedPairing(
            self._paths,
            Invitations(self._paths.invitations),
            listen_info=lambda: (port, names),
            facts=facts.current,
        )
        doors = [
            await listen(
                sock,
                tls=tls,
                hello=connections.hello,
                origins=self._settings.origins,
                accept=connections.accept,
                gate=gate,
                log=self._log,
                message=self._settings.message,
                stranger=pairing,
            )
            for sock in sockets
        ]
        presence = Presence(
            pid=os.getpid(),
            listen=names,
            port=port,
            started=time.time(),
            software=f"psync-server {psync.__version__}",
        )
        self._catch_signals()  # first: whoever reads the note may end the daemon at once
        write_presence(self._paths.record, presence)
        self._tasks.start("watch the list of clients", connections.watch())
        self._tasks.start("renew the certificate", self._renew(tls))
        logger.info("listening on %s", ", ".join(names))
        self._audit.write("daemon-started", reason=f"listening on {', '.join(names)}")
        ready(presence)
        await self._leaving.wait()
        for door in doors:
            door.close()
        await connections.close(FAREWELL)
        await projects.seals.close()
        self._log.flush()
        self._audit.write("daemon-left")

    async def _renew(self, tls: ServerContexts) -> None:
        """Renew the daemon's certificate in time; connections that are open keep the old one."""
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL)
            try:
                tls.renew(ensure_server_identity(self._paths.ca))
            except (PsyncError, OSError) as error:
                logger.error("the certificate could not be looked after: %s", error)

    def _note(self, note: Note) -> None:
        """Take a line about a stranger, into both logs."""
        to(logger)(note)
        self._audit.note(note)

    # -- signals -----------------------------------------------------------------------

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._leaving.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)

    def _interrupted(self) -> None:
        """Ctrl-C: the runs first, by the ladder; again: without mercy."""
        assert self._runs is not None
        self._interrupts += 1
        self._runs.refuse()
        active = self._runs.active()
        if self._interrupts == 1:
            if active:
                logger.info("stopping %d runs; Ctrl-C again kills them", len(active))
            for run in active:
                run.stop(signal.SIGINT)
            self._tasks.start("leave when all runs have ended", self._leave_after_runs())
        else:
            for run in active:
                run.kill()

    async def _leave_after_runs(self) -> None:
        assert self._runs is not None
        await self._runs.wait_idle()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._runs.wait_told()
        except TimeoutError:
            logger.warning("a client was too slow to be told how its run ended")
        self._leaving.set()
