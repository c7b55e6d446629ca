"""New certificates for clients whose own end soon, and who are let in with them."""

from __future__ import annotations

import asyncio
import time

from psync.daemon.access import AccessList, ClientRecord
from psync.errors import NotPaired, Refused
from psync.paths import ServerPaths

NOT_DUE = 180 * 86400.0
"""A certificate that is valid for longer than this, in seconds, is not renewed."""


async def renew(
    paths: ServerPaths, client: ClientRecord, in_use: str, csr: bytes, now: float | None = None
) -> tuple[bytes, float]:
    """Return a new certificate (PEM) for a connected client, and when it ends.

    The one in use stays valid until the new one is used for the first time: should the answer get
    lost, the client just asks again. Works in a thread; cancelling it leaves that to its end.

    Args:
        paths: the daemon's directories.
        client: who asks.
        in_use: fingerprint of the certificate that it asks with.
        csr: a certificate request (PEM) for the same key.
        now: seconds since the epoch, by default the clock's.

    Raises:
        Refused: the request is for another key, it is too early, or the certificate is not psync's.
        ProtocolError: the request is damaged.
        NotPaired: the client was revoked.
        TrustError: the CA or the list of clients cannot be used.
    """
    return await asyncio.to_thread(_renew, paths, client, in_use, csr, now)


def _renew(
    paths: ServerPaths, client: ClientRecord, in_use: str, csr: bytes, now: float | None
) -> tuple[bytes, float]:
    from psync.transport.authority import Authority

    now = time.time() if now is None else now
    access = AccessList(paths.clients)
    known = access.find(in_use)
    if known is None or known.client_id != client.client_id:
        raise NotPaired(
            "the daemon does not take this client's certificate any more",
            hint="run: psync pair HOST",
        )
    if known.via == "certificate":
        raise Refused(
            "this client's certificate is not the daemon's own",
            hint="it is renewed where it was made",
        )
    if known.end_of(in_use) - now > NOT_DUE:
        raise Refused("this client's certificate is not to be renewed yet")
    authority = Authority.load_or_create(paths.ca, now)
    signed = authority.sign_client(csr, known.name, now)
    if not known.client_id.endswith(f"-{signed.key_id}"):
        raise Refused("a certificate is renewed for the same key only")
    access.renewed(known, fingerprint=signed.fingerprint, expires=signed.expires, in_use=in_use)
    return signed.pem, signed.expires
