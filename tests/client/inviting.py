"""A daemon's door with invitations, in this process, and somebody in between."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from psync.daemon.enroll import InvitedPairing
from psync.daemon.invitations import Invitations
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.protocol.messages import FEATURES, VERSION, Hello
from psync.transport.authority import Authority
from psync.transport.contexts import ServerContexts
from psync.transport.enrolment import EnrolRequest
from psync.transport.gate import Gate, GateLimits
from psync.transport.identity import ClientIdentity
from psync.transport.invitation import Invitation
from psync.transport.link import Link
from psync.transport.listen import listen
from psync.transport.strangers import Pairing

FACTS = HostFacts("handheld", "Linux", "x86_64", b"/projects", None, "/bin/psync-server", "0.1")


class Host:
    """A daemon's directories and its invitations.

    Attributes:
        der: the certificate of its CA.
    """

    def __init__(self, directory: Path) -> None:
        self.paths = ServerPaths.from_environ({"PSYNC_SERVER_HOME": str(directory)})
        os.makedirs(self.paths.data, 0o700)
        self.authority = Authority.load_or_create(self.paths.ca)
        self.invitations = Invitations(self.paths.invitations)
        self.der = ssl.PEM_cert_to_DER_cert(self.authority.certificate.decode())

    def invite(self, *ports: int, life: float = 60) -> Invitation:
        """Make an invitation that leads to these ports of this host."""
        import hashlib

        _, secret = self.invitations.create(life=life)
        addresses = tuple(("127.0.0.1", port) for port in ports)
        return Invitation(addresses, hashlib.sha256(self.der).digest(), secret)

    @asynccontextmanager
    async def listening(
        self, pairing: Pairing | None = None, limits: GateLimits | None = None
    ) -> AsyncIterator[int]:
        """Listen on loopback; yields the port."""
        sock = socket.create_server(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        door = await listen(
            sock,
            tls=ServerContexts(self.authority.server),
            hello=lambda _certificate: Hello(
                versions=(VERSION,), software="a test", features=FEATURES, facts=FACTS
            ),
            origins=(),
            accept=Link.close,
            gate=Gate(limits or GateLimits(attempts=100)),
            stranger=pairing
            or InvitedPairing(
                self.paths,
                self.invitations,
                listen_info=lambda: (port, (f"127.0.0.1:{port}",)),
                facts=lambda: FACTS,
            ),
        )
        try:
            yield port
        finally:
            door.close()
            await door.wait_closed()


def request(directory: Path, name: str = "desk") -> EnrolRequest:
    """What a client asks."""
    identity = ClientIdentity.load_or_create(str(directory))
    return EnrolRequest(name=name, client_id=identity.client_id, csr=identity.csr(name))


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def in_between(
    cert: str, key: str, answer: bytes
) -> tuple[Callable[[socket.socket], bytes], list[bytes]]:
    """Somebody with a certificate of his own, for ``peers.listening``; and all that he hears."""
    heard: list[bytes] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    def serve(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            heard.append(tls.recv(65536))
            tls.sendall(answer)
            while more := tls.recv(65536):
                heard.append(more)
            return b""

    return serve, heard
