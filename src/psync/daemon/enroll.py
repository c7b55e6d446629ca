"""Pairing on the daemon's side: a request in, a certificate out, the client in the list."""

from __future__ import annotations

from collections.abc import Callable

from psync.daemon.access import AccessList
from psync.errors import ProtocolError
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.transport.authority import Authority
from psync.transport.enrolment import EnrolAnswer, decode_request


def enroll(
    paths: ServerPaths,
    request: bytes,
    *,
    listen_info: Callable[[], tuple[int, tuple[str, ...]]],
    facts: Callable[[], HostFacts],
    now: float | None = None,
) -> EnrolAnswer:
    """Pair one client. Whoever calls this has made sure that the client may be paired.

    The CA is made where there is none. A daemon that runs takes note by itself.

    Args:
        paths: the daemon's directories.
        request: an encoded ``EnrolRequest``.
        listen_info: says on which port and addresses the daemon listens.
        facts: says what is true of this host.
        now: seconds since the epoch, by default the clock's.

    Returns:
        What the client needs. Until it has arrived there, pairing may simply be repeated: the entry
        of the first time is replaced.

    Raises:
        ProtocolError: the request is damaged, of another version, or not for the client's own key.
        TrustError: the CA or the list of clients cannot be used.
        ConfigError: a directory cannot be made, or is not private.
    """
    asked = decode_request(request)
    port, listen = listen_info()
    host = facts()
    authority = Authority.load_or_create(paths.ca, now)
    signed = authority.sign_client(asked.csr, asked.name, now)
    # The ID decides whose entry is replaced; only who holds the key may use it.
    if not asked.client_id.endswith(f"-{signed.key_id}"):
        raise ProtocolError("the client's ID does not belong to the key in its request")
    AccessList(paths.clients).add(
        name=asked.name,
        client_id=asked.client_id,
        fingerprint=signed.fingerprint,
        expires=signed.expires,
        now=now,
    )
    return EnrolAnswer(
        client_cert=signed.pem,
        ca_cert=authority.certificate,
        server_name=authority.server.name,
        port=port,
        listen=listen,
        facts=host,
    )
