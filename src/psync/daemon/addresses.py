"""Under which addresses clients elsewhere may reach a daemon, as far as this host can know.

A daemon that listens on every address says ``0.0.0.0``, which is none to connect to. What is asked
instead, without packets being sent: which address the kernel would take for the world outside, then
each network interface (on Linux), then what the host's own name stands for.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_INTERNAL = ("docker", "br-", "veth", "virbr", "lxcbr", "lxdbr", "cni", "podman")
"""Beginnings of the names of interfaces that lead to this host's own containers and guests."""

_OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses in networks for documentation (RFC 5737, RFC 3849): nobody is there."""

_SIOCGIFADDR = 0x8915  # from Linux's <linux/sockios.h>


def reachable(listen: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Return (host, port) pairs for a daemon that listens on ``listen``, the likeliest first.

    Args:
        listen: ``host:port`` as in ``listening.Presence``.

    Returns:
        Where ``0.0.0.0`` or ``[::]`` is among them, this host's addresses and its name. Addresses
        of this host alone (127.0.0.1) only where there are no others.
    """
    outside: list[tuple[str, int]] = []
    inside: list[tuple[str, int]] = []
    named: list[tuple[str, int]] = []
    for entry in listen:
        host, _, digits = entry.rpartition(":")
        host, port = host.strip("[]"), int(digits)
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:  # a socket that somebody else made, of some other kind
            continue
        if address.is_unspecified:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            outside += [(own, port) for own in own_addresses(family)]
            named += [(name, port) for name in _names()]
            inside.append(("127.0.0.1" if address.version == 4 else "::1", port))
        elif address.is_loopback:
            inside.append((host, port))
        elif not address.is_link_local:
            outside.append((host, port))
    return tuple(dict.fromkeys(outside + named)) or tuple(dict.fromkeys(inside))


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address that leads to the very host it is used on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_addresses(family: int) -> tuple[str, ...]:
    """Return this host's addresses of one family, without loopback and link-local ones."""
    found = [*_default(family), *_of_interfaces(family), *_of_name(family)]
    good = dict.fromkeys(address for address in found if _usable(address))
    return tuple(good)


def _default(family: int) -> Iterator[str]:
    """What the kernel would send from; connecting a datagram socket sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((_OUTSIDE[socket.AddressFamily(family)], 9))
            yield str(sock.getsockname()[0])
    except OSError:  # no such family, no route
        return


def _of_interfaces(family: int) -> Iterator[str]:
    if family == socket.AF_INET6:
        yield from _in_if_inet6()
        return
    try:
        names = [name for _, name in socket.if_nameindex() if not name.startswith(_INTERNAL)]
    except OSError:
        return
    if not os.path.isdir("/proc/sys/net/ipv4"):  # the request below is Linux's
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in names:
            try:
                request = struct.pack("256s", os.fsencode(name)[:15])
                answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has none
                continue
            yield socket.inet_ntoa(answer[20:24])


def _in_if_inet6() -> Iterator[str]:
    try:
        with open("/proc/net/if_inet6", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split()
        if len(words) == 6 and not words[5].startswith(_INTERNAL):
            yield str(ipaddress.IPv6Address(int(words[0], 16)))


def _of_name(family: int) -> Iterator[str]:
    try:
        found = socket.getaddrinfo(
            socket.gethostname(), None, family=family, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return
    for *_, sockaddr in found:
        yield str(sockaddr[0])


def _usable(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # with a scope
        return False
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
    )


def _names() -> Iterator[str]:
    name = socket.gethostname()
    if name.partition(".")[0] != "localhost":
        yield name
