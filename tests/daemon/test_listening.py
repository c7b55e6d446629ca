"""Addresses the daemon binds, and its note about them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from psync.daemon import listening
from psync.daemon.listening import (
    ListenError,
    Presence,
    bind,
    handed_over,
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


def test_a_name_is_bound_on_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    resolve_to(monkeypatch, "::1", "127.0.0.1", "203.0.113.1", "127.0.0.1")
    sockets = bind([("deck", 0)], last_port=0)
    names = [name_of(sock) for sock in sockets]
    for sock in sockets:
        sock.close()
    port = names[0].rpartition(":")[2]
    assert names == [f"[::1]:{port}", f"127.0.0.1:{port}"]


def test_a_name_of_somebody_elses_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "198.51.100.1", "203.0.113.1")
    with pytest.raises(ListenError, match="cannot listen on deck:7"):
        bind([("deck", 7)], last_port=0)


def test_a_free_port_has_to_be_free_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that is free on the first address may be taken on the second one."""
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    taken: list[socket.socket] = []
    real = listening._bind_one

    def unlucky(family: int, address: tuple[Any, ...]) -> socket.socket:
        if address[0] == "127.0.0.2" and len(taken) < 2:
            taken.append(real(family, address))
        return real(family, address)

    monkeypatch.setattr(listening, "_bind_one", unlucky)
    sockets = bind([("deck", 0)], last_port=0)
    assert len(taken) == 2
    assert sockets[0].getsockname()[1] == sockets[1].getsockname()[1]
    for sock in sockets + taken:
        sock.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        return [found for address in addresses for found in real(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_everything_of_both_families_on_one_port() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    for addresses in ([("0.0.0.0", 0), ("::", 0)], [("::", 0), ("0.0.0.0", 0)]):
        first, second = bind(addresses, last_port=0)
        with first, second:
            assert first.getsockname()[1] == second.getsockname()[1]


def test_the_same_address_twice_is_one() -> None:
    port = free_port()
    (sock,) = bind([("127.0.0.1", port), ("127.0.0.1", port)], last_port=0)
    sock.close()


def test_an_address_that_another_one_covers_is_named() -> None:
    port = free_port()
    with pytest.raises(ListenError, match=f"127.0.0.1:{port}") as caught:
        bind([("0.0.0.0", port), ("127.0.0.1", port)], last_port=0)
    assert "another address of --listen covers it" in caught.value.hint


# -- sockets of systemd's --------------------------------------------------------------------------

# Runs with descriptors 3, 4, … as systemd leaves them; LISTEN_PID is only known to the process.
ACTIVATED = """
import json, os, socket, sys
sys.stderr = sys.stdout
from psync.daemon.listening import ListenError, handed_over, name_of
if os.environ["LISTEN_PID"] == "mine":
    os.environ["LISTEN_PID"] = str(os.getpid())
try:
    sockets = handed_over(os.environ)
except ListenError as error:
    sockets = []
    print("error", error)
print("left", [name for name in os.environ if name.startswith("LISTEN_")])
print("inherited", [os.get_inheritable(sock.fileno()) for sock in sockets])
for sock in sockets:
    print("listening", name_of(sock))
    peer, _ = sock.accept()
    peer.sendall(b"hello")
    peer.close()
for descriptor in range(3, 3 + int(sys.argv[1])):
    try:
        os.fstat(descriptor)
    except OSError:
        print("closed", descriptor)
"""


def activated(
    sockets: list[socket.socket], *, pid: str = "mine", count: str | None = None
) -> list[str]:
    """Start a process with these sockets, as systemd would, and return what it says."""
    command = [sys.executable, "-c", ACTIVATED, str(len(sockets))]
    environment = {
        **os.environ,
        "LISTEN_PID": pid,
        "LISTEN_FDS": str(len(sockets)) if count is None else count,
        "LISTEN_FDNAMES": ":".join(f"name{number}" for number in range(len(sockets))),
    }
    # a shell moves the descriptors to where systemd puts them: from 3 on
    moves = " ".join(
        f"{50 + number}<&{sock.fileno()}" for number, sock in enumerate(sockets)
    ) + "".join(f" {3 + number}<&{50 + number} {50 + number}<&-" for number in range(len(sockets)))
    script = f'exec "$@" {moves}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        env=environment,
        pass_fds=[sock.fileno() for sock in sockets],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for sock in sockets:
            if pid == "mine" and count is None:
                with socket.create_connection(sock.getsockname()[:2], 20) as peer:
                    assert peer.recv(10) == b"hello"
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out
    return out.splitlines()


def test_sockets_of_systemds_are_used() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        names = [name_of(one), name_of(two)]
        lines = activated([one, two])
    assert lines == [
        "left []",
        "inherited [False, False]",
        *(f"listening {name}" for name in names),
    ]


def test_sockets_for_another_process_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert activated([sock], pid="1") == ["left []", "inherited []"]


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "²"])
def test_a_count_that_is_none(count: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert activated([sock], count=count) == ["left []", "inherited []"]


def test_what_is_no_listening_tcp_socket_is_named_and_all_are_closed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as good,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as idle,
    ):
        good_only = activated([good, datagrams], count="2")
        assert "descriptor 4 (name1), handed over by systemd, is no TCP socket" in good_only[0]
        assert good_only[1:] == ["left []", "inherited []", "closed 3", "closed 4"]
        assert "does not listen" in activated([idle], count="1")[0]
    with open(os.devnull, "rb") as file:
        lines = activated([cast(socket.socket, file)], pid="mine", count="1")
        assert "is no socket" in lines[0]


def test_without_systemd_there_is_nothing() -> None:
    environ = {"PATH": "/bin"}
    assert handed_over(environ) == []
    assert environ == {"PATH": "/bin"}


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
