"""Certificates as psync's CA makes them: pure functions over ``cryptography``, which this imports.

The extensions are those that RFC 5280 (4.2.1) demands and OpenSSL's X509_STRICT insists on. What a
certificate is for stands in its extended key usage, so that a client's cannot pass for a daemon's.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from psync.errors import ProtocolError

DAY = 86400.0

CA_LIFETIME = 3650 * DAY
LEAF_LIFETIME = 365 * DAY
"""Of the daemon's and of clients' certificates, in seconds."""

SKEW = DAY
"""How far another host's clock may be behind, in seconds."""

EARLIEST = 1767225600.0
"""2026-01-01: a clock before this was never set (boards without a battery start in 1970). What is
signed by it must still be valid once it is set."""


def sign_ca(key: EllipticCurvePrivateKey, name: str, now: float) -> x509.Certificate:
    """Return a certificate for a CA that signs leaves only.

    Args:
        key: the CA's.
        name: its common name; differs from CA to CA, or OpenSSL would blame a signature where it
            should say that the issuer is unknown.
        now: seconds since the epoch.
    """
    subject = _common_name(name)
    return (
        _builder(key.public_key(), subject, subject, now, max(now, EARLIEST) + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        .sign(key, SHA256())
    )


def sign_server(
    ca_key: EllipticCurvePrivateKey,
    ca: x509.Certificate,
    public_key: EllipticCurvePublicKey,
    name: str,
    now: float,
) -> x509.Certificate:
    """Return a certificate for a daemon with the DNS name ``name``."""
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return (
        _leaf(ca, public_key, name, ExtendedKeyUsageOID.SERVER_AUTH, now)
        .add_extension(names, critical=False)
        .sign(ca_key, SHA256())
    )


def sign_client(
    ca_key: EllipticCurvePrivateKey,
    ca: x509.Certificate,
    public_key: EllipticCurvePublicKey,
    name: str,
    now: float,
) -> x509.Certificate:
    """Return a certificate for a client with the common name ``name``."""
    leaf = _leaf(ca, public_key, name, ExtendedKeyUsageOID.CLIENT_AUTH, now)
    return leaf.sign(ca_key, SHA256())


def requested_key(csr: bytes) -> EllipticCurvePublicKey:
    """Return the key that a certificate request (PEM) is for. Nothing else of it is looked at.

    Raises:
        ProtocolError: the request is damaged, not signed with its own key, or its key is not of
            psync's kind.
    """
    try:
        request = x509.load_pem_x509_csr(csr)
        public_key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProtocolError("the client's certificate request is damaged") from error
    if not isinstance(public_key, EllipticCurvePublicKey) or not isinstance(
        public_key.curve, SECP256R1
    ):
        raise ProtocolError("the client's certificate request is not for an ECDSA P-256 key")
    if not signed:
        raise ProtocolError("the client's certificate request is not signed with its own key")
    return public_key


def _leaf(
    ca: x509.Certificate,
    public_key: EllipticCurvePublicKey,
    name: str,
    purpose: x509.ObjectIdentifier,
    now: float,
) -> x509.CertificateBuilder:
    end = min(max(now, EARLIEST) + LEAF_LIFETIME, ca.not_valid_after_utc.timestamp())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    )
    return (
        _builder(public_key, _common_name(name), ca.subject, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(issuer, critical=False)
    )


def _builder(
    public_key: EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    now: float,
    end: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(now - SKEW), UTC))
        .not_valid_after(datetime.fromtimestamp(int(end), UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
