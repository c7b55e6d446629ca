"""Who a client with a certificate of its own is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from psync.daemon.certified import certified
from psync.errors import NotPaired
from psync.transport.identity import CLIENT_ID

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def certificate(
    name: str | None, *, issuer: str = "CA", others: tuple[str, ...] = (), new_key: bool = False
) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()) if new_key else KEY
    subject = [] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=30))
    )
    if others:
        names = x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(other) for other in others]
        )
        made = made.add_extension(names, critical=True)
    return made.sign(KEY, SHA256()).public_bytes(Encoding.DER)


def test_issuer_and_subject_are_who_it_is() -> None:
    one = certified(certificate("anna"))
    assert one.name == "anna"
    assert one.expires == (NOW + timedelta(days=30)).timestamp()
    assert certified(certificate("anna", new_key=True)) == one
    assert certified(certificate("berta")).client_id != one.client_id
    assert certified(certificate("anna", issuer="Other CA")).client_id != one.client_id


@pytest.mark.parametrize("name", ["anna", "Ännä B.", "-" * 60, "\x1b[2J", "x" * 64, "日本"])
def test_the_id_is_always_one(name: str) -> None:
    one = certified(certificate(name))
    assert re.match(CLIENT_ID, one.client_id)
    assert one.name.isascii()
    assert one.name.isprintable()


def test_without_a_subject_its_other_names_count() -> None:
    one = certified(certificate(None, others=("spiffe://example.org/ci",)))
    assert one.name == "spiffe-example.org-ci"
    assert certified(certificate(None, others=("spiffe://example.org/cd",))) != one


def test_without_any_name_it_is_nobody() -> None:
    with pytest.raises(NotPaired, match="names nobody"):
        certified(certificate(None))
