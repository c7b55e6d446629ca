"""Whether a daemon has reason to refuse this client's certificate, as far as this side can tell.

A daemon that refuses a certificate in the TLS 1.3 handshake hangs up, and the alert that says why
may never leave it (aiofastnet drops it, on the daemon's side). What the client sees then is the end
of the connection, which is also what a cut looks like, so it proves nothing. The certificate itself
does: its dates, and who signed it.
"""

from __future__ import annotations

import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID


def fault_of(certificate: str, ca: str, *, own: bool = False, now: float | None = None) -> str:
    """Say what is wrong with a client's certificate; empty where nothing is, or nobody can tell.

    Args:
        certificate: its file (PEM).
        ca: file with the CA of the daemon (PEM).
        own: these are of the user's own PKI: what signs clients may be another authority than the
            daemon's, so only the dates count.
        now: seconds since the epoch, by default the clock's.
    """
    now = time.time() if now is None else now
    try:
        mine, authority = _read(certificate), _read(ca)
    except (OSError, ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
        return ""
    if now > mine.not_valid_after_utc.timestamp():
        return "this client's certificate has expired"
    if now < mine.not_valid_before_utc.timestamp():
        return "this client's certificate is not valid yet; compare the clocks of both hosts"
    if own:
        return ""
    try:
        mine.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return "this client's certificate is from another authority than the daemon's"
    try:
        usage = mine.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        usage = x509.ExtendedKeyUsage([])
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        return "this client's certificate is not one for clients"
    return ""


def _read(path: str) -> x509.Certificate:
    """Return the first certificate of a file (PEM)."""
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())
