"""The daemon's private certificate authority, and the daemon's own certificate.

    ca/ca-key.pem, ca-cert.pem           signs, and is what clients pin
    ca/ca-cert.copy                      the second one once more, see ``spare``
    ca/server-key.pem, server-cert.pem   what the daemon shows
    ca/server.json                       its name and end, so that a start needs no cryptography
    ca/lock                              held while any of them is written

The daemon's name in its certificate is made from the CA's key and below ``.invalid`` (RFC 2606): it
is no address, stays the same on whatever network the host is, and cannot be anybody else's.

Keys are made once; certificates can be made again from them at any time. So a crash between two
files costs nothing, and a renewed certificate never stands beside a key that is not its own. The
daemon's own are set aside and made again where they are damaged, too; the CA's never are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from typing import TYPE_CHECKING, Self

import msgspec

from psync.errors import TrustError
from psync.paths import free_path, private_directory, write_atomic
from psync.text import printable
from psync.transport.filelock import FileLock
from psync.transport.identity import safe_name
from psync.transport.keyfile import key_id, load_or_create_key
from psync.transport.spare import keep_copy

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

RENEW_BEFORE = 30 * 86400.0
"""How long before its end the daemon's certificate is made anew, in seconds."""

logger = logging.getLogger("psync.authority")


class ServerIdentity(msgspec.Struct, frozen=True):
    """What the daemon shows to clients.

    Attributes:
        name: the only name in its certificate; clients verify it.
        issued: when the certificate begins to be valid, seconds since the epoch.
        expires: when it ends.
        ca: path of the CA's certificate, which is also what clients' certificates are signed with.
        certificate: path of the daemon's certificate.
        key: path of its private key.
    """

    name: str
    issued: float
    expires: float
    ca: str
    certificate: str
    key: str

    def due(self, now: float) -> bool:
        """Whether it is time to renew: near its end, or from a time that has not come yet."""
        return not self.issued <= now < self.expires - RENEW_BEFORE


class SignedClient(msgspec.Struct, frozen=True):
    """A certificate made for a client.

    Attributes:
        pem: the certificate.
        fingerprint: as ``tls.fingerprint`` gives it.
        expires: seconds since the epoch.
        key_id: see ``identity.key_id``; the end of the client's ID.
    """

    pem: bytes
    fingerprint: str
    expires: float
    key_id: str


class _Stored(msgspec.Struct, frozen=True):
    name: str
    issued: float
    expires: float
    digest: str = ""  # SHA-256 of certificate and key; version 0.1.0 wrote none


class Authority:
    """The CA of one daemon. Made by ``load_or_create``.

    Attributes:
        certificate: its certificate (PEM).
        server: what the daemon shows.
    """

    def __init__(
        self,
        key: EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        server: ServerIdentity,
    ) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        self.certificate = certificate.public_bytes(Encoding.PEM)
        self.server = server
        self._key = key
        self._certificate = certificate

    @classmethod
    def load_or_create(cls, directory: str, now: float | None = None) -> Self:
        """Return the authority in ``directory``; what is missing or due is made now.

        Two processes that do this at the same time get the same one.

        Args:
            directory: created with mode 0700 where it is missing.
            now: seconds since the epoch, by default the clock's.

        Raises:
            TrustError: a file is damaged or readable by others, the CA's key is gone while its
                certificate is there, or the CA has expired. Nothing is replaced then: every paired
                client depends on it.
            ConfigError: the directory cannot be made, or is not private.
        """
        if now is None:
            now = time.time()
        private_directory(directory, exclusive=True)
        with FileLock(f"{directory}/lock"):
            keep_copy(directory)
            key = _ca_key(directory)
            certificate = _ca_certificate(directory, key, now)
            keep_copy(directory)  # of one that was made now
            server = read_server_identity(directory)
            if server is None or server.due(now) or server.name != server_name(key.public_key()):
                server = _issue_server(directory, key, certificate, now)
        return cls(key, certificate, server)

    def sign_client(self, csr: bytes, name: str, now: float | None = None) -> SignedClient:
        """Return a certificate for the key in a client's request.

        Nothing but the key is taken from the request. The certificate is good for being a client of
        this daemon and for nothing else, for a year.

        Args:
            csr: the certificate request (PEM).
            name: becomes the common name, made safe.
            now: seconds since the epoch, by default the clock's.

        Raises:
            ProtocolError: the request is damaged, not signed with its own key, or its key is not of
                psync's kind.
        """
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding

        from psync.transport import certificates

        now = time.time() if now is None else now
        key = certificates.requested_key(csr)
        certificate = certificates.sign_client(
            self._key, self._certificate, key, safe_name(name), now
        )
        return SignedClient(
            pem=certificate.public_bytes(Encoding.PEM),
            fingerprint=f"sha256:{certificate.fingerprint(SHA256()).hex()}",
            expires=certificate.not_valid_after_utc.timestamp(),
            key_id=key_id(key),
        )


def read_server_identity(directory: str) -> ServerIdentity | None:
    """Return what the daemon of this CA ``directory`` shows, or None where that is not known.

    Reads one small file and needs no cryptography.
    """
    files = _server_files(directory)
    try:
        with open(f"{directory}/server.json", "rb") as file:
            stored = msgspec.json.decode(file.read(4096), type=_Stored)
        if not all(os.path.isfile(path) for path in files.values()):
            return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return ServerIdentity(stored.name, stored.issued, stored.expires, **files)


def _digest(*paths: str) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def set_damaged_aside(directory: str) -> None:
    """Rename the daemon's certificate and key where they are of no use, to be made again.

    The CA's certificate is restored from its copy where it is damaged. Imports ssl.

    Raises:
        TrustError: a file cannot be read; or the CA's certificate and its copy are both damaged.
    """
    import ssl

    if os.path.isdir(directory):
        with FileLock(f"{directory}/lock"):
            keep_copy(directory)

    server = read_server_identity(directory)
    if server is None:
        return
    try:
        with open(f"{directory}/server.json", "rb") as file:
            digest = msgspec.json.decode(file.read(4096), type=_Stored).digest
        if digest in ("", _digest(server.certificate, server.key)):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(server.certificate, server.key, password=lambda: b"")
            return
    except ssl.SSLError:
        pass
    except OSError as error:  # it is there, and may be readable another time
        raise TrustError(
            f"cannot read {printable(server.certificate)} or its key: {error.strerror}"
        ) from error
    for path in (server.certificate, server.key):
        aside = free_path(f"{path}.damaged")
        os.rename(path, aside)
        logger.error(
            "%s or the file that belongs to it is damaged; it is set aside as %s, and made again",
            printable(path),
            printable(aside),
        )


def ensure_server_identity(directory: str, now: float | None = None) -> ServerIdentity:
    """Return what the daemon shows, made or renewed where that is due.

    A daemon calls it at its start, and daily: the new certificate is for ``load_cert_chain`` on the
    context that is in use, connections that are open stay. Cryptography is imported only when
    something has to be made. Raises as ``Authority.load_or_create`` does.
    """
    if now is None:
        now = time.time()
    private_directory(directory, exclusive=True)
    server = read_server_identity(directory)
    if server is not None and not server.due(now):
        return server
    return Authority.load_or_create(directory, now).server


def _server_files(directory: str) -> dict[str, str]:
    return {
        "ca": f"{directory}/ca-cert.pem",
        "certificate": f"{directory}/server-cert.pem",
        "key": f"{directory}/server-key.pem",
    }


def server_name(ca_key: EllipticCurvePublicKey) -> str:
    """Return the name in the certificate of the daemon whose CA has this public key."""
    return f"d-{key_id(ca_key)}.psync.invalid"


def _ca_key(directory: str) -> EllipticCurvePrivateKey:
    path = f"{directory}/ca-key.pem"
    if os.path.lexists(f"{directory}/ca-cert.pem") and not os.path.lexists(path):
        raise TrustError(
            f"the key of the daemon's CA, {printable(path)}, is gone", hint=_start_over(directory)
        )
    return load_or_create_key(path)


def _ca_certificate(directory: str, key: EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from psync.transport.certificates import sign_ca

    path = f"{directory}/ca-cert.pem"
    try:
        with open(path, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read(64 * 1024))
    except FileNotFoundError:
        certificate = sign_ca(key, f"psync CA {key_id(key.public_key())}", now)
        write_atomic(path, certificate.public_bytes(Encoding.PEM))
        return certificate
    except OSError as error:
        raise TrustError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise TrustError(
            f"the certificate of the daemon's CA, {printable(path)}, is damaged",
            hint=_start_over(directory),
        ) from error
    if certificate.public_key() != key.public_key():
        raise TrustError(
            f"the certificate of the daemon's CA, {printable(path)}, does not belong to its key",
            hint=_start_over(directory),
        )
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin.timestamp() <= now < end.timestamp():
        raise TrustError(
            f"the daemon's CA is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}, and not now",
            hint=f"set this host's clock; if it is right, {_start_over(directory)}",
        )
    return certificate


def _issue_server(
    directory: str, ca_key: EllipticCurvePrivateKey, ca: x509.Certificate, now: float
) -> ServerIdentity:
    from cryptography.hazmat.primitives.serialization import Encoding

    from psync.transport.certificates import sign_server

    files = _server_files(directory)
    key = load_or_create_key(files["key"])
    name = server_name(ca_key.public_key())
    certificate = sign_server(ca_key, ca, key.public_key(), name, now)
    issued = certificate.not_valid_before_utc.timestamp()
    expires = certificate.not_valid_after_utc.timestamp()
    write_atomic(files["certificate"], certificate.public_bytes(Encoding.PEM))
    # last, because it is what says that the others are there
    stored = _Stored(name, issued, expires, _digest(files["certificate"], files["key"]))
    write_atomic(f"{directory}/server.json", msgspec.json.encode(stored))
    return ServerIdentity(name, issued, expires, **files)


def _start_over(directory: str) -> str:
    return f"restore it, or remove {printable(directory)} and pair every client again"
