"""psync over an ssh key that can do no more than psync needs, and what a thief of it tries."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.field import Field, lines

from psync.daemon.access import AccessList

ONLY = b"psync-server: this key may only sync into psync's mirrors and reach psync-server: "
RSYNC = "rsync --server -slOtprRze.iLsfxCIvu"


class RestrictedField(Field):
    """A daemon host whose sshd reads the same authorized_keys that psync-server writes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert self.sshd is not None
        self.keys = self.sshd.home / ".ssh/authorized_keys"
        self.keys.parent.mkdir(mode=0o700)
        read = self.sshd.directory / "authorized_keys"
        read.rename(self.keys)
        read.symlink_to(self.keys)
        self.users_key = self.keys.read_bytes()
        self._shared: list[str] = []

    def __enter__(self) -> RestrictedField:
        super().__enter__()
        return self

    def restrict(
        self, name: str = "there", *, alone: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Pair with a restricted key, and take the user's own one away."""
        assert self.sshd is not None
        self.keys.write_bytes(self.users_key + self.psyncs_line())
        done = self.psync("pair", "--restrict-ssh", self.sshd.alias, "--name", name)
        assert done.returncode == 0, done.stderr
        self.env["PSYNC_TARGET"] = name
        text = self.config.read_text()
        table = f"[targets.{name}]\n"
        assert table in text
        if f'{table}connect = "ssh"' not in text:
            self.config.write_text(text.replace(table, f'{table}connect = "ssh"\n'))
        if alone:
            self.keys.write_bytes(self.psyncs_line())
        return done

    def psyncs_line(self) -> bytes:
        found = [line for line in self.keys.read_bytes().splitlines(True) if b"ssh-gate" in line]
        return b"".join(found)

    @property
    def key(self) -> Path:
        return self.data / "targets/there/ssh_key"

    def thief(self, *options: str) -> list[str]:
        """The ssh command of somebody who has the key and nothing else."""
        assert self.sshd is not None
        return [
            *("ssh", "-F", "none", "-i", str(self.key), "-p", str(self.sshd.port)),
            *(
                "-oIdentitiesOnly=yes",
                "-oIdentityAgent=none",
                "-oBatchMode=yes",
                "-oLogLevel=ERROR",
            ),
            *(f"-oUserKnownHostsFile={self.sshd.known_hosts}", "-oGlobalKnownHostsFile=none"),
            *options,
        ]

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """Let the thief log in once: each session of the connection has its own forced command."""
        control = ["-S", f"{self.directory}/run/thief"]
        master = self.thief(*control, "-f", "-N", "-M", "127.0.0.1")
        subprocess.run(
            master, check=True, timeout=30, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._shared = control
        yield
        self._shared = []
        leave = self.thief(*control, "-O", "exit", "127.0.0.1")
        subprocess.run(leave, timeout=30, stderr=subprocess.DEVNULL)

    def attack(self, *words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ssh as the thief: options first, then what to do over there."""
        shared = [] if words[0].startswith("-") else self._shared
        command = [*self.thief(*shared), *words]
        return subprocess.run(command, input=input, capture_output=True, timeout=30)

    def transfer(
        self, target: Path | str, *options: str, shell: str = "", rsync: str = "rsync"
    ) -> subprocess.CompletedProcess[bytes]:
        """Send the thief's files with rsync, as psync would but for what is given."""
        loot = self.directory / "loot"
        loot.mkdir(exist_ok=True)
        (loot / "evil").write_text("evil\n")
        words = ["rsync", "-rptR", "--modify-window=-1", "--partial-dir=.psync-partial", "-z"]
        words += ["--delay-updates", "--timeout=20", "--links", "--safe-links", "-s"]
        shell = shell or shlex.join(self.thief(*self._shared))
        words += ["-e", shell, f"--rsync-path={rsync}", *options]
        return subprocess.run(
            [*words, ".", f"127.0.0.1:{target}/"],
            cwd=loot,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )


@pytest.fixture(scope="module")
def shut() -> Iterator[RestrictedField]:
    """A host that knows nothing but the restricted key, with one mirror; tests leave it so."""
    with RestrictedField() as field:
        field.restrict()
        field.script("x", "echo one\n")
        assert field.psync("run", "./x").stdout == b"one\n"
        with field.logged_in():
            yield field


@pytest.fixture
def open_() -> Iterator[RestrictedField]:
    """A host of this test's own, not yet paired."""
    with RestrictedField() as field:
        yield field


# -- psync over it ------------------------------------------------------------------------


def test_with_nothing_but_the_restricted_key_everything_works(shut: RestrictedField) -> None:
    assert shut.keys.read_bytes() == shut.psyncs_line()
    for text in ("two", "three"):
        shut.script("x", f"cat; echo {text}; exit 3\n")
        done = shut.psync("run", "./x", input=b"in\n")
        assert (done.stdout, done.stderr, done.returncode) == (f"in\n{text}\n".encode(), b"", 3)
    (shut.project / "asset with 'quotes'").write_text("asset")
    assert shut.psync("run", "-A", "asset with 'quotes'", "cat", "asset with 'quotes'").stdout == (
        b"asset"
    )


def test_the_first_sync_of_a_project_works_too(shut: RestrictedField) -> None:
    other = shut.directory / "other game"
    other.mkdir()
    (other / "psync.toml").touch()
    (other / "x").write_text("#!/bin/sh\necho other\n")
    (other / "x").chmod(0o755)
    done = shut.psync("run", "./x", cwd=other)
    assert (done.stdout, done.stderr) == (b"other\n", b"")


def test_a_megabyte_goes_through_the_relay_in_both_directions(shut: RestrictedField) -> None:
    data = os.urandom(1 << 20)
    done = shut.psync("run", "cat", input=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == data


def test_a_daemon_that_does_not_run_is_started(shut: RestrictedField) -> None:
    shut.kill_daemon(signal.SIGKILL)
    done = shut.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_without_a_shared_connection_the_key_is_still_the_only_one(
    open_: RestrictedField,
) -> None:
    open_.restrict()
    assert open_.psync("run", "echo", "there").returncode == 0
    assert open_.sshd is not None
    open_.sshd.cut()
    done = open_.psync("run", "echo", "there")
    assert (done.stdout, done.stderr, done.returncode) == (b"there\n", b"", 0)


def test_pairing_says_what_it_protects_and_keeps_the_users_lines(open_: RestrictedField) -> None:
    field = open_
    done = field.restrict(alone=False)
    told = "\n".join(lines(done.stderr))
    assert "no shell" in told
    assert "certificate can start programs" in told
    assert "limit CLIENT --view" in told
    assert stat.S_IMODE(field.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in field.key.parent.iterdir() if "ssh" in path.name) == [
        "ssh_key"
    ]
    line = field.psyncs_line()
    assert line.startswith(b'restrict,command="')
    assert field.keys.read_bytes() == field.users_key + line


def test_pairing_again_with_it_replaces_the_key_and_without_it_goes_back(
    open_: RestrictedField,
) -> None:
    field = open_
    assert field.sshd is not None
    field.restrict(alone=False)
    first = field.psyncs_line()
    field.restrict(alone=False)
    assert field.psyncs_line() != first
    assert field.keys.read_bytes().count(b"\n") == 2
    assert field.psync("run", "echo", "x").stdout == b"x\n"
    assert field.psync("pair", field.sshd.alias, "--name", "there").returncode == 0
    assert field.keys.read_bytes() == field.users_key
    assert not field.key.exists()
    assert field.psync("run", "echo", "x").stdout == b"x\n"


def test_two_targets_of_one_daemon_share_the_key(open_: RestrictedField) -> None:
    field = open_
    assert field.sshd is not None
    field.restrict("one")
    field.restrict("two")
    for name in ("one", "two"):
        assert field.psync("run", "--on", name, "echo", name).stdout == f"{name}\n".encode()
    field.keys.write_bytes(field.users_key + field.psyncs_line())
    assert field.psync("pair", field.sshd.alias, "--name", "one").returncode == 0
    field.keys.write_bytes(field.psyncs_line())
    assert field.psync("run", "--on", "two", "echo", "two").stdout == b"two\n"


def test_without_its_line_psync_does_not_fall_back_on_the_users_key(open_: RestrictedField) -> None:
    field = open_
    field.restrict(alone=False)
    field.keys.write_bytes(field.users_key)
    assert field.sshd is not None
    field.sshd.cut()
    done = field.psync("run", "echo", "x")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"Permission denied" in done.stderr


def test_a_host_that_ignores_the_line_is_not_half_paired(open_: RestrictedField) -> None:
    field = open_
    assert field.sshd is not None
    read = field.sshd.directory / "authorized_keys"
    read.unlink()
    read.write_bytes(field.users_key)
    done = field.psync("pair", "--restrict-ssh", field.sshd.alias, "--name", "there")
    assert done.returncode == 125
    assert b"does not let psync's own key in" in done.stderr
    assert field.keys.read_bytes() == field.users_key
    assert not field.key.exists()


def test_revoking_takes_the_line_away(open_: RestrictedField) -> None:
    field = open_
    assert field.sshd is not None
    field.restrict(alone=False)
    name = os.uname().nodename
    done = field.server("revoke", name, env={"HOME": str(field.sshd.home)})
    assert done.returncode == 0, done.stderr
    assert field.keys.read_bytes() == field.users_key


def test_the_key_of_a_revoked_client_is_refused_even_with_its_line(open_: RestrictedField) -> None:
    field = open_
    assert field.sshd is not None
    field.restrict()
    line = field.keys.read_bytes()
    field.server("revoke", os.uname().nodename, env={"HOME": str(field.sshd.home)})
    field.keys.write_bytes(line)
    for command in ("psync-server relay", "psync-server start --nonce=01234567", RSYNC):
        done = field.attack("127.0.0.1", command)
        assert (done.returncode, done.stdout) == (126, b"")
        assert done.stderr.startswith(ONLY + b"its client is not paired")
    done = field.psync("run", "echo", "x")
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"refuses psync's ssh key" in done.stderr


# -- what a thief of the key tries ----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["127.0.0.1", "id"],
        ["127.0.0.1", "sh -c id"],
        ["127.0.0.1", "psync-server relay; id"],
        ["127.0.0.1", "psync-server relay\nid"],
        ["127.0.0.1", "psync-server relay & id"],
        ["127.0.0.1", "psync-server $(id)"],
        ["127.0.0.1", "psync-server 'relay' 'x'"],
        ["127.0.0.1", "psync-server enroll --nonce=01234567"],
        ["127.0.0.1", "psync-server serve --listen 0.0.0.0:0"],
        ["127.0.0.1", f"{RSYNC} . /etc/"],
        ["127.0.0.1", "rsync --server --sender -logDtpre.iLsfxCIvu . /etc/passwd"],
        ["127.0.0.1", "rsync --server --daemon --config=/dev/stdin ."],
        ["127.0.0.1", "rsync -e id x y:z"],
        ["127.0.0.1", "x" * 100_000],
        ["127.0.0.1"],
        ["-t", "127.0.0.1", "id"],
        ["-tt", "127.0.0.1"],
        ["-s", "127.0.0.1", "sftp"],
    ],
)
def test_no_command_runs(shut: RestrictedField, words: list[str]) -> None:
    done = shut.attack(*words, input=b"id\n")
    assert done.stdout == b""
    if {"-tt", "-s"} & set(words):  # sshd itself says no, and ssh hangs up
        assert b"request failed" in done.stderr
    else:
        assert done.returncode == 126
        assert ONLY in done.stderr
    assert b"uid=" not in done.stderr


def test_every_refusal_stands_in_the_audit_log(shut: RestrictedField) -> None:
    shut.attack("127.0.0.1", "touch 'a \x1b[31m'")
    (line,) = [
        line
        for line in (shut.server_home / "state/audit.jsonl").read_text().splitlines()
        if "touch" in line
    ]
    said = json.loads(line)
    assert (said["event"], said["address"]) == ("refused", "127.0.0.1")
    assert said["client"] == os.uname().nodename
    assert "\x1b" not in said["reason"]


def test_a_client_that_may_only_look_writes_nothing(open_: RestrictedField) -> None:
    field = open_
    field.restrict()
    field.script("x", "echo one\n")
    assert field.psync("run", "./x").returncode == 0
    AccessList(f"{field.server_home}/data/clients.json").limit(os.uname().nodename, role="view")
    done = field.transfer(tree(field))
    assert b"its client may only look at runs" in done.stderr
    said = field.psync("run", "./x").stderr
    assert b"may only look at runs" in said and b"psync-server limit" in said
    assert not (tree(field) / "evil").exists()


def test_no_files_over_sftp_and_scp(shut: RestrictedField) -> None:
    loot = shut.directory / "got"
    options = shut.thief()[1:]
    options[options.index("-p")] = "-P"
    for command in (
        ["sftp", *options, "127.0.0.1:/etc/passwd", str(loot)],
        ["scp", *options, "127.0.0.1:/etc/passwd", str(loot)],
        ["scp", "-O", *options, "127.0.0.1:/etc/passwd", str(loot)],
        ["scp", "-O", *options, "/etc/passwd", f"127.0.0.1:{loot}"],
    ):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
        assert done.returncode != 0
        assert not loot.exists()


def heard(path: Path, greeting: bytes = b"") -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        if greeting:
            client.sendall(greeting)
        try:
            return client.recv(64)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("kind", ["port", "socket", "dynamic"])
def test_no_forwarding_to_there(shut: RestrictedField, tmp_path: Path, kind: str) -> None:
    assert shut.sshd is not None
    control, way = Path(f"{shut.directory}/run/{kind}-c"), Path(f"{shut.directory}/run/{kind}-w")
    with socket.socket(socket.AF_UNIX) as service:
        behind = f"{shut.directory}/run/{kind}-s"
        service.bind(behind)
        service.listen()
        service.setblocking(False)
        greeting = b""
        if kind == "port":
            forward = ["-L", f"{way}:127.0.0.1:{shut.sshd.port}"]  # sshd speaks first
        elif kind == "socket":
            forward = ["-L", f"{way}:{behind}"]
        else:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            forward = ["-D", f"127.0.0.1:{port}"]
        master = ["-f", "-N", "-M", "-S", str(control), *forward, "127.0.0.1"]
        assert subprocess.run(shut.thief(*master), timeout=30, stdin=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0  # fmt: skip
        try:
            if kind == "dynamic":
                with socket.create_connection(("127.0.0.1", port), timeout=20) as proxy:
                    target = socket.inet_aton("127.0.0.1") + shut.sshd.port.to_bytes(2, "big")
                    proxy.sendall(b"\x05\x01\x00" + b"\x05\x01\x00\x01" + target)
                    got = b""
                    try:
                        while data := proxy.recv(64):
                            got += data
                    except ConnectionError:
                        pass
                assert b"SSH-" not in got
            else:
                assert heard(way, greeting) == b""
            with pytest.raises(BlockingIOError):
                service.accept()
        finally:
            subprocess.run(shut.thief("-S", str(control), "-O", "exit", "127.0.0.1"), timeout=30,
                           stderr=subprocess.DEVNULL, check=True)  # fmt: skip


def test_no_forwarding_through_stdin_and_none_back(shut: RestrictedField) -> None:
    assert shut.sshd is not None
    done = shut.attack("-W", f"127.0.0.1:{shut.sshd.port}", "127.0.0.1")
    assert (done.returncode, done.stdout) == (255, b"")
    for back in ("0:127.0.0.1:1", f"{shut.directory}/run/back:127.0.0.1:1"):
        done = shut.attack("-N", "-oExitOnForwardFailure=yes", "-R", back, "127.0.0.1")
        assert done.returncode == 255
        assert b"forwarding failed" in done.stderr
    assert not os.path.exists(f"{shut.directory}/run/back")


def test_the_line_gives_no_terminal_no_agent_no_display_and_no_rc(open_: RestrictedField) -> None:
    field = open_
    assert field.sshd is not None
    field.restrict()
    line = field.keys.read_text()
    before, _, rest = line.partition('command="')
    field.keys.write_text(f'{before}command="env; tty"{rest[rest.index(chr(34)) + 1 :]}')
    (field.keys.parent / "rc").write_text("echo rc ran\n")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", f"{field.directory}/run/agent"],
                             stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert agent.stdout is not None
        agent.stdout.readline()
        done = subprocess.run(
            field.thief("-A", "-X", "127.0.0.1", "id"),
            env={**os.environ, "SSH_AUTH_SOCK": f"{field.directory}/run/agent", "DISPLAY": ":7"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
    finally:
        agent.terminate()
        agent.wait(10)
        if agent.stdout is not None:
            agent.stdout.close()
    assert b"SSH_ORIGINAL_COMMAND=id" in done.stdout
    assert b"not a tty" in done.stdout
    assert b"rc ran" not in done.stdout
    for variable in (b"SSH_AUTH_SOCK", b"DISPLAY", b"SSH_TTY"):
        assert variable not in done.stdout


# -- with rsync -------------------------------------------------------------------------------


def tree(field: RestrictedField) -> Path:
    return field.mirror() / "tree"


def test_a_transfer_in_psyncs_form_works_so_that_the_others_can_fail(shut: RestrictedField) -> None:
    done = shut.transfer(tree(shut))
    assert done.returncode == 0, done.stderr
    assert (tree(shut) / "evil").read_text() == "evil\n"
    (tree(shut) / "evil").unlink()


@pytest.mark.parametrize(
    "option",
    [
        "--no-secluded-args",
        "--delete",
        "-M--inplace",
        "--keep-dirlinks",
        "--copy-unsafe-links",
        "--backup",
        "--perms --owner --group",
        "--temp-dir=/tmp",
        "--backup-dir=/tmp --backup",
        "--link-dest=/etc",
        "--partial-dir=/tmp/x",
        "-M--log-file=/tmp/psync-test-log",
        "-M--config=/etc/passwd",
        "-M--sender",
        "-M--daemon",
        "-M--files-from=/etc/passwd",
        "-M--rsh=id",
        "-M--no-safe-links",
        "-M--write-devices",
        "--remove-source-files",
        "--no-implied-dirs",
        "-M--fake-super",
    ],
)
def test_rsync_with_another_option_is_refused(shut: RestrictedField, option: str) -> None:
    done = shut.transfer(tree(shut), *option.split())
    assert done.returncode != 0
    assert ONLY in done.stderr
    assert not (tree(shut) / "evil").exists()


@pytest.mark.parametrize(
    "path",
    [
        "{root}",
        "{mirror}",
        "{mirror}/tree/sub",
        "{mirror}/tree/..",
        "{mirror}/tree/../../{name}/tree",
        "{mirror}/./tree",
        "{home}",
        "{home}/.ssh",
        "/tmp",
        "~",
        ".",
        "tree",
    ],
)
def test_rsync_to_another_place_is_refused(shut: RestrictedField, path: str) -> None:
    assert shut.sshd is not None
    mirror = shut.mirror()
    place = path.format(root=mirror.parent, mirror=mirror, name=mirror.name, home=shut.sshd.home)
    done = shut.transfer(place)
    assert done.returncode != 0
    assert ONLY in done.stderr
    assert not list(shut.sshd.home.rglob("evil"))
    assert not list(shut.server_home.rglob("evil"))


@pytest.mark.parametrize(
    "command",
    ["id; rsync", "id #", "sh -c id rsync", "/bin/sh", "'rsync --daemon'", "rsync --rsh=id"],
)
def test_a_program_in_place_of_rsync_is_refused(shut: RestrictedField, command: str) -> None:
    done = shut.transfer(tree(shut), rsync=command)
    assert done.returncode != 0
    assert ONLY in done.stderr
    assert b"uid=" not in done.stderr + done.stdout


def fetch(field: RestrictedField, path: str, *options: str) -> tuple[int, bytes, list[str]]:
    """Read with rsync; return its exit status, what it said and the names that came."""
    loot = field.directory / "loot-read"
    loot.mkdir()
    try:
        done = subprocess.run(
            [
                *("rsync", "-s", "-e", shlex.join(field.thief(*field._shared)), *options),
                *(f"127.0.0.1:{path}", f"{loot}/"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        return done.returncode, done.stderr, [path.name for path in loot.iterdir()]
    finally:
        shutil.rmtree(loot)


def test_a_clients_own_mirror_can_be_read(shut: RestrictedField) -> None:
    assert fetch(shut, f"{tree(shut)}/x", "-rlpt", "--safe-links") == (0, b"", ["x"])


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{home}/.ssh/authorized_keys",
        "{root}/",
        "{mirror}/project.json",
        "{mirror}/tree/../project.json",
        "{mirror}/tree/../../../ca/key.pem",
        "{mirror}/tree/away/passwd",
        "{mirror}/tree/away/",
    ],
)
def test_reading_anything_else_is_refused(shut: RestrictedField, path: str) -> None:
    assert shut.sshd is not None
    mirror = shut.mirror()
    (mirror / "tree/away").symlink_to("/etc")
    try:
        place = path.format(root=mirror.parent, mirror=mirror, home=shut.sshd.home)
        status, said, names = fetch(shut, place, "-r")
        assert status != 0
        assert ONLY in said
        assert names == []
    finally:
        (mirror / "tree/away").unlink()


@pytest.mark.parametrize(
    "option",
    [
        "-M--files-from=/etc/passwd",
        "-M--remove-source-files",
        "-M--log-file=/tmp/psync-test-log",
        "-M--copy-unsafe-links",
        "--copy-links",
        "--remove-source-files",
        "-M-K",
        "-M--daemon",
        "-M--rsh=id",
        "--devices",
        "--owner",
    ],
)
def test_reading_with_another_option_is_refused(shut: RestrictedField, option: str) -> None:
    status, said, names = fetch(shut, f"{tree(shut)}/x", "-r", *option.split())
    assert (status != 0, names) == (True, [])
    assert ONLY in said
    assert (tree(shut) / "x").exists()


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"rsync\0", b"x" * 100_000, b"\0" * 100_000])
def test_arguments_that_are_none_are_refused(shut: RestrictedField, sent: bytes) -> None:
    done = shut.attack("127.0.0.1", RSYNC, input=sent)
    assert (done.returncode, done.stdout) == (126, b"")


def test_another_clients_project_is_refused(shut: RestrictedField) -> None:
    other = shut.mirror().parent / "game-other-0123456789abcdef"
    shutil.copytree(shut.mirror(), other)
    marker = (other / "project.json").read_text()
    (other / "project.json").write_text(marker.replace('"client":"', '"client":"other-'))
    try:
        done = shut.transfer(other / "tree")
        assert b"belongs to another client" in done.stderr
        assert not (other / "tree/evil").exists()
        done = shut.attack("127.0.0.1", f"psync-server discard {other.name}")
        assert done.returncode == 126
    finally:
        shutil.rmtree(other)


@pytest.mark.parametrize("what", ["tree", "mirror"])
def test_a_link_in_place_of_a_mirror_is_refused(shut: RestrictedField, what: str) -> None:
    outside = shut.directory / f"outside-{what}"
    (outside / "tree").mkdir(parents=True)
    mirror = shut.mirror()
    if what == "tree":
        place, moved = mirror / "tree", mirror / "moved"
        target = outside
    else:
        place, moved = mirror, shut.directory / "moved"
        target = outside
        shutil.copy(mirror / "project.json", outside)
    place.rename(moved)
    place.symlink_to(target)
    try:
        done = shut.transfer(mirror / "tree")
        assert done.returncode != 0
        assert ONLY in done.stderr
        assert not list(outside.rglob("evil"))
    finally:
        place.unlink()
        moved.rename(place)


def landlock() -> bool:
    probe = "from psync.daemon.landlock import confine; import os, sys\n"
    probe += "sys.exit(not confine(os.open('/', os.O_RDONLY), '/bin/sh'))"
    return subprocess.run([sys.executable, "-c", probe], timeout=30).returncode == 0


def test_the_kernel_holds_back_an_rsync_that_follows_links(tmp_path: Path) -> None:
    """An rsync with the holes of older ones: what it writes through a link does not land."""
    if not landlock():
        pytest.skip("this kernel has no Landlock")
    real = shutil.which("rsync")
    follower = tmp_path / "bin/rsync"
    follower.parent.mkdir()
    follower.write_text(
        f"#!/bin/sh\nif [ -d door ]; then\n"
        f"echo evil >door/new; echo evil >door/kept; rm -f door/gone; fi\n"
        f'echo ran >ran\nexec {real} "$@"\n'
    )
    follower.chmod(0o755)
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("kept", "gone"):
        (outside / name).write_text("mine\n")
    path = f"{follower.parent}:{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"
    with RestrictedField(server_env={"PATH": path}) as field:
        field.restrict()
        field.script("x", "echo one\n")
        assert field.psync("run", "./x").stdout == b"one\n"
        (tree(field) / "door").symlink_to(outside)
        (tree(field) / "ran").unlink()
        field.script("x", "echo two\n")
        assert field.psync("run", "./x").stdout == b"two\n"
        assert (tree(field) / "ran").read_text() == "ran\n"
    assert sorted(path.name for path in outside.iterdir()) == ["gone", "kept"]
    assert (outside / "kept").read_text() == "mine\n"


def test_a_link_that_leads_out_does_not_arrive(shut: RestrictedField) -> None:
    loot = shut.directory / "loot"
    loot.mkdir(exist_ok=True)
    (loot / "out").symlink_to("/etc")
    (loot / "up").symlink_to("../../..")
    try:
        # the client's own --safe-links would hold them back here already
        shut.transfer(tree(shut), "--no-safe-links")
        assert not os.path.lexists(tree(shut) / "out")
        assert not os.path.lexists(tree(shut) / "up")
    finally:
        shutil.rmtree(loot)
        (tree(shut) / "evil").unlink(missing_ok=True)


def test_unfinished_files_can_be_removed_and_nothing_else(shut: RestrictedField) -> None:
    outside = shut.directory / "outside-partial"
    outside.mkdir()
    (outside / "kept").touch()
    partial = tree(shut) / "sub/.psync-partial"
    partial.mkdir(parents=True)
    (partial / "half").touch()
    (partial / "link").symlink_to(outside)
    (tree(shut) / "other").mkdir()
    (tree(shut) / "other/.psync-partial").symlink_to(outside)
    done = shut.attack("127.0.0.1", f"psync-server discard {shut.mirror().name}")
    assert done.returncode == 0, done.stderr
    assert not partial.exists()
    assert (outside / "kept").exists()
    assert (tree(shut) / "x").exists()
