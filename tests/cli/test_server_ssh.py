"""The commands behind ssh, without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psync.cli.server_ssh import address_of


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (["127.0.0.1:7", "192.0.2.1:8"], ("127.0.0.1", 7)),
        (["192.0.2.1:8", "[::1]:9"], ("::1", 9)),
        (["0.0.0.0:5"], ("127.0.0.1", 5)),
        (["[::]:5"], ("::1", 5)),
        (["192.0.2.1:8"], ("192.0.2.1", 8)),
    ],
)
def test_the_daemon_is_reached_on_loopback_where_it_listens_there(
    listen: list[str], address: tuple[str, int]
) -> None:
    assert address_of(tuple(listen)) == address


def server(
    home: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    homes = {"PSYNC_SERVER_HOME": str(home / "server"), "HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "psync.cli.server", *words],
        env={**os.environ, **homes, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=50,
    )


def test_the_relay_starts_a_daemon_and_ends_with_its_stdin(tmp_path: Path) -> None:
    try:
        done = server(tmp_path, "relay")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        status = server(tmp_path, "status")
        assert status.returncode == 0, status.stderr
    finally:
        for word in server(tmp_path, "status").stdout.split(b","):
            if b"process" in word:
                os.kill(int(word.rpartition(b" ")[2]), signal.SIGINT)


def test_the_gate_lets_in_nobody_who_is_not_paired(tmp_path: Path) -> None:
    for command in ("psync-server relay", "psync-server start --nonce=01234567"):
        done = server(tmp_path, "ssh-gate", "--client", "x", env={"SSH_ORIGINAL_COMMAND": command})
        assert (done.returncode, done.stdout) == (126, b"")
        assert b"its client is not paired" in done.stderr


def test_a_key_that_is_none_is_refused_in_a_frame(tmp_path: Path) -> None:
    done = server(tmp_path, "ssh-key", "--client=desk-0123456789abcdef", "--nonce=01234567")
    assert done.returncode == 2
    assert b"psync-answer-begin 01234567" in done.stdout
    assert not (tmp_path / ".ssh").exists()
