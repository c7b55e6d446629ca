"""Which address of an invitation leads to the daemon that made it.

All are tried, each a little later than the one before, over TLS that verifies nothing: the daemon
is asked for its CA's certificate, and the SHA-256 of that must be the one in the invitation.
Nothing secret is sent here.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
import threading
from typing import Any

import msgspec

from psync.errors import (
    ConnectError,
    DaemonNotRunning,
    NotPaired,
    ProtocolError,
    PsyncError,
    Refused,
    WrongDaemon,
)
from psync.text import printable
from psync.transport.invitation import AGAIN, Invitation
from psync.transport.strangers import CA_PATH
from psync.transport.tls import explain

LOOK_TIMEOUT = 8.0
"""Seconds for one address to show its CA, the look-up of its name included."""

STAGGER = 0.25
"""Seconds that an address has before the next one is tried beside it."""

REACH = (
    "does psync-server listen there (psync-server status), and is a firewall between? "
    "psync-server invite --address names another address"
)
"""What to look at when an address cannot be reached."""

_LARGEST = 64 * 1024  # bytes of an HTTP answer
_LOOKS = 2  # at a peer that hangs up: a refusal that lost its alert looks like a cut connection
_REQUEST = f"GET {CA_PATH} HTTP/1.1\r\nHost: psync\r\nConnection: close\r\n\r\n".encode()


class Inviter(msgspec.Struct, frozen=True):
    """A daemon that showed the right CA.

    Attributes:
        address: host and port, as the invitation has them.
        family: of the socket that led there.
        sockaddr: the same address, resolved.
        ca: the CA's certificate (DER).
    """

    address: tuple[str, int]
    family: int
    sockaddr: Any
    ca: bytes

    @property
    def name(self) -> str:
        """The address for people."""
        return _name(self.address)


class DoorClosed(Refused):
    """The daemon demands a certificate: no invitation is outstanding there.

    Args:
        name: of its address.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this invitation has expired or was used: {name} pairs nobody now", hint=AGAIN
        )


async def find_inviter(invitation: Invitation) -> Inviter:
    """Return the first address that shows the right CA. Bounded in time.

    Raises:
        WrongDaemon: another daemon answers, or somebody in between.
        DoorClosed: the daemon demands a certificate, so it knows of no invitation.
        DaemonNotRunning, ConnectError: no address could be reached.
        ProtocolError: something else than a psync daemon answers.

    Cancellation closes what was opened.
    """
    failures: list[PsyncError] = []
    tasks: set[asyncio.Task[Inviter]] = set()
    waiting = list(invitation.addresses)
    try:
        while waiting or tasks:
            if waiting:
                tasks.add(asyncio.create_task(_look(waiting.pop(0), invitation.ca)))
            done, tasks = await asyncio.wait(
                tasks, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, PsyncError):
                    raise error
                failures.append(error)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    raise _verdict(failures)


def _verdict(failures: list[PsyncError]) -> PsyncError:
    """Return the error that says most about why no address was good."""
    for kind in (WrongDaemon, DoorClosed):
        for error in failures:
            if isinstance(error, kind):
                return error
    if len(failures) == 1:
        return failures[0]
    tried = "; ".join(error.message for error in failures)
    return ConnectError(f"no address in the invitation can be reached: {tried}", hint=REACH)


async def _look(address: tuple[str, int], ca: bytes) -> Inviter:
    """Return what ``address`` is, if it shows the certificate with the SHA-256 ``ca``."""
    name = _name(address)
    try:
        async with asyncio.timeout(LOOK_TIMEOUT):
            sock, family, sockaddr = await _connect(address)
            shown = await _shown(sock, name)
            for _ in range(_LOOKS - 1):
                if shown is None:
                    shown = await _shown(await open_socket(family, sockaddr), name)
    except TimeoutError:
        raise ConnectError(f"{name} does not answer", hint=REACH) from None
    except OSError as error:
        raise ConnectError(f"{name}: {error.strerror}", hint=REACH) from error
    if shown is None:
        raise DoorClosed(name)
    if not hmac.compare_digest(hashlib.sha256(shown).digest(), ca):
        raise WrongDaemon(
            f"what answers at {name} is not the daemon that made this invitation, or somebody is "
            "in between; the secret was not sent",
            hint="compare with psync-server invite on that host",
        )
    return Inviter(address, family, sockaddr, shown)


async def _shown(sock: socket.socket, name: str) -> bytes | None:
    """Ask for the CA's certificate; return it (DER), or None where the peer hangs up at once."""
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock, ssl=_unverified(), server_hostname=""
        )
    except OSError as error:
        sock.close()
        raise explain(error, name) or ConnectError(f"{name}: {printable(str(error))}") from error
    except BaseException:
        sock.close()
        raise
    said = b""
    try:
        writer.write(_REQUEST)
        while len(said) < _LARGEST and not _whole(said):
            chunk = await reader.read(_LARGEST)
            if not chunk:
                break
            said += chunk
    except OSError as error:
        known = explain(error, name)
        if isinstance(known, NotPaired):  # it demands a certificate in the handshake
            raise DoorClosed(name) from error
        if not said and isinstance(error, (ConnectionError, ssl.SSLEOFError)):
            return None
        raise known or ConnectError(f"{name}: {printable(str(error))}") from error
    finally:
        writer.transport.abort()
    return _certificate_in(said, name) if said else None


def _whole(said: bytes) -> bool:
    """Whether an HTTP answer is complete as far as it says how long it is."""
    head, blank, body = said.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.lower().split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value.strip()[:9])
    return False


def _certificate_in(said: bytes, name: str) -> bytes:
    """Return the certificate (DER) in an HTTP answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].split(b" ")
    if status[0] != b"HTTP/1.1" or len(status) < 2:
        raise not_psync(name)
    if status[1] == b"403":
        raise DoorClosed(name)
    if status[1] != b"200":
        raise not_psync(name)
    try:
        return ssl.PEM_cert_to_DER_cert(body.decode("ascii"))
    except ValueError:  # no PEM, no ASCII, no base64
        raise not_psync(name) from None


def _unverified() -> ssl.SSLContext:
    """Return a context that trusts everybody: the fingerprint is what is compared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# -- sockets -------------------------------------------------------------------------------


async def _connect(address: tuple[str, int]) -> tuple[socket.socket, int, Any]:
    """Return a connected socket, and how it was reached."""
    name = _name(address)
    failure: OSError | None = None
    for family, sockaddr in await _resolve(*address):
        try:
            return await open_socket(family, sockaddr), family, sockaddr
        except OSError as error:
            failure = error
    if isinstance(failure, ConnectionRefusedError):
        raise DaemonNotRunning(f"no daemon listens at {name}", hint=REACH)
    reason = failure.strerror if failure is not None else "no address"
    raise ConnectError(f"{name} cannot be reached: {reason}", hint=REACH)


async def open_socket(family: int, sockaddr: Any) -> socket.socket:
    """Return a connected socket; raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _resolve(host: str, port: int) -> list[tuple[int, Any]]:
    """Return the addresses of ``host``.

    In a thread that nobody waits for: the event loop's own would keep psync from ending while a
    name server is silent.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[tuple[int, Any]]] = loop.create_future()

    def settle(found: list[tuple[int, Any]], error: PsyncError | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(found)

    def look_up() -> None:
        found: list[tuple[int, Any]] = []
        error: PsyncError | None = None
        try:
            for family, _, _, _, sockaddr in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            ):
                found.append((family, sockaddr))
        except (OSError, UnicodeError):
            error = ConnectError(f"the name {host} is not known here", hint=REACH)
        try:
            loop.call_soon_threadsafe(settle, found, error)
        except RuntimeError:
            return  # the loop was not interested any more

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    return await result


def _name(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def not_psync(name: str) -> ProtocolError:
    """Return the error for something else at the address ``name``."""
    return ProtocolError(f"what listens at {name} is not a psync daemon that pairs by invitation")
