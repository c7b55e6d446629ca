"""The client's identity: a private key that never leaves this host, and an ID made from it.

    identity/key.pem   ECDSA P-256, PKCS #8, mode 0600
    identity/id        the client's ID, so that the common path reads a line and no key

``cryptography`` is imported inside functions: only pairing needs it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Self

from psync.paths import private_directory, write_atomic
from psync.transport.filelock import FileLock
from psync.transport.keyfile import key_id, load_or_create_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CLIENT_ID = r"\A[a-z0-9][a-z0-9-]{0,30}-[0-9a-f]{16}\Z"
"""What a client's ID looks like: a short host name, then 16 hexadecimal digits of the key. It goes
into project IDs and so into paths (and ``$`` would let a line break through)."""

_SLUG_LENGTH = 24
_NAME_LENGTH = 48  # of a certificate's common name, which may have 64 (RFC 5280, ub-common-name)


class ClientIdentity:
    """Who this client is.

    Attributes:
        directory: where it is kept.
        key: path of the private key.
        client_id: the client's ID; the same as long as the key is.
    """

    def __init__(self, directory: str, client_id: str, private_key: EllipticCurvePrivateKey):
        self.directory = directory
        self.key = key_path(directory)
        self.client_id = client_id
        self._private_key = private_key

    @classmethod
    def load_or_create(cls, directory: str) -> Self:
        """Return the identity in ``directory``, made now if there is none.

        Two processes that do this at the same time get the same one.

        Raises:
            TrustError: the key is damaged, not of psync's kind, or others may read it.
            ConfigError: the directory cannot be made, or is not private.
        """
        private_directory(directory, exclusive=True)
        with FileLock(f"{directory}/lock"):
            key = load_or_create_key(key_path(directory))
            # A file that does not fit the key (someone replaced it) is written anew.
            client_id = read_client_id(directory)
            digits = key_id(key.public_key())
            if client_id is None or not client_id.endswith(f"-{digits}"):
                client_id = f"{_host_slug()}-{digits}"
                write_atomic(f"{directory}/id", f"{client_id}\n".encode())
        return cls(directory, client_id, key)

    def csr(self, common_name: str) -> bytes:
        """Return a certificate request (PEM) for this client's key.

        Args:
            common_name: a name for people, made safe; the daemon may choose another.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import NameOID

        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, safe_name(common_name))])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        return request.sign(self._private_key, SHA256()).public_bytes(Encoding.PEM)


def key_path(directory: str) -> str:
    """Return the path of the private key in the identity ``directory``."""
    return f"{directory}/key.pem"


def read_client_id(directory: str) -> str | None:
    """Return the client's ID, or None where there is no identity yet (or its ID is unreadable).

    Reads one line and needs no cryptography; ``ClientIdentity.load_or_create`` makes and repairs.
    """
    try:
        with open(f"{directory}/id", "rb") as file:
            found = file.read(200).decode("ascii", "replace").strip()
    except OSError:
        return None
    return found if re.match(CLIENT_ID, found) else None


def safe_name(name: str) -> str:
    """Return ``name`` as something that can be typed, printed and put into a certificate.

    Letters, digits, ``.``, ``_`` and ``-`` of ASCII stay; anything else becomes ``-``.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:_NAME_LENGTH].strip("-.")
    return safe or "client"


def _host_slug() -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", os.uname().nodename.partition(".")[0].lower())
    return slug[:_SLUG_LENGTH].strip("-") or "client"
