"""What a daemon that listens everywhere tells others to connect to."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from psync.daemon import addresses as module
from psync.daemon.addresses import is_loopback, own_addresses, reachable


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {socket.AF_INET: ("192.0.2.20", "10.9.8.7"), socket.AF_INET6: ("2001:db8::7",)}
    monkeypatch.setattr(module, "own_addresses", lambda family: own[family])
    monkeypatch.setattr(socket, "gethostname", lambda: "box")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (["127.0.0.1:9"], [("127.0.0.1", 9)]),
        (["[::1]:9"], [("::1", 9)]),
        (["192.0.2.5:9"], [("192.0.2.5", 9)]),
        (["127.0.0.1:9", "192.0.2.5:10"], [("192.0.2.5", 10)]),
        (["0.0.0.0:9"], [("192.0.2.20", 9), ("10.9.8.7", 9), ("box", 9)]),
        (["[::]:9"], [("2001:db8::7", 9), ("box", 9)]),
        (
            ["0.0.0.0:9", "[::]:9"],
            [("192.0.2.20", 9), ("10.9.8.7", 9), ("2001:db8::7", 9), ("box", 9)],
        ),
        (["[fe80::1]:9"], []),
        ([], []),
        (["/run/psync.sock:1"], []),
    ],
)
def test_where_to_look(listen: list[str], expected: list[tuple[str, int]]) -> None:
    assert list(reachable(listen)) == expected


def test_a_host_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_addresses", lambda _family: ())
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert reachable(["0.0.0.0:9"]) == (("127.0.0.1", 9),)
    assert reachable(["[::]:9"]) == (("::1", 9),)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_addresses_of_this_very_host(family: int) -> None:
    """Each of them is one that can be bound here, and that others could use."""
    found = own_addresses(family)
    assert len(set(found)) == len(found)
    for text in found:
        address = ipaddress.ip_address(text)
        assert not address.is_loopback
        assert not address.is_link_local
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((text, 0))


def test_the_default_address_comes_first() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has no route")
        default = sock.getsockname()[0]
    if not ipaddress.ip_address(default).is_loopback:
        assert own_addresses(socket.AF_INET)[0] == default


def test_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("192.0.2.1", "box", "2001:db8::1", "0.0.0.0"))
