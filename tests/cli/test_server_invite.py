"""psync-server invite: what it refuses, lists and takes back. Pairing itself is in integration."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemon import Home

from psync.daemon.invitations import Invitations
from psync.transport.invitation import read_invitation


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with Home() as home:
        home.start()
        yield home


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--expires", "soon"], "--expires: 'soon'"),
        (["--expires", "0s"], "one second to one day"),
        (["--expires", "2d"], "one second to one day"),
        (["--address", "a b"], "'a b'"),
        (["--address", "x:99999"], "99999"),
        (["--address", "-x"], "expected one argument"),
        (["--address=-x"], "'-x'"),
        ([*["--address", "x"] * 9], "at most 8"),
        (["--project", "../x"], "matches the ID of no project"),
        (["--revoke", "nobody"], "no invitation nobody is outstanding"),
        (["--revoke", "\x1b[2J"], "\\x1b"),
        (["--list", "--revoke", "all"], "not allowed with"),
    ],
)
def test_what_cannot_be(home: Home, words: list[str], complaint: str) -> None:
    done = home.server("invite", *words)
    assert done.returncode == 2, done
    assert complaint in done.stderr.decode()
    assert b"\x1b" not in done.stderr
    assert done.stdout == b""
    assert Invitations(home.paths.invitations).outstanding() == ()


def test_one_string_on_stdout(home: Home) -> None:
    done = home.server("invite", "--name", "my desk", "--view", "--project", "game-*")
    assert done.returncode == 0, done.stderr
    (text,) = done.stdout.decode().splitlines()
    invitation = read_invitation(text)
    (host, port) = invitation.addresses[0]
    assert host == "127.0.0.1"
    assert f"127.0.0.1:{port}" in done.stderr.decode()
    assert b"listens on this host only" in done.stderr
    assert b"--listen" in done.stderr
    assert b"to look only, for game-*" in done.stderr

    (record,) = json.loads(home.server("invite", "--list", "--json").stdout)
    assert (record["name"], record["role"], record["projects"]) == ("my-desk", "view", ["game-*"])
    assert "hash" not in record
    listed = home.server("invite", "--list").stdout.decode()
    assert all(word in listed for word in (record["id"], "my-desk", "view", "game-*", "left"))

    done = home.server("invite", "--revoke", record["id"])
    assert done.stdout.decode() == f"took back the invitation {record['id']}\n"
    assert b"no invitation is outstanding" in home.server("invite", "--list").stdout
    assert json.loads(home.server("invite", "--list", "--json").stdout) == []
    assert home.server("invite", "--revoke", "all").stdout == b"no invitation was outstanding\n"
    events = [json.loads(line) for line in Path(home.paths.audit).read_bytes().splitlines()]
    assert [one["event"] for one in events[-2:]] == ["invited", "withdrawn"]
    assert events[-2]["reason"] == f"invitation {record['id']}: view only, projects game-*"


def test_as_json_with_addresses_of_ones_own(home: Home) -> None:
    done = home.server(
        *("invite", "--json", "--address", "box.example.org"),
        *("--address", "[2001:db8::1]:99", "--expires", "1h30m"),
    )
    said = json.loads(done.stdout)
    invitation = read_invitation(said["invitation"])
    assert [host for host, _ in invitation.addresses] == ["box.example.org", "2001:db8::1"]
    assert said["addresses"][1] == "[2001:db8::1]:99"
    assert said["command"] == f"psync pair --invite {said['invitation']}"
    assert said["expires"] - said["created"] == 5400
    assert home.server("invite", "--revoke", "all").returncode == 0


def test_the_daemon_is_started(tmp_path: Path) -> None:
    with Home() as home:
        done = home.server("invite")
        assert done.returncode == 0, done.stderr
        assert Invitations(home.paths.invitations).outstanding()
        assert stat.S_IMODE(os.stat(home.paths.invitations).st_mode) == 0o600
        assert b"psync-server runs" in home.server("status").stdout
