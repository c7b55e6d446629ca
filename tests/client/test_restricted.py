"""The client's side of a restricted key."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path
from typing import cast

import pytest

from psync.client.restricted import PROTECTS, RelayWay, key_of, key_path, refusal
from psync.client.targets import TargetSpec
from psync.paths import ClientPaths
from psync.sync.ssh import SharedConnection

SPEC = TargetSpec("there", "board")


@pytest.fixture
def paths(tmp_path: Path) -> ClientPaths:
    return ClientPaths.from_environ({"HOME": str(tmp_path)})


def test_a_target_has_a_key_or_none(paths: ClientPaths) -> None:
    assert key_of(paths, "there") is None
    path = key_path(paths, "there")
    os.makedirs(os.path.dirname(path))
    with open(path, "w"):
        pass
    assert key_of(paths, "there") == path
    assert key_of(paths, "elsewhere") is None


def test_a_key_that_is_broken_is_still_the_only_one(paths: ClientPaths) -> None:
    path = key_path(paths, "there")
    os.makedirs(os.path.dirname(path))
    os.symlink("/nowhere", path)
    assert key_of(paths, "there") == path


def test_a_refusal_is_told_apart_from_what_else_ssh_says() -> None:
    said = b"banner\r\npsync-server: this key may only do x: its client is revoked\x1b[2J\n"
    error = refusal(said, SPEC)
    assert error is not None
    assert "its client is revoked\\x1b[2J" in error.message
    assert error.hint == "psync pair board --name there --restrict-ssh"
    assert refusal(b"banner: psync-server: this key may only\nPermission denied\n", SPEC) is None


def test_what_it_does_not_protect_is_told_too() -> None:
    text = PROTECTS.format(name="there")
    assert "no shell" in text
    assert "can start programs" in text


class FakeConnection:
    """A shared connection whose remote commands run here."""

    def __init__(self, program: str) -> None:
        self._program = program

    def argv(self, remote: list[str]) -> list[str]:
        return [sys.executable, "-c", self._program, *remote]


def way(program: str) -> RelayWay:
    return RelayWay(cast(SharedConnection, FakeConnection(program)), "/x/psync-server")


def test_a_relay_is_a_socket_with_the_command_behind_it() -> None:
    relay = way(
        "import os, sys; os.write(1, repr(sys.argv[1:]).encode()); os.write(1, os.read(0, 9))"
    )
    with relay.open() as sock:
        sock.settimeout(20)
        sock.sendall(b"123456789")
        got = b""
        while data := sock.recv(100):
            got += data
    assert got == b"['/x/psync-server', 'relay']123456789"
    assert relay.said() == b""


def test_what_a_relay_complained_of_is_known_once_it_has_ended() -> None:
    relay = way("import sys; sys.stderr.write('psync-server: no\\n'); sys.exit(1)")
    with relay.open() as sock:
        sock.settimeout(20)
        assert sock.recv(1) == b""
    assert relay.said() == b"psync-server: no\n"


def test_closing_the_socket_ends_the_command(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    relay = way(f"import os, sys; os.open({str(fifo)!r}, os.O_WRONLY); sys.stdin.buffer.read()")
    sock = relay.open()
    reader = os.open(fifo, os.O_RDONLY)  # returns once the command has opened it
    assert isinstance(sock, socket.socket)
    sock.close()
    assert os.read(reader, 1) == b""  # which it holds open until it ends
    os.close(reader)
