"""The ways to a daemon: directly, through ssh, and from one to the other."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

import pytest
from tests.support.field import Field, lines
from tests.support.waiting import wait_until


def sshd_children(field: Field) -> int:
    """Count the connections that sshd serves."""
    assert field.sshd is not None
    pid = field.sshd.pid
    ps = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, timeout=20
    )
    return len(ps.stdout.split())


def test_through_ssh_no_port_is_open_and_one_connection_serves_all(field: Field) -> None:
    field.pair(connect="ssh")
    for _ in range(3):
        done = field.psync("run", "echo", "there")
        assert (done.stdout, done.stderr) == (b"there\n", b"")
    assert sshd_children(field) == 1


def test_a_silent_address_costs_a_moment_and_then_ssh_is_the_way(field: Field) -> None:
    field.pair()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as behind a firewall that drops
        port = silent.getsockname()[1]
        field.config.write_text(f'{field.config.read_text()}address = "127.0.0.1:{port}"\n')
        done = field.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_a_refused_address_costs_nothing(field: Field) -> None:
    field.pair()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        field.config.write_text(f'{field.config.read_text()}address = "127.0.0.1:{port}"\n')
        done = field.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_a_daemon_that_listens_elsewhere_is_reached_directly(field: Field) -> None:
    field.server_home.mkdir(mode=0o700)
    (field.server_home / "server.toml").write_text('listen = "0.0.0.0:0"\n')
    field.pair()
    field.config.write_text(field.config.read_text() + 'connect = "direct"\n')
    done = field.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_a_daemon_that_was_never_started_by_hand_comes_up_by_itself(field: Field) -> None:
    field.pair(connect="ssh")
    field.kill_daemon(signal.SIGKILL)
    done = field.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_another_daemon_on_the_old_port_is_not_believed(field: Field) -> None:
    field.pair(connect="ssh")
    known = field.daemon()
    assert known is not None
    field.kill_daemon(signal.SIGTERM)
    other = field.directory / "other"
    other.mkdir(mode=0o700)
    (other / "server.toml").write_text(f'listen = "127.0.0.1:{known["port"]}"\n')
    try:
        assert field.server("start", home=other).returncode == 0
        done = field.psync("run", "echo", "mine")
        assert (done.stdout, done.returncode) == (b"mine\n", 0), done.stderr
        assert not list((other / "state/runs").glob("*"))
    finally:
        field.stop_daemon(other)


def test_moved_projects_are_synced_to_where_they_are_now(field: Field) -> None:
    field.pair()
    field.script("x", "echo one\n")
    assert field.psync("run", "./x").stdout == b"one\n"
    field.kill_daemon(signal.SIGTERM)
    moved = field.directory / "moved"
    (field.server_home / "server.toml").write_text(f'projects = "{moved}"\n')
    field.server("start")
    field.script("x", "echo two\n")
    done = field.psync("run", "./x")
    assert (done.stdout, done.stderr, done.returncode) == (b"two\n", b"", 0)
    (mirror,) = moved.glob("my-game-*")
    assert (mirror / "tree/x").exists()


def test_without_a_shared_connection_everything_goes_directly_over_ssh(field: Field) -> None:
    field.pair()
    field.script("x", "echo one\n")
    assert field.psync("run", "./x").returncode == 0
    assert field.sshd is not None
    field.sshd.cut()  # the master is gone; what was known is still true
    wait_until(lambda: sshd_children(field) == 0)
    field.script("x", "echo two\n")
    done = field.psync("run", "./x")
    assert (done.stdout, done.stderr, done.returncode) == (b"two\n", b"", 0)


def test_pairing_again_replaces_the_certificate_and_keeps_the_rest(field: Field) -> None:
    field.pair()
    field.config.write_text(f"# mine\n{field.config.read_text()}")
    certificate = (field.data / "targets/there/client.crt").read_bytes()
    field.pair()
    assert (field.data / "targets/there/client.crt").read_bytes() != certificate
    assert field.config.read_text().startswith("# mine\n")
    assert len(json.loads(field.server("clients", "--json").stdout)) == 1
    assert field.psync("run", "true").returncode == 0


def test_two_targets_of_one_daemon_both_work(field: Field) -> None:
    field.pair("one")
    field.pair("two")
    for name in ("one", "two"):
        done = field.psync("run", "--on", name, "echo", name)
        assert (done.stdout, done.stderr) == (name.encode() + b"\n", b"")


@pytest.mark.parametrize("given", ["user@host", "ssh://user@host:22", "host"])
def test_the_name_of_a_target_is_the_hosts(field: Field, given: str) -> None:
    field.env["PSYNC_SSH"] = "false"  # an ssh that reaches nobody
    done = field.psync("pair", given)
    assert done.returncode == 125
    (line,) = lines(done.stderr)
    assert "host" in line
    assert not field.config.exists()
