"""The sockets the daemon listens on, and the note that says where it does."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from psync.errors import PsyncError
from psync.paths import write_atomic
from psync.text import printable

FIRST_DESCRIPTOR = 3
"""Of those that systemd hands over (SD_LISTEN_FDS_START)."""

MOST_DESCRIPTORS = 64

ATTEMPTS = 8
"""How often a free port is looked for that is free on all addresses of a name."""


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
    """Write ``presence`` to ``path`` in one step.

    On a full disk it takes the place of the last one: clients have to find the daemon that they are
    to make room with.

    Raises:
        OSError: it cannot be written; what stood there is untouched, or of no use.
    """
    text = msgspec.json.encode(presence)
    try:
        write_atomic(path, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(fd, text, 0) != len(text):
                raise
            os.ftruncate(fd, len(text))
        finally:
            os.close(fd)


def bind(addresses: list[tuple[str, int]], *, last_port: int) -> list[socket.socket]:
    """Return bound sockets, at least one per address, in order.

    A host name that stands for several addresses is bound on all that this host has, on one port.
    An IPv6 socket takes no IPv4 connections, so that ``0.0.0.0`` and ``[::]`` do not collide.

    Args:
        addresses: (host, port); port 0 takes that of the address before, else ``last_port``, where
            it is free, else any.
        last_port: the port of the daemon before this one, 0 if there was none. Staying on it saves
            clients a look-up over ssh.

    Raises:
        ListenError: an address is not this host's, the port is in use or not allowed.
    """
    sockets: list[socket.socket] = []
    try:
        for host, port in dict.fromkeys(addresses):
            if port:
                sockets += _bind(host, port)
                continue
            wanted = [*(sock.getsockname()[1] for sock in sockets[-1:]), last_port]
            for choice in [*dict.fromkeys(port for port in wanted if port), 0]:
                try:
                    sockets += _bind(host, choice)
                    break
                except ListenError:
                    if not choice:
                        raise
                    # somebody else has it; another port will do
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def handed_over(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that systemd gave this process, none if it gave none.

    The protocol is sd_listen_fds(3): descriptors from 3 on, for the process that ``LISTEN_PID``
    names. Call it before anything is started that could inherit them.

    Args:
        environ: this process's; the variables are removed: they are not for runs.

    Raises:
        ListenError: a descriptor is no listening TCP socket; all of them are closed then.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not count.isascii() or not count.isdigit():
        return []
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + min(int(count), MOST_DESCRIPTORS))
    sockets: list[socket.socket] = []
    try:
        for number, descriptor in enumerate(descriptors):
            name = names[number] if number < len(names) else ""
            sockets.append(_take_over(descriptor, name))
    except BaseException:
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
        for sock in sockets:
            sock.detach()
        raise
    return sockets


def name_of(sock: socket.socket) -> str:
    """Return ``host:port`` of a bound socket, IPv6 in brackets."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _bind(host: str, port: int) -> list[socket.socket]:
    """Bind all addresses of ``host`` that this host has, on one port."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:  # the latter: it cannot be a name at all
        reason = error.strerror if isinstance(error, OSError) else "there is no such name"
        raise ListenError(
            f"cannot listen on {where}: {reason}",
            hint="name an address of this host with --listen",
        ) from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for attempt in range(ATTEMPTS):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            # a free port was chosen for the first address, and is not free for the second one
            again = error.errno == errno.EADDRINUSE and not port and attempt < ATTEMPTS - 1
            if not again:
                hints = {
                    errno.EADDRINUSE: "another program listens there, or another address of "
                    "--listen covers it; choose another port with --listen",
                    errno.EACCES: "ports below 1024 need privileges; choose a higher one with "
                    "--listen",
                    errno.EADDRNOTAVAIL: "name an address of this host with --listen",
                }
                raise ListenError(
                    f"cannot listen on {where}: {os.strerror(error.errno or 0)}",
                    hint=hints.get(error.errno or 0, ""),
                ) from error
    raise AssertionError("the last attempt returns or raises")


def _bind_all(addresses: Sequence[tuple[int, Any]], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sock = _bind_one(family, (address[0], port, *address[2:]))
            except OSError as error:
                # localhost stands for ::1, too, on hosts that have no IPv6
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if absent is not None and not sockets:
            raise absent
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind_one(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        # a bound port is not enough on Linux: a second listener is refused only here
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    return sock


def _take_over(descriptor: int, name: str) -> socket.socket:
    what = f"descriptor {descriptor}" + (f" ({printable(name)})" if name else "")
    hint = "write ListenStream=ADDRESS:PORT, and Accept=no, into the systemd socket unit"
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{what}, handed over by systemd, is no socket", hint=hint) from error
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            raise ListenError(f"{what}, handed over by systemd, is no TCP socket", hint=hint)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(f"{what}, handed over by systemd, does not listen", hint=hint)
        sock.set_inheritable(False)
    except BaseException:
        sock.detach()  # closed with the others
        raise
    return sock
