"""Who a client is that no pairing made known, but a certificate of one of the user's authorities.

Its ID is made of what the authority calls it (issuer and subject, or the alternative names where
the subject is empty), not of its key: a certificate that is issued anew, as many authorities do
daily, is still the same client, and one that was revoked here stays out.
"""

from __future__ import annotations

import hashlib
import re

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from psync.errors import NotPaired
from psync.transport.identity import safe_name

_SLUG = 24


class Certified(msgspec.Struct, frozen=True):
    """A client with a certificate of its own.

    Attributes:
        name: for people, made safe.
        client_id: in the form of ``identity.CLIENT_ID``.
        expires: when the certificate ends, in seconds since the epoch.
    """

    name: str
    client_id: str
    expires: float


def certified(certificate: bytes) -> Certified:
    """Return who shows this certificate (DER), which TLS has verified.

    Raises:
        NotPaired: it names nobody.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    subject = parsed.subject
    called = subject.public_bytes()
    names = [str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not list(subject):
        try:
            others = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            raise NotPaired(
                "this client's certificate names nobody: it has neither subject nor subjectAltName",
                hint="have one made with a name in it",
            ) from None
        called = others.public_bytes()
        names = [str(one.value) for one in others]
    digits = hashlib.sha256(parsed.issuer.public_bytes() + b"\0" + called).hexdigest()[:16]
    name = safe_name(names[0] if names else subject.rfc4514_string())
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_SLUG].strip("-") or "client"
    return Certified(name, f"{slug}-{digits}", parsed.not_valid_after_utc.timestamp())
