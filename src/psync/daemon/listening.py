"""The sockets the daemon listens on, and the note that says where it does."""

from __future__ import annotations

import errno
import os
import socket

import msgspec

from psync.errors import PsyncError
from psync.paths import write_atomic


class ListenError(PsyncError):
    """The daemon cannot listen where it was told to."""

    code = "listen"


class Presence(msgspec.Struct, frozen=True):
    """What a daemon says about itself in ``daemon.json``.

    Attributes:
        pid: its process ID.
        listen: addresses as ``host:port``.
        port: the port of the first address.
        started: seconds since the epoch.
        software: program and version.
    """

    pid: int
    listen: tuple[str, ...]
    port: int
    started: float
    software: str


def read_presence(path: str) -> Presence | None:
    """Return what the last daemon wrote to ``path``; whether it still lives, its lock says."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(64 * 1024), type=Presence)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def write_presence(path: str, presence: Presence) -> None:
    """Write ``presence`` to ``path`` in one step."""
    write_atomic(path, msgspec.json.encode(presence))


def bind(addresses: list[tuple[str, int]], *, last_port: int) -> list[socket.socket]:
    """Return one bound socket per address.

    Args:
        addresses: (host, port); port 0 takes ``last_port`` where it is free, else any.
        last_port: the port of the daemon before this one, 0 if there was none. Staying on it saves
            clients a look-up over ssh.

    Raises:
        ListenError: an address is not this host's, the port is in use or not allowed.
    """
    sockets: list[socket.socket] = []
    try:
        for host, port in addresses:
            if port == 0 and last_port:
                try:
                    sockets.append(_bind(host, last_port))
                    continue
                except ListenError:
                    pass  # somebody else has it by now; any free port will do
            sockets.append(_bind(host, port))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def name_of(sock: socket.socket) -> str:
    """Return ``host:port`` of a bound socket, IPv6 in brackets."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # the latter: it cannot be a name at all
        reason = error.strerror if isinstance(error, OSError) else "there is no such name"
        raise ListenError(
            f"cannot listen on {where}: {reason}",
            hint="name an address of this host with --listen",
        ) from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # a bound port is not enough on Linux: a second listener is refused only here
        sock.listen(1)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno or 0)
        hints = {
            errno.EADDRINUSE: "another program listens there; choose another port with --listen",
            errno.EACCES: "ports below 1024 need privileges; choose a higher one with --listen",
            errno.EADDRNOTAVAIL: "name an address of this host with --listen",
        }
        raise ListenError(
            f"cannot listen on {where}: {reason}", hint=hints.get(error.errno or 0, "")
        ) from error
    return sock
