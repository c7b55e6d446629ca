"""Pairing by invitation with real commands on both sides, and what others could do meanwhile."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field, lines, read_until
from tests.support.waiting import alive, wait_until

from psync.transport.invitation import Invitation, read_invitation, write_invitation


@pytest.fixture
def field() -> Iterator[Field]:
    with Field(sshd=False) as field:
        yield field


def invite(field: Field, *words: str) -> str:
    done = field.server("invite", *words)
    assert done.returncode == 0, done.stderr
    (text,) = done.stdout.decode().splitlines()
    return text


def accept(field: Field, text: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return field.psync("pair", "--invite", text, *words)


def clients(field: Field) -> list[dict[str, object]]:
    listed = json.loads(field.server("clients", "--json").stdout)
    assert isinstance(listed, list)
    return listed


def test_one_command_on_each_side(field: Field) -> None:
    text = invite(field)
    done = accept(field, text, "--name", "there")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert b"as the target there" in done.stderr
    # at once, without ssh: there is none in this field
    done = field.psync("run", "--on", "there", "--no-sync", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    (client,) = clients(field)
    assert (client["via"], client["paired_from"], client["role"]) == (
        "invitation",
        "127.0.0.1",
        "run",
    )

    ((host, port),) = read_invitation(text).addresses
    assert f'address = "{host}:{port}"' in field.config.read_text()
    assert 'connect = "direct"' in field.config.read_text()
    files = field.data / "targets/there"
    for one in (files / "ca.crt", files / "client.crt", files / "target.json", field.config):
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one


def test_the_name_is_the_hosts_unless_it_is_given(field: Field) -> None:
    assert accept(field, invite(field)).returncode == 0
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().partition(".")[0]).strip("-.")
    known = [one["name"] for one in json.loads(field.psync("targets", "--json").stdout)]
    assert sorted(known) == sorted(["local", name])
    # the same daemon again is the same target
    assert accept(field, invite(field)).returncode == 0
    assert field.config.read_text().count("[targets.") == 1


def test_two_targets_for_one_daemon_go_on_working(field: Field) -> None:
    for name in ("one", "two"):
        assert accept(field, invite(field), "--name", name).returncode == 0
    for name in ("one", "two"):
        done = field.psync("run", "--on", name, "--no-sync", "true")
        assert done.returncode == 0, done.stderr
    assert len(clients(field)) == 1


def test_rights_come_with_the_invitation(field: Field) -> None:
    text = invite(field, "--name", "tv", "--view", "--project", "game-*")
    assert accept(field, text, "--name", "there").returncode == 0
    (client,) = clients(field)
    assert (client["name"], client["role"], client["projects"]) == ("tv", "view", ["game-*"])
    done = field.psync("run", "--on", "there", "--no-sync", "touch", str(field.home / "x"))
    assert done.returncode == 125
    assert b"this client may only look at runs, not start runs" in done.stderr
    assert not (field.home / "x").exists()
    assert field.psync("ps", "--on", "there").returncode == 0


def test_the_invitation_can_come_from_stdin(field: Field) -> None:
    text = invite(field)
    done = field.psync("pair", "--invite", "-", "--name", "there", input=f"\n {text}\n".encode())
    assert done.returncode == 0, done.stderr
    done = field.psync("pair", "--invite", "-", input=b"")
    assert (done.returncode, b"no invitation on stdin" in done.stderr) == (2, True)


def test_a_terminal_gets_the_line_to_paste(field: Field) -> None:
    field.server("start")
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "psync.cli.server", "invite"],
            env={**field.env, "PSYNC_SERVER_HOME": str(field.server_home)},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=50,
        )
        line = os.read(ours, 65536).decode().strip()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    words = line.split()
    assert words[:3] == ["psync", "pair", "--invite"]
    assert b"once" in done.stderr
    assert field.psync(*words[1:], "--name", "there").returncode == 0


# -- what must fail --------------------------------------------------------------------------


def complaint(done: subprocess.CompletedProcess[bytes], status: int = 125) -> str:
    (line,) = lines(done.stderr)
    assert done.returncode == status, line
    return line


def test_a_second_use(field: Field) -> None:
    text = invite(field)
    assert accept(field, text, "--name", "there").returncode == 0
    before = clients(field)
    line = complaint(accept(field, text, "--name", "other"))
    assert "has expired or was used" in line
    assert "psync-server invite" in line
    invite(field)
    assert "was used already" in complaint(accept(field, text, "--name", "other"))
    assert clients(field) == before
    assert not (field.data / "targets/other").exists()
    assert "other" not in field.config.read_text()


def test_one_that_has_expired_also_for_the_next_daemon(field: Field) -> None:
    text = invite(field, "--expires", "1s")
    field.kill_daemon()
    wait_until(lambda: b"no invitation is outstanding" in field.server("invite", "--list").stdout)
    field.server("start")
    assert "has expired or was used" in complaint(accept(field, text))
    invite(field)
    assert "has expired" in complaint(accept(field, text))
    assert clients(field) == []


def test_one_outlives_its_daemon(field: Field) -> None:
    text = invite(field)
    field.kill_daemon()
    assert "no daemon listens" in complaint(accept(field, text))
    field.server("start")
    assert accept(field, text, "--name", "there").returncode == 0


def test_one_that_was_taken_back(field: Field) -> None:
    text = invite(field)
    assert field.server("invite", "--revoke", "all").returncode == 0
    assert "has expired or was used" in complaint(accept(field, text))


def test_guesses_close_the_door(field: Field) -> None:
    text = invite(field)
    good = read_invitation(text)
    said = []
    for number in range(11):
        guess = Invitation(good.addresses, good.ca, bytes([number]) * 16)
        said.append(complaint(accept(field, write_invitation(guess))))
        if "too many" in said[-1]:  # the rate limit: then it is no guess
            break
    assert all("no such invitation" in line for line in said[:4])
    assert clients(field) == []


def test_two_clients_at_the_same_time(field: Field) -> None:
    text = invite(field)
    started = [
        field.start(
            *("pair", "--invite", text, "--name", "there"),
            env={"HOME": str(field.directory / name), "XDG_RUNTIME_DIR": ""},
        )
        for name in ("one", "two")
    ]
    said = {process.communicate(timeout=50)[1]: process.returncode for process in started}
    assert sorted(said.values()) == [0, 125]
    (lost,) = (words for words, status in said.items() if status)
    assert b"was used" in lost
    assert len(clients(field)) == 1


def test_the_invitation_of_another_daemon(field: Field) -> None:
    """Its addresses were taken over by this daemon, which has one outstanding too."""
    good = read_invitation(invite(field))
    other = field.directory / "other"
    try:
        done = field.server("invite", home=other)
        theirs = read_invitation(done.stdout.decode())
        mixed = Invitation(good.addresses, theirs.ca, theirs.secret)
        line = complaint(accept(field, write_invitation(mixed)))
        assert "is not the daemon that made this invitation" in line
        assert "the secret was not sent" in line
    finally:
        field.stop_daemon(other)
    assert clients(field) == []


def test_ctrl_c_while_nobody_answers(field: Field) -> None:
    good = read_invitation(invite(field))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = (("127.0.0.1", silent.getsockname()[1]),)
        process = field.start(
            "pair", "--invite", write_invitation(Invitation(addresses, good.ca, good.secret))
        )
        silent.settimeout(50)
        accepted, _ = silent.accept()
        with accepted:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=50)
    assert (process.returncode, said) == (
        130,
        b"psync: interrupted while pairing; nothing was started\n",
    )
    assert not field.config.exists()


def test_the_secret_stays_where_it_belongs(field: Field) -> None:
    known = read_invitation(text := invite(field, "--name", "desk"))
    presence = field.daemon()
    assert presence is not None
    guess = Invitation(known.addresses, known.ca, bytes(16))
    complaint(accept(field, write_invitation(guess)))
    assert accept(field, text, "--name", "there").returncode == 0
    complaint(accept(field, text))

    forms = (known.secret, known.secret.hex().encode(), text.removeprefix("psync1-").encode())
    process = Path(f"/proc/{presence['pid']}")
    places = [process / "cmdline", process / "environ"]
    for top in (field.server_home, field.data, field.config.parent):
        places += [one for one in top.rglob("*") if one.is_file()]
    assert any(one.name == "daemon.log" for one in places)
    assert any(one.name == "invitations.json" for one in places)
    assert any(one.name == "audit.jsonl" for one in places)
    for place in places:
        data = place.read_bytes()
        assert not any(form in data for form in forms), place
    for one in (field.server_home / "data").glob("invitations.json*"):
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one


def test_a_damaged_file_of_invitations(field: Field) -> None:
    text = invite(field)
    path = field.server_home / "data/invitations.json"
    path.write_bytes(b'{"version":1,"invitations":[')
    assert "has expired or was used" in complaint(accept(field, text))
    (aside,) = path.parent.glob("invitations.json.damaged-*")
    assert str(aside) in (field.server_home / "state/daemon.log").read_text()
    assert accept(field, invite(field), "--name", "there").returncode == 0


def test_the_door_is_closed_before_and_after(field: Field) -> None:
    """Without an invitation a stranger gets no further than the TLS handshake."""
    import ssl

    field.server("start")
    presence = field.daemon()
    assert presence is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def knock() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", presence["port"]), 20) as sock,
            context.wrap_socket(sock) as tls,
        ):
            tls.sendall(b"GET /ca HTTP/1.1\r\nHost: x\r\n\r\n")
            return tls.recv(65536)

    def refused() -> bool:
        try:
            return not knock()
        except OSError:
            return True

    assert refused()
    text = invite(field)
    assert b"BEGIN CERTIFICATE" in knock()
    assert accept(field, text, "--name", "there").returncode == 0
    assert refused()


def test_a_daemon_in_the_foreground_that_listens_everywhere(field: Field) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "psync.cli.server", "serve", "--listen", "0.0.0.0:0"],
        env={**field.env, "PSYNC_SERVER_HOME": str(field.server_home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        read_until(process, b"listening on", stderr=True)
        done = field.server("invite", "--address", "127.0.0.1")
        assert b"this host only" not in done.stderr
        invited = accept(field, done.stdout.decode(), "--name", "there")
        assert invited.returncode == 0, invited.stderr
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert not alive(process.pid)
