"""Whatever is wrong gets one clear message, the right exit status, and leaves nothing half done."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from tests.support.fake_link import FACTS
from tests.support.field import SCRIPTS, Field, lines, read_until

from psync.protocol.messages import Hello
from psync.transport.authority import Authority
from psync.transport.link import Link
from psync.transport.listen import listen
from psync.transport.tls import server_context


def complaint(done: subprocess.CompletedProcess[bytes], status: int) -> str:
    """Check that psync said one line and nothing else; return it."""
    assert (done.returncode, done.stdout) == (status, b""), done
    (line,) = lines(done.stderr)
    assert line.startswith("psync: ")
    assert "Traceback" not in line
    return line


def runs(field: Field) -> list[Path]:
    """The runs that the daemon host has records of."""
    return sorted((field.server_home / "state/runs").glob("*/run.json"))


# -- the program ----------------------------------------------------------------------------------


def make_directory(project: Path) -> None:
    (project / "x").mkdir()


def make_plain_text(project: Path) -> None:
    (project / "x").write_text("echo no interpreter line\n")
    (project / "x").chmod(0o755)


def make_not_executable(project: Path) -> None:
    (project / "x").write_text("#!/bin/sh\n")
    (project / "x").chmod(0o644)


def make_wrong_interpreter(project: Path) -> None:
    (project / "x").write_text("#!/no/such/interpreter -x\n")
    (project / "x").chmod(0o755)


def make_wrong_machine(project: Path) -> None:
    elf = bytearray(Path("/bin/true").resolve().read_bytes())
    elf[18:20] = (0xFFF0).to_bytes(2, sys.byteorder)  # e_machine
    (project / "x").write_bytes(elf)
    (project / "x").chmod(0o755)


def make_dangling_link(project: Path) -> None:
    (project / "x").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda project: None, 127, "./x does not exist"),
        (make_dangling_link, 127, "nowhere, which does not exist"),
        (make_directory, 126, "./x is a directory"),
        (make_not_executable, 126, "./x is not executable; chmod +x ./x"),
        (make_plain_text, 126, "begin it with a line such as #!/bin/sh"),
        (make_wrong_interpreter, 126, "/no/such/interpreter"),
        (make_wrong_machine, 126, "it was not built for this machine"),
    ],
)
def test_a_program_that_cannot_be_executed(
    paired: Field, make: Callable[[Path], None], status: int, words: str
) -> None:
    path = paired.project / "x"
    make(paired.project)
    try:
        assert words in complaint(paired.psync("run", "./x"), status)
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def test_a_command_that_is_not_there(paired: Field) -> None:
    line = complaint(paired.psync("run", "no-such-command-anywhere"), 127)
    assert "no-such-command-anywhere: no such program on PATH on there; install it on there" in line


# -- the command line and the configuration -------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run"], "PROGRAM is missing; see psync run --help"),
        (["run", "--bogus", "x"], "--bogus"),
        (["run", "-A", "", "true"], "--assets: must not be empty"),
        (["run", "--cwd", "", "true"], "--cwd: must not be empty"),
        (["pair", "--name", "", "x"], "--name: '' cannot name a target"),
        (["pair", "--name", "../x", "x"], "'../x' cannot name a target"),
        (["run", "--on", "nowhere", "true"], "no target named 'nowhere'; psync pair nowhere"),
        (["run", "--on", "locl", "true"], "did you mean local?"),
        (["run", "-e", "=x", "true"], "names no variable"),
        (["run", "--cwd", "nowhere", "true"], "nowhere is not a directory"),
        (["run", "--project", "nowhere", "true"], "nowhere is not a directory"),
        (["run", "--on-disconnect", "perhaps", "true"], "--on-disconnect"),
        (["sync", "--on", "nowhere"], "no target named 'nowhere'"),
        (["pair", "--name", "a/b", "host"], "a/b"),
        (["pair", "--", "-oProxyCommand=x"], "--name NAME"),
        (["rnu"], "did you mean psync run?"),
    ],
)
def test_a_wrong_command_line(alone: Field, words: list[str], text: str) -> None:
    assert text in complaint(alone.psync(*words), 2)
    assert not (alone.home / ".config").exists()
    assert not alone.local_home.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[targets.x]\nhots = 'a'\n", "config.toml:2: targets.x.hots"),
        ("\n[run]\non_disconnect = 5\n", "config.toml:3: run.on_disconnect"),
        ("this is not toml", "config.toml:1"),
    ],
)
def test_a_wrong_configuration(alone: Field, text: str, words: str) -> None:
    alone.config.parent.mkdir(parents=True)
    alone.config.write_text(text)
    for command in (["run", "true"], ["sync"], ["targets"], ["pair", "host"]):
        assert words in complaint(alone.psync(*command), 2)
    assert alone.config.read_text() == text


def test_a_wrong_project_file(alone: Field) -> None:
    (alone.project / "psync.toml").write_text("[sync]\ninclude = 'not a list'\n")
    line = complaint(alone.psync("run", "true"), 2)
    assert "psync.toml:2: sync.include" in line


def test_assets_that_do_not_exist(paired: Field) -> None:
    before = runs(paired)
    line = complaint(paired.psync("run", "-A", "nowhere", "true"), 125)
    assert "nowhere does not exist" in line
    assert runs(paired) == before


# -- trust ----------------------------------------------------------------------------------------


def test_a_target_that_was_never_paired(field: Field) -> None:
    assert field.sshd is not None
    field.config.parent.mkdir(parents=True)
    field.config.write_text(f'[targets.there]\nhost = "{field.sshd.alias}"\n')
    line = complaint(field.psync("run", "--on", "there", "true"), 125)
    assert line.endswith(f"there is not paired; psync pair {field.sshd.alias} --name there")


def test_a_client_that_was_revoked(field: Field) -> None:
    field.pair()
    assert field.sshd is not None
    (client,) = json.loads(field.server("clients", "--json").stdout)
    assert field.server("revoke", client["name"]).returncode == 0
    line = complaint(field.psync("run", "true"), 125)
    assert "revoked" in line
    assert line.endswith(f"; psync pair {field.sshd.alias} --name there")
    assert runs(field) == []
    field.pair()  # which makes up for it
    assert field.psync("run", "true").returncode == 0


def test_revoking_ends_a_run_that_is_attached(field: Field) -> None:
    field.pair()
    process = field.start("run", "sh", "-c", "echo ready; exec sleep 600")
    read_until(process, b"ready")
    (client,) = json.loads(field.server("clients", "--json").stdout)
    field.server("revoke", client["name"])
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 125
    (line,) = lines(stderr)
    assert "revoked" in line


def test_a_client_the_daemon_has_forgotten(field: Field) -> None:
    field.pair()
    field.kill_daemon(signal.SIGTERM)
    (field.server_home / "data/clients.json").unlink()
    assert "does not accept this client" in complaint(field.psync("run", "true"), 125)


def test_a_daemon_with_another_ca(field: Field) -> None:
    field.pair()
    assert field.sshd is not None
    field.kill_daemon(signal.SIGTERM)
    shutil.rmtree(field.server_home / "data/ca")
    line = complaint(field.psync("run", "true"), 125)
    assert "another authority" in line or "another daemon" in line
    assert f"psync pair {field.sshd.alias} --name there" in line
    field.pair()
    assert field.psync("run", "true").returncode == 0


def test_a_host_key_that_changed(field: Field) -> None:
    assert field.sshd is not None
    field.sshd.new_host_key()
    line = complaint(field.psync("pair", field.sshd.alias, "--name", "there"), 125)
    assert "host key" in line
    assert not field.config.exists()
    assert not list(field.data.glob("targets/*"))


def test_a_key_that_others_can_read(field: Field) -> None:
    field.pair()
    key = field.data / "identity/key.pem"
    key.chmod(0o644)
    line = complaint(field.psync("run", "true"), 125)
    assert "key.pem" in line
    assert "chmod" in line


# -- reaching the host and the daemon -------------------------------------------------------------


def test_a_host_that_does_not_answer(field: Field) -> None:
    field.pair()
    assert field.sshd is not None
    field.sshd.stop()
    line = complaint(field.psync("run", "true"), 125)
    assert "ssh" in line
    assert "reachable" in line
    done = field.psync("pair", field.sshd.alias, "--name", "other")
    assert "ssh" in complaint(done, 125)
    assert "other" not in field.config.read_text()


def test_no_daemon_where_a_direct_connection_is_demanded(field: Field) -> None:
    field.pair()
    field.config.write_text(field.config.read_text() + 'connect = "direct"\n')
    field.kill_daemon(signal.SIGTERM)
    line = complaint(field.psync("run", "--no-sync", "true"), 125)
    assert "no daemon listens at 127.0.0.1:" in line
    assert 'start psync-server there, or set connect = "auto" for there' in line


def test_a_daemon_that_cannot_start(field: Field) -> None:
    field.pair()
    field.kill_daemon(signal.SIGTERM)
    (field.server_home / "server.toml").write_text("listen = 5\n")
    line = complaint(field.psync("run", "true"), 125)
    assert "psync-server on daemon-host cannot start: " in line
    assert "server.toml:1" in line


def test_pairing_where_the_daemon_cannot_start_says_where_that_is(field: Field) -> None:
    assert field.sshd is not None
    field.server_home.mkdir(mode=0o700)
    (field.server_home / "server.toml").write_text("listen = 5\n")
    line = complaint(field.psync("pair", field.sshd.alias), 2)
    assert line.startswith(f"psync: psync-server on {field.sshd.alias}: ")
    assert "server.toml:1" in line
    assert not field.config.exists()


def test_a_key_that_is_gone(field: Field) -> None:
    field.pair()
    assert field.psync("run", "true").returncode == 0
    assert field.psync("run", "--on", "local", "true").returncode == 0
    (field.data / "identity/key.pem").unlink()
    # the local target heals itself, under the new identity from the start
    done = field.psync("run", "--on", "local", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    line = complaint(field.psync("run", "true"), 125)
    assert "does not belong to the private key" in line
    assert line.endswith("run: psync pair daemon-host --name there")


def test_a_port_in_use(field: Field) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = field.server("serve", "--listen", address)
    assert done.returncode == 125
    (line,) = lines(done.stderr)
    assert line.startswith(f"psync-server: cannot listen on {address}: Address already in use")
    assert "--listen" in line


def test_no_psync_server_there(field: Field) -> None:
    assert field.sshd is not None
    bare = field.directory / "bare"
    bare.mkdir()
    for tool in ("sh", "rsync"):
        (bare / tool).symlink_to(shutil.which(tool) or "")
    with Field(server_env={"PATH": str(bare)}) as other:
        assert other.sshd is not None
        done = other.psync("pair", other.sshd.alias, "--name", "there")
        line = complaint(done, 125)
        assert "psync-server was not found on daemon-host" in line
        assert "--server PATH" in line
        assert not other.config.exists()
        assert not list(other.data.glob("targets/*"))
        server = shutil.which("psync-server", path=other.env["PATH"])
        assert server is not None
        done = other.psync("pair", other.sshd.alias, "--name", "there", "--server", server)
        assert done.returncode == 0, done.stderr


# -- tools ----------------------------------------------------------------------------------------


def tools(directory: Path, *names: str) -> str:
    """Return a PATH with just these tools."""
    directory.mkdir(exist_ok=True)
    for name in names:
        found = shutil.which(name, path=f"{SCRIPTS}:{os.environ['PATH']}")
        assert found is not None
        (directory / name).symlink_to(found)
    return str(directory)


def old_rsync(directory: Path) -> None:
    path = directory / "rsync"
    path.write_text("#!/bin/sh\necho 'rsync  version 2.6.9  protocol version 29'\n")
    path.chmod(0o755)


def test_no_rsync_here(paired: Field, tmp_path: Path) -> None:
    before = runs(paired)
    path = tools(tmp_path / "bin", "ssh", "sh")
    (paired.project / "sent without an rsync").touch()
    line = complaint(paired.psync("run", "true", env={"PATH": path}), 125)
    assert "rsync is not installed on this machine; install it" in line
    assert runs(paired) == before


def test_an_old_rsync_here(paired: Field, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", "ssh", "sh")
    old_rsync(tmp_path / "bin")
    (paired.project / "sent with an old rsync").touch()
    line = complaint(paired.psync("run", "true", env={"PATH": path}), 125)
    assert "2.6.9" in line
    assert "on this machine" in line


@pytest.mark.parametrize("old", [False, True], ids=["missing", "old"])
def test_an_rsync_there_that_is(old: bool, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", "sh", "true", "psync-server")
    if old:
        old_rsync(tmp_path / "bin")
    with Field(server_env={"PATH": path}) as field:
        assert field.sshd is not None
        done = field.psync("pair", field.sshd.alias, "--name", "there")
        assert done.returncode == 0, done.stderr
        line = complaint(field.psync("run", "--on", "there", "true"), 125)
        assert "rsync" in line
        assert "on there" in line
        assert ("2.6.9" in line) == old
        assert runs(field) == []
        # Doing what the message says is enough.
        (tmp_path / "bin/rsync").unlink(missing_ok=True)
        tools(tmp_path / "bin", "rsync")
        assert field.psync("run", "--on", "there", "true").returncode == 0
        # And the other way round, with a mirror and facts that are known.
        (tmp_path / "bin/rsync").unlink()
        assert field.psync("run", "--on", "there", "true").returncode == 0  # nothing is to be sent
        (field.project / "new").touch()
        assert "rsync" in complaint(field.psync("run", "--on", "there", "true"), 125)
        tools(tmp_path / "bin", "rsync")
        assert field.psync("run", "--on", "there", "true").returncode == 0


def test_no_ssh_here_while_the_shared_connection_is_open(field: Field, tmp_path: Path) -> None:
    field.pair()
    assert field.psync("run", "true").returncode == 0
    path = tools(tmp_path / "bin", "rsync", "sh")
    (field.project / "new").touch()
    line = complaint(field.psync("run", "true", env={"PATH": path}), 125)
    assert "ssh cannot be started on this machine" in line


def test_no_ssh_here(field: Field) -> None:
    field.env["PSYNC_SSH"] = "/no/such/ssh -v"
    line = complaint(field.psync("pair", "somewhere"), 125)
    assert "/no/such/ssh" in line
    assert "PSYNC_SSH" in line
    assert not field.config.exists()


# -- the mirror -----------------------------------------------------------------------------------


def test_a_mirror_that_cannot_be_made(field: Field) -> None:
    field.pair()
    field.kill_daemon(signal.SIGTERM)
    (field.server_home / "server.toml").write_text('projects = "/proc/psync"\n')
    line = complaint(field.psync("run", "true"), 125)
    assert "/proc/psync" in line
    assert "server.toml" in line
    assert runs(field) == []


def test_something_in_the_place_of_the_program(field: Field) -> None:
    field.pair()
    field.script("x", "echo old\n")
    assert field.psync("run", "./x").returncode == 0
    (mirror,) = field.mirrors()
    (mirror / "tree/x").unlink()
    (mirror / "tree/x").mkdir()
    (mirror / "tree/x/save").touch()
    before = runs(field)
    line = complaint(field.psync("run", "./x"), 125)
    assert "a directory that is not empty where x belongs" in line
    assert runs(field) == before
    assert (mirror / "tree/x/save").exists()


# -- peers that speak something else --------------------------------------------------------------


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve every connection to a loopback port with ``serve``; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work() -> None:
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    accepted.settimeout(10)
                    try:
                        serve(accepted)
                    except OSError:
                        continue

        thread = Thread(target=work, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)


def http(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)
    connection.recv(65536)


def garbage(connection: socket.socket) -> None:
    connection.sendall(bytes(range(256)) * 40)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


def silence(connection: socket.socket) -> None:
    connection.recv(65536)


def point_at(field: Field, port: int) -> None:
    """Have the target go directly to another port."""
    field.config.write_text(
        f'[targets.there]\nhost = "daemon-host"\nconnect = "direct"\naddress = "127.0.0.1:{port}"\n'
    )


@pytest.mark.parametrize("serve", [http, garbage])
def test_a_peer_that_is_no_daemon(field: Field, serve: Callable[[socket.socket], None]) -> None:
    field.pair()
    with peer(serve) as port:
        point_at(field, port)
        line = complaint(field.psync("run", "--no-sync", "true"), 125)
    assert f"127.0.0.1:{port} is not a psync daemon" in line
    assert "check the target's host and port" in line


def test_a_peer_that_hangs_up(field: Field) -> None:
    field.pair()
    with peer(silence) as port:
        point_at(field, port)
        line = complaint(field.psync("run", "--no-sync", "true"), 125)
    assert f"127.0.0.1:{port} closed" in line


def test_a_tls_server_that_is_another(field: Field, tmp_path: Path) -> None:
    field.pair()
    other = Authority.load_or_create(str(tmp_path / "ca")).server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.certificate, other.key)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            http(tls)

    with peer(serve) as port:
        point_at(field, port)
        line = complaint(field.psync("run", "--no-sync", "true"), 125)
    assert "not the daemon this client was paired with" in line or "another daemon" in line
    assert "psync pair daemon-host --name there" in line


async def test_a_daemon_of_another_version(field: Field) -> None:
    await asyncio.to_thread(field.pair)
    ca = field.server_home / "data/ca"
    server = Authority.load_or_create(str(ca)).server
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        point_at(field, sock.getsockname()[1])
        links: list[Link] = []
        serving = await listen(
            sock,
            tls=server_context(server.certificate, server.key, server.ca),
            hello=lambda _: Hello(versions=(99,), software="psync-server 99.0", facts=FACTS),
            origins=(),
            accept=links.append,
        )
        done = await asyncio.to_thread(field.psync, "run", "--no-sync", "true")
        serving.close()
    line = complaint(done, 125)
    assert "psync protocol" in line
    assert line.endswith("install the same version of psync on both sides")


def test_a_chatty_login_shell_is_named(tmp_path: Path) -> None:
    with Field(noise="Welcome!\nToday is a fine day.") as field:
        assert field.sshd is not None
        done = field.psync("pair", field.sshd.alias, "--name", "there")
        assert done.returncode == 0, done.stderr  # framed answers do not mind
        line = complaint(field.psync("run", "--on", "there", "true"), 125)
        assert "print text" in line or "Welcome" in line


def test_messages_from_the_other_side_are_harmless(field: Field) -> None:
    field.pair()
    nasty = field.server_home / "data" / "p\x1b]0;title\x07"
    field.kill_daemon(signal.SIGTERM)
    (field.server_home / "data").chmod(0o700)
    nasty.write_text("in the way")
    (field.server_home / "server.toml").write_text(
        'projects = "' + str(nasty).replace("\x1b", "\\u001b").replace("\x07", "\\u0007") + '"\n'
    )
    done = field.psync("run", "true")
    assert done.returncode != 0
    assert b"\x1b" not in done.stderr
    assert b"\x07" not in done.stderr
