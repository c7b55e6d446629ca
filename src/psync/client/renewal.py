"""A new certificate for this client, fetched in the background before the old one ends.

    python -m psync.client.renewal IDENTITY CERTIFICATE

makes the request. That is a process of its own: ``cryptography`` takes a tenth of a second to
import, during which a thread of it would hold up the user's output, and a process can be ended at
any moment. Nothing in here delays or fails what the user asked for: where something does not work
out, the next psync tries again, a third of a year long.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from psync.client.targets import TargetFiles, TargetRecord
from psync.errors import PsyncError, TrustError
from psync.paths import ClientPaths, write_atomic
from psync.protocol.messages import CertificateRenewed, RenewCertificate
from psync.transport.filelock import FileLock
from psync.transport.identity import key_path
from psync.transport.tls import client_context

MAKING = 20.0
"""Seconds that making a request may take; a small board needs a few."""

Ask = Callable[[Callable[[int], RenewCertificate]], Awaitable[CertificateRenewed]]
"""Sends a numbered request and returns its answer; see ``Lifeline.request``."""


class Draft(msgspec.Struct, frozen=True):
    """What the process says.

    Attributes:
        ends: when the certificate on disk ends, in seconds since the epoch.
        csr: the request (PEM).
    """

    ends: float
    csr: bytes


async def renew(
    ask: Ask, paths: ClientPaths, name: str, record: TargetRecord, expires: float
) -> bool:
    """Renew the certificate for one daemon; return whether there is a new one now.

    Args:
        ask: sends the request.
        paths: the client's directories.
        name: the target that is connected.
        record: what is known of it. Other targets that lead to the same daemon get the new
            certificate, too.
        expires: when the certificate in use ends, as the daemon says.

    Never raises but for cancellation, which leaves the old certificates or the new ones, and no
    process.
    """
    try:
        # One process at a time: of two answers the daemon takes only the later one.
        with FileLock(f"{paths.identity}/renewal.lock", timeout=0.0):
            files = TargetFiles(paths, name)
            draft = await _draft(paths.identity, files.certificate)
            if draft is None or abs(draft.ends - expires) >= 1:
                return False  # another process has just renewed it
            answer = await ask(lambda number: RenewCertificate(request=number, csr=draft.csr))
            _write(paths, files, record, answer.certificate)
    except (PsyncError, OSError, ValueError, msgspec.MsgspecError):
        return False
    return True


def _write(
    paths: ClientPaths, files: TargetFiles, record: TargetRecord, certificate: bytes
) -> None:
    """Replace the certificates, once it is sure that the new one is any good."""
    from psync.client.pairing import same_daemon

    new = f"{files.certificate}.new"
    write_atomic(new, certificate)
    try:
        client_context(files.ca, new, key_path(paths.identity))  # raises unless it fits the key
    finally:
        os.unlink(new)
    for other in (*same_daemon(paths, record), files):
        write_atomic(other.certificate, certificate)


async def _draft(identity: str, certificate: str) -> Draft | None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "psync.client.renewal",
        identity,
        certificate,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the run
    )
    try:
        async with asyncio.timeout(MAKING):
            said, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return msgspec.json.decode(said, type=Draft) if process.returncode == 0 else None


def main(identity: str, certificate: str) -> int:
    """Write a ``Draft`` to stdout."""
    from cryptography import x509

    from psync.transport.identity import ClientIdentity

    try:
        with open(certificate, "rb") as file:
            ends = x509.load_pem_x509_certificate(file.read()).not_valid_after_utc.timestamp()
        csr = ClientIdentity.load_or_create(identity).csr(os.uname().nodename or "client")
    except (OSError, ValueError, PsyncError):
        return TrustError.exit_status
    sys.stdout.buffer.write(msgspec.json.encode(Draft(ends, csr)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
