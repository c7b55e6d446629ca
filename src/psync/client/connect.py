"""From a target to an open link, over whatever way leads there.

    direct   TCP to the daemon's address
    ssh      a unix socket that psync's shared ssh connection leads to the daemon's loopback port,
             or with a restricted key, which forwards nothing, ``psync-server relay`` over there

TLS and certificates are the same on both. ``auto`` goes directly to a daemon that listens on more
than loopback, or whose address is configured, and falls back to ssh; one that listens on loopback
only is reached through ssh at once. Where no daemon answers, one is started over ssh (or, for
``local``, on this machine), which also tells the port it has now.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

import msgspec

import psync
from psync.client.hosts import Host, LocalHost, SSHHost, shared_connection, start_daemon
from psync.client.restricted import RelayWay, refusal
from psync.client.targets import TargetFiles, TargetRecord, TargetSpec, not_paired, own_record
from psync.client.threads import in_thread
from psync.errors import (
    ConnectError,
    DaemonNotRunning,
    Interrupted,
    NotPaired,
    ProtocolError,
    PsyncError,
    SSHError,
    ToolMissing,
    TrustError,
    WrongDaemon,
)
from psync.model import HostFacts
from psync.paths import ClientPaths
from psync.sync.ssh import SharedConnection
from psync.transport.connect import HungUp, Where, connect
from psync.transport.identity import key_path
from psync.transport.link import Link
from psync.transport.tls import client_context

CONNECT_TIMEOUT = 10.0
"""Seconds for one attempt over one way, TLS and hello included."""

HEAD_START = 0.3
"""Seconds a direct attempt has before ssh is tried beside it (``connect = "auto"``). A firewall
that drops packets answers nothing, and nobody should wait for its silence."""


class Connector:
    """Makes connections to one target and keeps what is known of it up to date.

    Args:
        spec: the target.
        paths: the client's directories.

    Attributes:
        files: where what is known is kept.
        record: what is known; None before a target ``local`` was used for the first time.
    """

    def __init__(self, spec: TargetSpec, paths: ClientPaths) -> None:
        self.spec = spec
        self.files = TargetFiles(paths, spec.name)
        self.record: TargetRecord | None = self.files.read()
        self._paths = paths
        self._tls: ssl.SSLContext | None = None
        self._loaded = 0
        if spec.own is not None:  # there is nothing to be found out over ssh then
            self.spec = msgspec.structs.replace(spec, connect="direct")
            self.record = own_record(spec, self.record)
        if self.record is None and not spec.local:
            raise not_paired(spec)

    async def dial(self) -> Link:
        """Connect, with all that is needed for it.

        Raises:
            NotPaired: the daemon does not accept this client.
            WrongDaemon: another daemon than the paired one answers.
            SSHError: ssh failed before psync came into play.
            DaemonNotRunning, ConnectError: nobody answers, and none could be started.
            ProtocolError: something else than a psync daemon answers.

        Cancellation leaves no connection and no process.
        """
        try:
            return await self._dial()
        except TrustError as error:
            if not self.spec.local:
                raise self._with_advice(error) from error
            # Both sides of it are the user's own files, and one of them was removed or replaced.
            self.record = None
            return await self._dial()

    async def _dial(self) -> Link:
        if self.record is None:
            await self._pair_local()
        try:
            link = await self._attempt()
        except SSHError:
            raise
        except (ConnectError, ProtocolError, WrongDaemon) as error:
            # Nobody there, or somebody else: the daemon may be down or have another port by now.
            if self.spec.connect == "direct":
                raise self._direct_failure(error) from error
            if not await self._find_daemon() and not isinstance(error, ConnectError):
                raise
            link = await self._attempt_again()
        self._learn(link.peer.facts)
        return link

    async def _attempt_again(self) -> Link:
        """Connect to a daemon that says of itself, over ssh, that it is there."""
        try:
            return await self._attempt()
        except (SSHError, HungUp):
            raise
        except ConnectError as error:
            port = self._known().port
            raise DaemonNotRunning(
                f"psync-server on {self.spec.host or 'this machine'} says it listens on port "
                f"{port}, and does not answer there: {error.message}",
                hint="look at daemon.log there, in ~/.local/state/psync-server",
            ) from error

    async def _pair_local(self) -> None:
        from psync.client.pairing import pair_local

        host = LocalHost(self._paths)
        self._tls = None
        self.record = await in_thread(lambda: pair_local(self.spec, self._paths, host), host.cancel)

    async def _find_daemon(self) -> bool:
        """Have the daemon run; return whether it is elsewhere than it was known to be."""
        record = self._known()
        host: Host
        if self.spec.local:
            host = LocalHost(self._paths)
        else:
            host = SSHHost(self.spec, self._paths, record.server)
        try:
            found = await in_thread(lambda: start_daemon(host), host.cancel)
        except (SSHError, ToolMissing, Interrupted):
            raise
        except PsyncError as error:
            where = self.spec.host or "this machine"
            raise DaemonNotRunning(
                f"psync-server on {where} cannot start: {error.message}", hint=error.hint
            ) from error
        self._remember(
            msgspec.structs.replace(
                record,
                port=found.port,
                listen=found.listen,
                server=found.facts.server,
                facts=found.facts,
            )
        )
        return found.port != record.port

    # -- ways -----------------------------------------------------------------------------------

    async def _attempt(self) -> Link:
        record = self._known()
        if self.spec.local:
            return await self._over(("127.0.0.1", record.port))
        direct = self._direct_address(record)
        if self.spec.connect == "direct":
            return await self._over(direct or (record.hostname, record.port))
        if self.spec.connect == "ssh" or direct is None:
            return await self._over_ssh()
        return await self._race(direct)

    async def _race(self, direct: tuple[str, int]) -> Link:
        """Connect directly or over ssh, whichever succeeds first; direct begins."""
        tasks = [asyncio.create_task(self._over(direct))]
        winner: asyncio.Task[Link] | None = None
        try:
            await asyncio.wait(tasks, timeout=HEAD_START)
            if not _decided(tasks[0]):
                tasks.append(asyncio.create_task(self._over_ssh()))
            while not (ended := [task for task in tasks if _decided(task)]):
                pending = [task for task in tasks if not task.done()]
                if not pending:
                    ended = tasks[1:]  # both failed; ssh is the one that should not have
                    break
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            winner = ended[0]
            return winner.result()
        finally:
            await _abandon([task for task in tasks if task is not winner])

    async def _over_ssh(self) -> Link:
        connection = shared_connection(self.spec, self._paths)
        if connection.target.key is not None:
            return await self._over_relay(connection)
        port = self._known().port

        def forward() -> bytes:
            connection.open()
            return connection.forward(port)

        path = await in_thread(forward, connection.cancel)
        return await self._over(path)

    async def _over_relay(self, connection: SharedConnection) -> Link:
        """Connect through a command of psync's: a restricted key forwards no ports."""
        way = RelayWay(connection, self._known().server)
        await in_thread(connection.open, connection.cancel)
        try:
            return await self._over(way)
        except ConnectError as error:
            said = await in_thread(way.said, lambda: None)
            raise refusal(said, self.spec) or error from error

    async def _over(self, where: Where) -> Link:
        try:
            return await connect(
                where,
                tls=self._context(),
                server_name=self._known().server_name,
                software=f"psync {psync.__version__}",
                timeout=CONNECT_TIMEOUT,
            )
        except HungUp as error:
            raise self._refusal(error) from error

    def _refusal(self, error: HungUp) -> PsyncError:
        """Return what it means that the daemon hangs up without a word."""
        from psync.transport.standing import fault_of

        own = self.spec.own
        files = (self.files.certificate, self.files.ca) if own is None else (own.cert, own.ca)
        if fault := fault_of(*files, own=own is not None):
            return NotPaired(fault, hint="run: psync pair HOST")
        hint = error.hint.replace("psync pair HOST", self.spec.pair_command)
        return HungUp(error.message, hint=hint)

    def _context(self) -> ssl.SSLContext:
        """Return what to connect with; read again once a renewed certificate is there."""
        own = self.spec.own
        certificate = self.files.certificate if own is None else own.cert
        try:
            written = os.stat(certificate).st_mtime_ns
        except OSError:
            written = 0  # loading it says what is wrong
        if self._tls is None or written != self._loaded:
            self._loaded = written
            if own is not None:
                self._tls = client_context(own.ca, own.cert, own.key, own=True)
            else:
                key = key_path(self._paths.identity)
                self._tls = client_context(self.files.ca, certificate, key)
        return self._tls

    def _direct_address(self, record: TargetRecord) -> tuple[str, int] | None:
        """Return where a direct connection has a chance, None if nowhere."""
        if self.spec.address is not None:
            return self.spec.address
        for name in record.listen:
            host, _, digits = name.rpartition(":")
            port = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 0
            if not host or not 0 < port < 65536:
                continue  # the daemon's own word, which may be anything
            if host in ("0.0.0.0", "[::]"):
                return record.hostname, port
            loopback = host.startswith("127.") or host == "[::1]"
            if not loopback or _is_this_machine(record):
                return host.strip("[]"), port
        return None

    # -- what is known --------------------------------------------------------------------------

    def _known(self) -> TargetRecord:
        if self.record is None:
            raise not_paired(self.spec)
        return self.record

    def _learn(self, facts: HostFacts | None) -> None:
        record = self._known()
        if facts is not None and facts != record.facts:
            self._remember(msgspec.structs.replace(record, facts=facts, server=facts.server))

    def _remember(self, record: TargetRecord) -> None:
        self.record = record
        if self.spec.own is not None and os.path.exists(self.files.ca):
            return  # it was paired, too, and what is known of that comes back when ``own`` goes
        try:
            self.files.write(record)
        except (OSError, PsyncError):
            pass  # it is only found out again next time

    def _with_advice(self, error: TrustError) -> TrustError:
        if self.spec.own is not None:
            hint = f"check ca, cert, key and server_name in [targets.{self.spec.name}]"
            return type(error)(f"{self.spec.name}: {error.message}", hint=hint)
        if isinstance(error, NotPaired):
            message = f"{self.spec.name} does not accept this client: {error.message}"
            return NotPaired(message, hint=self.spec.pair_command)
        if "psync pair HOST" in error.hint:
            hint = error.hint.replace("psync pair HOST", self.spec.pair_command)
            return type(error)(f"{self.spec.name}: {error.message}", hint=hint)
        return error

    def _direct_failure(self, error: PsyncError) -> PsyncError:
        if isinstance(error, DaemonNotRunning):
            return DaemonNotRunning(
                error.message,
                hint=f'start psync-server there, or set connect = "auto" for {self.spec.name}',
            )
        return error


def _is_this_machine(record: TargetRecord) -> bool:
    """Whether ssh and the daemon's host both say that the host is this very one.

    Then its loopback is ours. ssh alone is not enough: it may lead into a container or a virtual
    machine by a port of ours. Should both be wrong, TLS notices, and ssh is the way.
    """
    return record.hostname in ("localhost", "127.0.0.1", "::1") and (
        record.facts.hostname == socket.gethostname()
    )


def _decided(task: asyncio.Task[Link]) -> bool:
    """Whether another way cannot do better: connected, or the right host said no."""
    return task.done() and (task.exception() is None or isinstance(task.exception(), TrustError))


async def _abandon(tasks: list[asyncio.Task[Link]]) -> None:
    """End attempts that are not needed, and close what they opened."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            task.result().close()
