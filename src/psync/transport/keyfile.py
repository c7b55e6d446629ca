"""Private keys in files: ECDSA P-256, PKCS #8 in PEM, for their owner's eyes only.

P-256 because every TLS 1.3 implementation must have it (RFC 8446, 9.1); Ed25519 is optional there.
``cryptography`` is imported inside functions: who only checks a file does not pay for it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from psync.errors import TrustError
from psync.paths import write_atomic
from psync.text import printable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )


def check_key_file(path: str) -> None:
    """Make sure that the private key in ``path`` is private.

    It must be an ordinary file of this user's that nobody else may read or write. A key of root's,
    as a system-wide certificate has, may also be read by a group: that is how distributions let a
    service have it.

    Raises:
        TrustError: it is not so; what to change stands in the hint.
        OSError: the file cannot be looked at.
    """
    status = os.stat(path)
    shown = printable(path)
    if not stat.S_ISREG(status.st_mode):
        raise TrustError(f"the private key {shown} is not a file")
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise TrustError(
            f"the private key {shown} belongs to another user (uid {status.st_uid}, "
            f"this is {user})",
            hint="use a key of your own",
        )
    forbidden = 0o077 if status.st_uid == user else 0o037
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise TrustError(
            f"the private key {shown} can be read by others (mode {mode:04o})",
            hint=f"chmod 0600 {shown}, and pair anew if somebody else may have read it",
        )


def load_key(path: str) -> EllipticCurvePrivateKey:
    """Return the private key in the file ``path``.

    Raises:
        FileNotFoundError: there is none.
        TrustError: others may read it, it is damaged, or it is not of psync's kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        check_key_file(path)
        with open(path, "rb") as file:
            pem = file.read(64 * 1024)
        key = load_pem_private_key(pem, password=None)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TrustError(f"cannot read the key {printable(path)}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TrustError(
            f"the private key {printable(path)} is damaged",
            hint="restore it, or move it away and pair again",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(
            f"the private key {printable(path)} is not an ECDSA P-256 key",
            hint="restore it, or move it away and pair again",
        )
    return key


def load_or_create_key(path: str) -> EllipticCurvePrivateKey:
    """Return the private key in ``path``, made now if the file does not exist.

    The caller holds a lock: of two processes that do this at once, one would lose its key.

    Raises:
        TrustError: as from ``load_key``.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    try:
        return load_key(path)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        # unencrypted: it is used without anybody there to ask for a passphrase
        write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return key


def key_id(public_key: EllipticCurvePublicKey) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a public key (DER, SPKI)."""
    import hashlib

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]
