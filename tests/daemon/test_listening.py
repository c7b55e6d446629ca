"""Addresses the daemon binds, and its note about them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from psync.daemon.listening import (
    ListenError,
    Presence,
    bind,
    name_of,
    read_presence,
    write_presence,
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_port_zero_takes_the_last_one() -> None:
    last = free_port()
    (sock,) = bind([("127.0.0.1", 0)], last_port=last)
    with sock:
        assert name_of(sock) == f"127.0.0.1:{last}"
        (other,) = bind([("127.0.0.1", 0)], last_port=last)
        with other:
            assert other.getsockname()[1] not in (0, last)


def test_when_one_address_fails_none_stays_bound() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"127.0.0.1:{busy}"):
            bind([("127.0.0.1", port), ("127.0.0.1", busy)], last_port=0)
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "192.0.2.1", "x" * 300])
def test_an_address_that_is_none_of_this_host(host: str) -> None:
    with pytest.raises(ListenError, match="cannot listen on") as caught:
        bind([(host, 0)], last_port=0)
    assert "--listen" in caught.value.hint


def test_ipv6_stands_in_brackets() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    (sock,) = bind([("::1", 0)], last_port=0)
    with sock:
        assert name_of(sock).startswith("[::1]:")


def test_the_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "daemon.json")
    assert read_presence(path) is None
    presence = Presence(1, ("127.0.0.1:7", "[::1]:7"), 7, 1.5, "psync-server 1")
    write_presence(path, presence)
    assert read_presence(path) == presence


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff", b'{"pid": "\xff"}', b'{"x":' + b"[" * 50000, b"[]", b'{"pid": 1}']
)
def test_a_damaged_note_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "daemon.json").write_bytes(text)
    assert read_presence(str(tmp_path / "daemon.json")) is None
