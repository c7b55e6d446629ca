"""Pairing on the daemon's side: a request in, a certificate out, the client in the list.

Over ssh, ``psync-server enroll`` calls ``enroll``: who may log in may be paired. Without ssh the
daemon's listener hands what a stranger sends to ``InvitedPairing``, which wants an invitation.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from psync.daemon.access import AccessList
from psync.daemon.audit import Audit
from psync.daemon.clientlist import Role, Via
from psync.daemon.invitations import InvitationRecord, InvitationRefused, Invitations
from psync.errors import ProtocolError, PsyncError, TrustError
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.text import printable
from psync.transport.authority import Authority
from psync.transport.enrolment import (
    EnrolAnswer,
    EnrolRefused,
    EnrolRequest,
    decode_invited,
    decode_request,
    encode,
)
from psync.transport.invitation import AGAIN

logger = logging.getLogger("psync.enroll")


def enroll(
    paths: ServerPaths,
    request: bytes,
    *,
    listen_info: Callable[[], tuple[int, tuple[str, ...]]],
    facts: Callable[[], HostFacts],
    via: Via = "ssh",
    address: str = "",
    now: float | None = None,
) -> EnrolAnswer:
    """Pair one client. Whoever calls this has made sure that the client may be paired.

    The CA is made where there is none. A daemon that runs takes note by itself.

    Args:
        paths: the daemon's directories.
        request: an encoded ``EnrolRequest``.
        listen_info: says on which port and addresses the daemon listens.
        facts: says what is true of this host.
        via: how the client got here.
        address: from where it is paired; empty where nobody knows.
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
    where, host = listen_info(), facts()
    return _sign(paths, asked, where, host, via=via, address=address, now=now)


class InvitedPairing:
    """Pairs strangers who hold an invitation; see ``transport.strangers.Pairing``.

    Args:
        paths: the daemon's directories.
        invitations: the outstanding ones.
        listen_info: says on which port and addresses the daemon listens.
        facts: says what is true of this host.

    Raises:
        OSError: there is no CA.
    """

    def __init__(
        self,
        paths: ServerPaths,
        invitations: Invitations,
        *,
        listen_info: Callable[[], tuple[int, tuple[str, ...]]],
        facts: Callable[[], HostFacts],
    ) -> None:
        self._paths = paths
        self._invitations = invitations
        self._listen_info = listen_info
        self._facts = facts
        with open(f"{paths.ca}/ca-cert.pem", "rb") as file:
            self._ca = file.read(64 * 1024)

    @property
    def open(self) -> bool:
        """Whether an invitation is outstanding now; costs one ``stat``."""
        return self._invitations.open

    @property
    def ca(self) -> bytes:
        """The certificate of the daemon's CA (PEM)."""
        return self._ca

    async def answer(self, payload: bytes, address: str) -> tuple[bytes, bool]:
        """Return what is sent back to a stranger, and whether that is not its fault.

        It is where its invitation, or what it sent, is not good; not where this daemon's files are
        to blame, such as on a full disk.

        Locks and cryptography are slow, so they are left to a thread. Cancellation does not stop
        that: an invitation may be used up and a client paired that never hears of it.

        Args:
            payload: an encoded ``InvitedRequest``, or anything else.
            address: where the stranger is.
        """
        where, host = self._listen_info(), self._facts()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._answer, payload, address, where, host)

    def _answer(
        self, payload: bytes, address: str, where: tuple[int, tuple[str, ...]], host: HostFacts
    ) -> tuple[bytes, bool]:
        try:
            invited = decode_invited(payload)
            invitation = self._invitations.redeem(bytes.fromhex(invited.secret), address)
        except InvitationRefused as error:
            for record in error.withdrawn:
                Audit(self._paths.audit).write(
                    "withdrawn",
                    name=record.name,
                    address=address,
                    reason=f"invitation {record.id}, after too many wrong ones",
                )
            return encode(EnrolRefused.of(error)), False
        except ProtocolError as error:
            return encode(EnrolRefused.of(error)), False
        except (PsyncError, OSError) as error:
            logger.error("pairing by invitation failed: %s", printable(str(error)))
            return encode(EnrolRefused.of(_trouble(error))), True
        logger.info("invitation %s was used from %s", invitation.id, address)
        try:
            answer = _sign(
                self._paths,
                invited.request,
                where,
                host,
                invitation=invitation,
                via="invitation",
                address=address,
            )
        except (PsyncError, OSError) as error:
            # It stays used: one that can be used again after a failure is not for one use.
            logger.error("invitation %s: pairing failed: %s", invitation.id, printable(str(error)))
            reason = error.message if isinstance(error, PsyncError) else error.strerror
            failure = TrustError(
                f"the invitation is used up, and pairing failed: {reason}", hint=AGAIN
            )
            return encode(EnrolRefused.of(failure)), True
        return encode(answer), True


def _trouble(error: PsyncError | OSError) -> TrustError:
    """Say to a stranger that its invitation could not be used; it is as good as before.

    The names of files are not for strangers. What the system said is: only then is a full disk
    known for what it is.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = f": {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else ""
    hint = "the invitation was not used; its daemon's log says more"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "the invitation was not used: free some space on the daemon host, then try again"
    return TrustError(f"the daemon cannot pair anybody now{reason}", hint=hint)


def _sign(
    paths: ServerPaths,
    asked: EnrolRequest,
    where: tuple[int, tuple[str, ...]],
    host: HostFacts,
    *,
    via: Via,
    address: str,
    invitation: InvitationRecord | None = None,
    now: float | None = None,
) -> EnrolAnswer:
    """Make the certificate and note the client; raises as ``enroll``."""
    name = asked.name if invitation is None or not invitation.name else invitation.name
    authority = Authority.load_or_create(paths.ca, now)
    signed = authority.sign_client(asked.csr, name, now)
    # The ID decides whose entry is replaced; only who holds the key may use it.
    if not asked.client_id.endswith(f"-{signed.key_id}"):
        raise ProtocolError("the client's ID does not belong to the key in its request")
    # What an invitation does not limit stays as it was: pairing again is no way out of limits.
    role: Role | None = None
    projects: tuple[str, ...] | None = None
    if invitation is not None:
        role = invitation.role if invitation.role != "run" else None
        projects = invitation.projects or None
    record = AccessList(paths.clients).add(
        name=name,
        client_id=asked.client_id,
        fingerprint=signed.fingerprint,
        expires=signed.expires,
        role=role,
        projects=projects,
        via=via,
        address=address,
        now=now,
    )
    how = "" if invitation is None else f"invitation {invitation.id}"
    Audit(paths.audit).write("paired", record, address=address, reason=how)
    port, listen = where
    return EnrolAnswer(
        client_cert=signed.pem,
        ca_cert=authority.certificate,
        server_name=authority.server.name,
        port=port,
        listen=listen,
        facts=host,
    )
