"""Both ends of a TLS connection over loopback, and the files they need."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from psync.paths import write_atomic
from psync.transport import certificates
from psync.transport.authority import Authority
from psync.transport.identity import ClientIdentity
from psync.transport.tls import client_context, server_context

TIMEOUT = 20.0
GREETING = b"this is the daemon"


@dataclass
class Files:
    """Paths of a certificate and its key."""

    cert: str
    key: str


class Pair:
    """A daemon's CA and one client that is paired with it."""

    def __init__(self, root: Path, now: float | None = None) -> None:
        self.root = root
        self.authority = Authority.load_or_create(str(root / "ca"), now)
        self.identity = ClientIdentity.load_or_create(str(root / "identity"))
        self.signed = self.authority.sign_client(self.identity.csr("desk"), "desk", now)
        self.client = Files(str(root / "client.pem"), self.identity.key)
        write_atomic(self.client.cert, self.signed.pem)

    @property
    def ca(self) -> str:
        return self.authority.server.ca

    @property
    def name(self) -> str:
        return self.authority.server.name

    @property
    def server(self) -> Files:
        return Files(self.authority.server.certificate, self.authority.server.key)

    def client_context(self) -> ssl.SSLContext:
        return client_context(self.ca, self.client.cert, self.client.key)

    def server_context(self) -> ssl.SSLContext:
        return server_context(self.server.cert, self.server.key, self.ca)

    def client_signed_at(self, now: float) -> Files:
        """Another certificate for the same client, made at that time."""
        signed = self.authority.sign_client(self.identity.csr("desk"), "desk", now)
        path = str(self.root / "client-then.pem")
        write_atomic(path, signed.pem)
        return Files(path, self.client.key)

    def server_signed_at(self, now: float, name: str | None = None) -> Files:
        """Another certificate for the same daemon, made at that time or with another name."""
        ca_key, ca = self.secrets()
        key = new_key()
        made = certificates.sign_server(ca_key, ca, key.public_key(), name or self.name, now)
        return store(self.root / "server-then", made, key)

    def secrets(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """The CA's key and certificate, for certificates that psync itself would not make."""
        from psync.transport.keyfile import load_key

        return load_key(str(self.root / "ca/ca-key.pem")), x509.load_pem_x509_certificate(
            Path(self.ca).read_bytes()
        )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def store(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Files:
    files = Files(f"{path}-cert.pem", f"{path}-key.pem")
    write_atomic(files.cert, certificate.public_bytes(Encoding.PEM))
    write_atomic(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def self_signed(path: Path, now: float) -> Files:
    """A certificate nobody vouches for."""
    key = new_key()
    return store(path, certificates.sign_ca(key, "somebody", now), key)


@dataclass
class Peer:
    """What listens on loopback in a thread.

    Attributes:
        port: where.
        seen: fingerprints or errors, one per connection, in order of arrival.
    """

    port: int
    seen: list[bytes | Exception] = field(default_factory=list)


@contextmanager
def listening(answer: Callable[[socket.socket], bytes]) -> Iterator[Peer]:
    """Serve connections one after another with ``answer`` until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        peer = Peer(listener.getsockname()[1])
        over = threading.Event()

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                with sock:
                    if over.is_set():
                        return
                    sock.settimeout(TIMEOUT)
                    try:
                        peer.seen.append(answer(sock))
                    except (OSError, ValueError) as error:
                        peer.seen.append(error)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            over.set()
            socket.create_connection(("127.0.0.1", peer.port), TIMEOUT).close()
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def daemon(context: ssl.SSLContext) -> Callable[[socket.socket], bytes]:
    """Answer as a daemon does: TLS, one line read, one written. Sees the client's certificate."""

    def answer(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            der = tls.getpeercert(binary_form=True)
            tls.recv(100)
            tls.sendall(GREETING)
            return der or b""

    return answer


def says(words: bytes) -> Callable[[socket.socket], bytes]:
    """Answer anything with these words."""

    def answer(sock: socket.socket) -> bytes:
        heard = sock.recv(4096)
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
        return heard

    return answer


def talk(context: ssl.SSLContext, port: int, name: str) -> bytes:
    """Connect, write, read: only the read shows what the daemon thinks of the client.

    A daemon that refused may be gone before the write, and its alert still waits to be read.
    """
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock,
        context.wrap_socket(sock, server_hostname=name) as tls,
    ):
        with suppress(ConnectionError, ssl.SSLEOFError):
            tls.sendall(b"hello\n")
        return tls.recv(100)


def failure(context: ssl.SSLContext, port: int, name: str) -> Exception:
    """Return the error that talking ends with."""
    try:
        said = talk(context, port, name)
    except OSError as error:
        return error
    raise AssertionError(f"the connection was accepted: {said!r}")
