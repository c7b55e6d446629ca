"""The shared connection, with a real ssh and a real sshd."""

import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.sshd import PrivateSSHD
from tests.support.waiting import wait_until
from tests.sync.world import processes_naming, shared

from psync.errors import ConfigError, Interrupted, SSHError, ToolMissing
from psync.sync import mux
from psync.sync.ssh import RemoteCommandFailed, SharedConnection, SSHTarget


def greeting(path: bytes) -> bytes:
    """What the server at the other end of a forwarding says first."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        return client.recv(4)


def master(connection: SharedConnection) -> int:
    return mux.alive(connection.control_path, 10)


def test_open_close(sshd: PrivateSSHD, control: Path) -> None:
    connection = shared(sshd, control)
    assert not connection.is_open()
    connection.open()
    assert connection.is_open()
    pid = master(connection)
    connection.open()
    assert master(connection) == pid
    connection.close()
    assert not connection.is_open()
    connection.close()
    wait_until(lambda: not processes_naming(str(control)))
    assert [name for name in os.listdir(control) if not name.endswith(".lock")] == []


def test_arguments_and_bytes_reach_a_command_as_they_are(connection: SharedConnection) -> None:
    words = [b"a b", b"", b"it's", b"\xff\n", b"$HOME", b"*", b"-x"]
    output = connection.run(
        ["sh", "-c", 'printf "%s|" "$@"; cat', "sh", *words], input=b"\0input\xff"
    )
    assert output == b"|".join(words) + b"|\0input\xff"


def test_a_command_that_fails(connection: SharedConnection) -> None:
    with pytest.raises(RemoteCommandFailed, match="oops") as caught:
        connection.run(["sh", "-c", "echo out; echo oops >&2; exit 3"])
    assert (caught.value.status, caught.value.stdout) == (3, b"out\n")
    with pytest.raises(RemoteCommandFailed) as caught:
        connection.run(["no-such-command"])
    assert caught.value.status == 127
    assert connection.is_open()


def test_a_command_that_does_not_end(connection: SharedConnection) -> None:
    with pytest.raises(SSHError, match="did not answer within"):
        connection.run(["sleep", "600"], timeout=0.2)
    with pytest.raises(SSHError, match="more than"):
        connection.run(["cat", "/dev/zero"])


def test_commands_work_without_the_shared_connection(
    connection: SharedConnection, own_sshd: PrivateSSHD, control: Path
) -> None:
    direct = shared(own_sshd, control)
    assert direct.run(["echo", "x"]) == b"x\n"
    assert not direct.is_open()
    os.kill(master(connection), signal.SIGKILL)
    assert connection.run(["echo", "x"]) == b"x\n"


def test_a_master_that_hangs_is_replaced(connection: SharedConnection) -> None:
    pid = master(connection)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not connection.is_open()
        connection.open()
        assert master(connection) != pid
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_users_configuration_does_not_get_in_the_way(control: Path) -> None:
    user = (
        f"ControlPath {control}/of-the-user",
        "ControlMaster auto",
        "RemoteCommand echo never",
        "RequestTTY force",
        f"LocalForward {control}/forwarded 127.0.0.1:1",
        "LogLevel QUIET",
        "ExitOnForwardFailure yes",
    )
    with PrivateSSHD(client_extra=user) as sshd:
        connection = shared(sshd, control)
        assert connection.run(["echo", "x"]) == b"x\n"
        connection.open()
        assert connection.run(["echo", "x"]) == b"x\n"
        assert not (control / "of-the-user").exists()
        assert not (control / "forwarded").exists()
        connection.close()
        sshd.stop()
        with pytest.raises(SSHError, match="Connection refused"):
            connection.open()


def test_forwarding(connection: SharedConnection, sshd: PrivateSSHD) -> None:
    path = connection.forward(sshd.port)
    assert greeting(path) == b"SSH-"
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0
    assert connection.forward(sshd.port) == path

    os.unlink(path)  # by something that cleans up temporary directories
    assert greeting(connection.forward(sshd.port)) == b"SSH-"

    other = connection.forward(1)
    assert other != path
    assert not os.path.exists(path)
    assert greeting(connection.forward(sshd.port)) == b"SSH-"
    assert not os.path.exists(other)


def test_forwarding_survives_a_new_master(connection: SharedConnection, sshd: PrivateSSHD) -> None:
    path = connection.forward(sshd.port)
    os.kill(master(connection), signal.SIGKILL)
    connection.open()
    assert greeting(connection.forward(sshd.port)) == b"SSH-"
    assert len(path) < 100


def test_forwarding_needs_an_open_connection(sshd: PrivateSSHD, control: Path) -> None:
    with pytest.raises(SSHError, match="cannot forward"):
        shared(sshd, control).forward(sshd.port)


_OPEN = """
import sys
from psync.sync.ssh import SharedConnection, SSHTarget
connection = SharedConnection(SSHTarget(sys.argv[1], tuple(sys.argv[3:]), sys.argv[2].encode()))
connection.open()
from psync.sync import mux
print(mux.alive(connection.control_path, 10))
"""


def test_several_processes_share_one_master(sshd: PrivateSSHD, control: Path) -> None:
    argv = [sys.executable, "-c", _OPEN, sshd.alias, str(control), *sshd.ssh]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    masters = {process.communicate(timeout=50)[0] for process in processes}
    assert len(masters) == 1
    connection = shared(sshd, control)
    assert masters == {b"%d\n" % master(connection)}
    lock = str(control / os.fsdecode(os.path.basename(connection.control_path))) + ".lock"
    open_files = {os.readlink(fd) for fd in Path(f"/proc/{master(connection)}/fd").iterdir()}
    assert lock not in open_files
    connection.close()


def test_an_open_that_is_cancelled(own_sshd: PrivateSSHD, control: Path) -> None:
    # Something that accepts and never greets, as a host that has just gone to sleep.
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        target = SSHTarget(
            f"ssh://127.0.0.1:{port}", ("ssh", "-F", str(own_sshd.config)), os.fsencode(control)
        )
        connection = SharedConnection(target)
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(connection.open)
            deaf.settimeout(30)
            caller, _ = deaf.accept()
            connection.cancel()
            assert isinstance(outcome.exception(timeout=30), Interrupted)
            caller.close()
    assert not processes_naming(str(control))


def test_a_host_that_is_not_known(own_sshd: PrivateSSHD, control: Path) -> None:
    own_sshd.known_hosts.write_text("")
    with pytest.raises(SSHError, match="does not know the host key"):
        shared(own_sshd, control).open()


def test_a_host_key_that_changed(own_sshd: PrivateSSHD, control: Path) -> None:
    own_sshd.new_host_key()
    with pytest.raises(SSHError, match="another machine") as caught:
        shared(own_sshd, control).open()
    assert f'ssh-keygen -f "{own_sshd.known_hosts}" -R' in caught.value.hint


def test_a_key_that_is_not_accepted(own_sshd: PrivateSSHD, control: Path) -> None:
    (own_sshd.directory / "authorized_keys").write_text("")
    with pytest.raises(SSHError, match="Permission denied") as caught:
        shared(own_sshd, control).open()
    assert "ssh daemon-host true" in caught.value.hint


def test_a_host_that_is_not_there(own_sshd: PrivateSSHD, control: Path) -> None:
    own_sshd.stop()
    connection = shared(own_sshd, control)
    for attempt in (connection.open, lambda: connection.run(["true"])):
        with pytest.raises(SSHError, match="Connection refused"):
            attempt()


def test_no_ssh(control: Path) -> None:
    connection = SharedConnection(SSHTarget("laptop", ("no-such-ssh",), os.fsencode(control)))
    with pytest.raises(ToolMissing, match="ssh cannot be started on this machine: no-such-ssh"):
        connection.open()
    with pytest.raises(ToolMissing):
        connection.run(["true"])


def test_a_control_directory_that_others_may_use(sshd: PrivateSSHD, control: Path) -> None:
    control.chmod(0o755)
    with pytest.raises(ConfigError, match="others may"):
        shared(sshd, control).open()


def test_connections_to_different_places_do_not_meet() -> None:
    targets = [
        SSHTarget("a", ("ssh",), b"/c"),
        SSHTarget("b", ("ssh",), b"/c"),
        SSHTarget("a", ("ssh", "-F", "x"), b"/c"),
    ]
    assert len({SharedConnection(target).control_path for target in targets}) == 3


def test_what_ssh_wants_of_the_user_is_passed_on(sshd: PrivateSSHD, control: Path) -> None:
    script = control / "ssh"
    script.write_text(
        "#!/bin/sh\necho 'Confirm user presence for key \033[1mX' >&2\necho banner >&2\n"
        'exec ssh "$@"\n'
    )
    script.chmod(0o755)
    notices: list[str] = []
    target = SSHTarget(sshd.alias, (str(script), *sshd.ssh[1:]), os.fsencode(control))
    connection = SharedConnection(target, on_notice=notices.append)
    connection.open()
    assert notices == ["Confirm user presence for key \\x1b[1mX"]
    connection.close()
