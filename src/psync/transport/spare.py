"""A second copy of the certificate of the daemon's CA, to put right the first one from.

    ca/ca-cert.pem    what clients pin; without it the daemon can neither show who it is nor tell
                      its clients from others
    ca/ca-cert.copy   the same bytes

Both are alike at every start of a daemon, which costs no cryptography. Where they are not, the one
that is sound wins: a CA's certificate is signed with its own key, so no bit of it changes unseen.
Nothing is made anew here: where neither is sound, that is said, and a person decides.
"""

from __future__ import annotations

import logging
import os

from psync.errors import TrustError
from psync.paths import free_path, write_atomic
from psync.text import printable

LARGEST = 64 * 1024
"""Bytes that are read of a certificate at most."""

logger = logging.getLogger("psync.authority")


def keep_copy(directory: str) -> None:
    """Have both files alike, as far as that can be; does nothing where there is no CA yet.

    The caller holds ``ca/lock``.

    Args:
        directory: of the CA.

    Raises:
        TrustError: a file cannot be read; or the certificate is damaged, and so is its copy.
    """
    path, spare = f"{directory}/ca-cert.pem", f"{directory}/ca-cert.copy"
    if not os.path.lexists(f"{directory}/ca-key.pem"):
        return  # a CA that begins anew, or one without its key, which is said elsewhere
    now, copy = _read(path), _read(spare)
    if now == copy:
        return
    if now is not None and _sound(now):
        _write(spare, now)
    elif copy is not None and _sound(copy):
        if now is not None:
            aside = free_path(f"{path}.damaged")
            os.rename(path, aside)
            what = f"was damaged and is set aside as {printable(aside)}"
        else:
            what = "was gone"
        _write(path, copy)
        logger.error("%s %s; it is restored from %s", printable(path), what, printable(spare))
    elif now is not None:
        raise TrustError(
            f"the certificate of the daemon's CA, {printable(path)}, is damaged, and there is no "
            "copy of it that is not",
            hint=f"restore it, or remove {printable(directory)} and pair every client again",
        )


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustError(f"cannot read {printable(path)}: {error.strerror}") from error


def _write(path: str, text: bytes) -> None:
    try:
        write_atomic(path, text)
    except OSError as error:  # a full disk: the other one is still there
        logger.warning("cannot write %s: %s", printable(path), error.strerror)


def _sound(text: bytes) -> bool:
    """Whether this is one certificate, whole, that is signed with its own key."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificate = x509.load_pem_x509_certificate(text)
        certificate.verify_directly_issued_by(certificate)
        return certificate.public_bytes(Encoding.PEM) == text
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion):
        return False
