"""The clients that are connected: who is let in, with what rights, and for how long.

The list of clients is looked at twice a second. Who was revoked, or paired anew with another
certificate, loses its open connections; its runs follow their disconnect policy. Changed rights
hold from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from psync.daemon.access import AccessList, ClientRecord
from psync.daemon.audit import Audit
from psync.daemon.clients import ClientConnection
from psync.daemon.guard import Book, ClientLimits, Guard
from psync.daemon.projects import Projects
from psync.daemon.renewal import renew
from psync.daemon.runs import Runs
from psync.daemon.seen import Seen
from psync.daemon.tasks import Tasks
from psync.daemon.transfers import Running
from psync.errors import NotPaired, PsyncError, Refused, TrustError
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.protocol.messages import FEATURES, LIMITS, VERSION, Hello
from psync.text import printable
from psync.transport.contexts import ServerContexts
from psync.transport.gate import Gate
from psync.transport.link import Link
from psync.transport.quiet import QuietLog
from psync.transport.tls import fingerprint

REVOCATION_INTERVAL = 0.5
"""Seconds between two looks at the list of clients; revoking takes effect within a second."""

PATIENCE = 0.5
"""Seconds that the daemon stands still, at most, for the lock on the list, when a client of the
user's own authority comes for the first time."""

LONGEST_REASON = 300
"""Characters of the reason for the end of a connection that are logged."""

logger = logging.getLogger("psync.daemon")


class Services(msgspec.Struct, frozen=True):
    """What a connection is served with.

    Attributes:
        paths: the daemon's directories.
        projects: where mirrors are.
        runs: the registry of runs.
        tasks: owner of what goes on in the background.
        facts: says what is true of this host.
        contexts: tells certificates of psync's from those of the user's own authority.
        gate: is told of clients that are none.
        log: takes lines about them.
        audit: the audit log.
        limits: what one client may take up.
    """

    paths: ServerPaths
    projects: Projects
    runs: Runs
    tasks: Tasks
    facts: Callable[[], HostFacts]
    contexts: ServerContexts
    gate: Gate
    log: QuietLog
    audit: Audit
    limits: ClientLimits


class Connections:
    """All connections of one daemon.

    Args:
        services: what they are served with.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._paths = services.paths
        self._audit = services.audit
        self._open: dict[Link, ClientConnection] = {}
        self._access = AccessList(self._paths.clients)
        self._seen = Seen(self._paths.seen)
        self._book = Book()
        self._transfers = Running()

    def hello(self, certificate: bytes) -> Hello:
        """Return what the daemon says to the client with this certificate (DER)."""
        facts = self._services.facts()
        mark = fingerprint(certificate)
        record = self._access.find(mark)
        ends = None if record is None or record.via == "certificate" else record.end_of(mark)
        return Hello(
            versions=(VERSION,),
            software=facts.software,
            features=FEATURES,
            limits=LIMITS,
            facts=facts,
            certificate_expires=ends,
        )

    def accept(self, link: Link) -> None:
        """Let a client in, or close its link."""
        link.on_closed = lambda error: self._closed(link, error)
        mark = fingerprint(link.certificate)
        try:
            record = self._admit(mark, link)
        except PsyncError as error:
            self._services.gate.blame(link.address)
            known = self._access.revoked(mark)
            who = "a client" if known is None else f"the revoked client {printable(known.name)}"
            self._services.log.note(
                "refused", link.address, f"refused {who} from {link.address}: {error}"
            )
            link.close(error)
            return
        limit = self._services.limits.connections
        if sum(one.client.client_id == record.client_id for one in self._open.values()) >= limit:
            full = Refused(
                f"this client has {limit} connections to the daemon, and may not have more",
                hint="end some of its psync commands, or raise connections in [limits] of the "
                "daemon's server.toml",
            )
            self._audit.refused(record, link.address, full.message)
            link.close(full)
            return
        if record.previous is not None and mark == record.fingerprint:
            self._services.tasks.start("note a renewed certificate", self._settle(record))
        logger.info("client %s connected from %s", printable(record.name), link.address)
        self._audit.write("connected", record, address=link.address)
        self._seen.came(record.client_id, link.address)
        self._open[link] = ClientConnection(
            link,
            record,
            self._services.projects,
            self._services.runs,
            self._guard(record, link),
            lambda csr: self._renew(link, csr),
            self._services.facts,
            self._transfers,
        )

    async def watch(self) -> None:
        """Act on changes of the list until cancelled."""
        self._services.tasks.start("note who was seen", self._seen.keep_writing())
        while True:
            await asyncio.sleep(REVOCATION_INTERVAL)
            if self._access.changed():
                self._seen.forget_others({one.client_id for one in self._access.clients()})
                self._review()

    async def close(self, patience: float) -> None:
        """Close all connections; waits ``patience`` seconds for the other sides to take note, and
        until no transfer is left."""
        self._transfers.cancel()
        links = list(self._open)
        for link in links:
            link.close()
        try:
            async with asyncio.timeout(patience):
                await asyncio.gather(*(link.wait_closed() for link in links))
        except TimeoutError:
            pass  # who does not answer notices that the process is gone
        await self._transfers.close()
        self._seen.write()

    # -- inside ------------------------------------------------------------------------

    def _admit(self, mark: str, link: Link) -> ClientRecord:
        try:
            return self._access.admit(mark)
        except NotPaired:
            known = self._access.revoked(mark)
            if known or self._services.contexts.is_paired(link.certificate):
                raise
        from psync.daemon.certified import certified

        # TLS has verified that one of the user's own authorities vouches for it.
        who = certified(link.certificate)
        return AccessList(self._paths.clients, PATIENCE).certified(
            name=who.name,
            client_id=who.client_id,
            fingerprint=mark,
            expires=who.expires,
            address=link.address,
        )

    def _guard(self, record: ClientRecord, link: Link) -> Guard:
        return Guard(record, self._services.limits, self._book, self._audit, link.address)

    def _review(self) -> None:
        for link, connection in list(self._open.items()):
            try:
                record = self._access.still_admitted(connection.client)
            except PsyncError as error:
                link.close(error)
                continue
            if record != connection.client:
                connection.client = record
                connection.guard = self._guard(record, link)

    def _closed(self, link: Link, error: PsyncError | None) -> None:
        connection = self._open.pop(link, None)
        if connection is None:
            return
        connection.closed()
        client = connection.client
        # a peer that says goodbye with an error chooses the words
        reason = printable(error.message)[:LONGEST_REASON] if error else "closed"
        logger.info("client %s left: %s", printable(client.name), reason)
        self._audit.write("left", client, address=link.address, reason=reason)
        self._seen.left(client.client_id)

    async def _settle(self, record: ClientRecord) -> None:
        """The client uses its new certificate: the one before has done its work."""
        try:
            await asyncio.to_thread(AccessList(self._paths.clients).settled, record)
        except TrustError as error:
            logger.warning("%s keeps two certificates for now: %s", printable(record.name), error)

    async def _renew(self, link: Link, csr: bytes) -> tuple[bytes, float]:
        connection = self._open[link]
        client = connection.client
        in_use = fingerprint(link.certificate)
        certificate, expires = await renew(self._paths, client, in_use, csr)
        logger.info("renewed the certificate of client %s", printable(client.name))
        self._audit.write("renewed", client, address=link.address)
        return certificate, expires
