"""Another local user looks for keys, state and sockets, and into the process table."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support.field import Field, read_until

NOBODY = 65534

_T = TypeVar("_T")

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def look(tops: list[str]) -> list[str]:
    """Return every path below ``tops`` that this process can list or open."""
    found = []
    for top in tops:
        for directory, names, files in os.walk(top):
            found += [path for name in names + files if _opens(path := f"{directory}/{name}")]
        if _opens(top):
            found.append(top)
    return found


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def connect_unix(path: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
    except OSError as error:
        return type(error).__name__
    return "in"


def speak_tls(port: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return f"got {len(sock.recv(1000))}"
    except OSError:
        return "refused"


@pytest.fixture
def field() -> Iterator[Field]:
    with Field() as field:
        field.pair()
        yield field


def as_nobody(do: Callable[[_T], object], what: _T) -> Any:
    """Return what ``do`` returns in a process that nobody owns.

    Forked and not executed: the interpreter may be where only its owner can read it.
    """
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(say, json.dumps(do(what)).encode())
        finally:
            os._exit(0)
    os.close(say)
    with open(said, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def private(field: Field) -> list[str]:
    """The directories that hold keys, state and sockets on both sides."""
    return [
        str(field.data),
        str(field.home / ".local/state/psync"),
        str(field.directory / "run/psync"),
        str(field.server_home / "data"),
        str(field.server_home / "state"),
    ]


def open_to_others(path: str) -> bool:
    return bool(os.stat(path).st_mode & 0o077)


@root
def test_another_user_reads_nothing_and_reaches_no_socket(field: Field) -> None:
    # what the test's own directories forbid would prove nothing
    for directory in (field.directory, field.home, field.server_home, field.directory / "run"):
        directory.chmod(0o755)
    for inner in (".local", ".local/share", ".local/state", ".config"):
        if (field.home / inner).exists():
            (field.home / inner).chmod(0o755)
    field.script("game", "echo on; read x\n")
    run = field.start("run", "./game")
    read_until(run, b"on\n")
    tops = [top for top in private(field) if Path(top).exists()]
    assert len(tops) >= 4
    assert look(tops) != []
    assert as_nobody(look, tops) == []
    (control,) = (field.server_home / "state/runs").glob("*/ctl")
    assert connect_unix(str(control)) == "in"
    assert as_nobody(connect_unix, str(control)) == "PermissionError"
    run.communicate(b"\n", 30)


def test_keys_and_state_are_the_owners_alone(field: Field) -> None:
    field.script("game", "true\n")
    assert field.psync("run", "./game").returncode == 0
    for top in private(field):
        if Path(top).exists():
            assert not open_to_others(top), top
    keys = [
        path
        for top in private(field)
        for path in Path(top).rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    ]
    assert len(keys) >= 3  # the client's, the CA's, the daemon's
    assert [path for path in keys if open_to_others(str(path))] == []


def test_nothing_secret_stands_in_process_arguments_or_logs(field: Field) -> None:
    field.script("game", "echo on; read x\n")
    run = field.start("run", "-e", "TOKEN=hunter2-in-the-environment", "./game")
    read_until(run, b"on\n")
    shown = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True).stdout
    ours = [line for line in shown.splitlines() if str(field.directory) in line]
    theirs = [line for line in shown.splitlines() if "psync.supervisor" in line]
    assert theirs
    for line in ours + theirs:
        # what the user typed stands in psync's own arguments, as it does for every program
        assert "PRIVATE KEY" not in line
        assert "hunter2" not in line or "psync.cli.main" in line
    run.communicate(b"\n", 30)
    for log in [*(field.server_home / "state").glob("*.log"), *field.data.rglob("*.log")]:
        assert b"hunter2" not in log.read_bytes()
    for log in (field.server_home / "state").glob("audit*"):
        assert b"hunter2" not in log.read_bytes()


@root
def test_another_user_finds_the_port_and_no_way_in(field: Field) -> None:
    known = field.daemon()
    assert known is not None
    assert as_nobody(speak_tls, known["port"]) in ("refused", "got 0")


def test_a_private_directory_of_somebody_else_is_not_used(field: Field) -> None:
    """Where sockets go may have been made by another user before; then psync does not use it."""
    runtime = field.directory / "run/psync"
    if runtime.exists():
        for entry in runtime.iterdir():
            entry.unlink()
        runtime.rmdir()
    victim = field.directory / "elsewhere"
    victim.mkdir(mode=0o777)
    runtime.symlink_to(victim)
    field.env.pop("PSYNC_TARGET")
    field.kill_daemon()
    done = field.psync("run", "--on", "there", "--no-sync", "true")
    assert done.returncode == 2
    assert b"others may read or write" in done.stderr
    assert not any(socket_in(victim))


def socket_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_socket()]


def test_the_port_is_on_loopback_only(field: Field) -> None:
    known = field.daemon()
    assert known is not None
    assert [name.rpartition(":")[0] for name in known["listen"]] == ["127.0.0.1"]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", known["port"]), timeout=5).close()
