"""The TLS contexts of a daemon, with certificates of the user's own where there are any.

Clients that were paired go on to verify the daemon by psync's CA and the name it gave; they say
that name in the handshake (SNI) and are shown psync's certificate. Everybody else is shown the
user's. So both kinds live side by side, and nobody has to pair again when a PKI comes or goes.

In the same way the user's authorities (``client_ca``) are trusted besides psync's CA for clients.
RFC 5280's finer points (``X509_STRICT``) are not insisted on then: much of what real authorities
issue fails there. Chain, signatures, purpose and dates are verified all the same.
"""

from __future__ import annotations

import ssl
import time

import msgspec

from psync.errors import TrustError
from psync.text import printable
from psync.transport.authority import ServerIdentity
from psync.transport.tls import server_context

LARGEST = 1 << 20
"""Largest file with certificates, in bytes."""


class OwnCertificate(msgspec.Struct, frozen=True):
    """A certificate that the user has from elsewhere.

    Attributes:
        cert: file with it and those between it and its authority (PEM), in this order.
        key: file with its private key, of any kind that TLS 1.3 knows.
    """

    cert: str
    key: str


class ServerContexts:
    """What a daemon listens with.

    Args:
        identity: psync's own certificate, and the CA of paired clients.
        own: shown to everybody who does not ask for psync's name.
        client_ca: file with authorities (PEM) whose clients are verified, too. Whether they are let
            in is decided elsewhere; see ``is_paired``.

    Raises:
        TrustError: a file is missing, damaged, expired or for something else; a key is not private
            or not that of its certificate.
    """

    def __init__(
        self,
        identity: ServerIdentity,
        *,
        own: OwnCertificate | None = None,
        client_ca: str | None = None,
    ) -> None:
        self._ca = identity.ca
        self._client_ca = client_ca
        self._own = own
        self._name = identity.name.encode()
        self._psyncs = self._contexts(identity.certificate, identity.key)
        self._shown = self._psyncs if own is None else self._load_own(own)

    def choose(self, hello: bytes, *, demand: bool) -> ssl.SSLContext:
        """Return the context for a peer.

        Args:
            hello: the first bytes it sent. The name it asks for stands in the clear there (RFC
                6066, 3). It is only looked for, as nothing but the choice depends on it. (The
                ``sni_callback`` of ``ssl`` is no way: aiofastnet's connections crash in it.)
            demand: whether it must show a certificate. One that is not valid is refused always.
        """
        return (self._psyncs if self._name in hello else self._shown)[demand]

    def renew(self, identity: ServerIdentity) -> None:
        """Take renewed files; connections that are open keep the old certificates.

        Raises:
            TrustError: as when it was made; what was loaded before is used on then.
        """
        self._psyncs = self._contexts(identity.certificate, identity.key)
        self._shown = self._psyncs if self._own is None else self._load_own(self._own)

    def is_paired(self, certificate: bytes) -> bool:
        """Whether a verified client's certificate (DER) is of psync's CA, and not of the user's."""
        if self._client_ca is None:
            return True
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature

        with open(self._ca, "rb") as file:
            ca = x509.load_pem_x509_certificate(file.read(LARGEST))
        try:
            x509.load_der_x509_certificate(certificate).verify_directly_issued_by(ca)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    # -- inside ------------------------------------------------------------------------

    def _contexts(self, cert: str, key: str) -> dict[bool, ssl.SSLContext]:
        return {
            demand: server_context(cert, key, self._ca, demand=demand, client_ca=self._client_ca)
            for demand in (True, False)
        }

    def _load_own(self, own: OwnCertificate) -> dict[bool, ssl.SSLContext]:
        check_certificate(own.cert)
        return self._contexts(own.cert, own.key)


def check_certificate(path: str, now: float | None = None) -> None:
    """Make sure that the certificates in the file ``path`` can be a daemon's.

    Says what TLS would only say to clients, and in their words.

    Args:
        path: certificate and chain (PEM).
        now: seconds since the epoch, by default the clock's.

    Raises:
        TrustError: the file is missing or damaged, a certificate is not valid now, or the first one
            names no host or is for something else than servers.
    """
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    shown = printable(path)
    try:
        with open(path, "rb") as file:
            chain = x509.load_pem_x509_certificates(file.read(LARGEST))
    except FileNotFoundError as error:
        raise TrustError(f"{shown} is missing", hint="check cert in server.toml") from error
    except OSError as error:
        raise TrustError(f"cannot read {shown}: {error.strerror}") from error
    except ValueError as error:
        raise TrustError(
            f"the certificate {shown} is damaged",
            hint="it must be PEM: -----BEGIN CERTIFICATE-----",
        ) from error
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    for number, certificate in enumerate(chain):
        what = f"the certificate {shown}" if number == 0 else f"certificate {number + 1} in {shown}"
        if moment >= certificate.not_valid_after_utc:
            raise TrustError(
                f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d}", hint="renew it"
            )
        if moment < certificate.not_valid_before_utc:
            raise TrustError(
                f"{what} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} on, and not now",
                hint="set this host's clock",
            )
    extensions = chain[0].extensions
    try:
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = {ExtendedKeyUsageOID.SERVER_AUTH}
    if not purposes & {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}:
        raise TrustError(
            f"the certificate {shown} is not for servers (extended key usage)",
            hint="have one made with the purpose serverAuth",
        )
    try:
        extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        raise TrustError(
            f"the certificate {shown} names no host: it has no subjectAltName",
            hint="have one made with the names and addresses that clients use",
        ) from None
