"""``psync-server clients``, ``revoke``, ``rename`` and ``limit``."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_server import complaint
from tests.support.daemon import Home

from psync.daemon.seen import Sighting, Sightings
from psync.paths import write_atomic


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def listed(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(home.server("clients", "--json").stdout)
    return found


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def test_clients_and_revoke(home: Home) -> None:
    assert "no client is paired" in said(home.server("clients"))
    assert said(home.server("clients", "--json")) == "[]\n"
    assert "no client is named desk" in complaint(home.server("revoke", "desk"), 2)
    home.pair("desk")
    home.pair("laptop")
    first, second = listed(home)
    assert (first["name"], second["name"], first["revoked"]) == ("desk", "laptop", None)
    assert (first["role"], first["projects"], first["via"]) == ("run", [], "ssh")
    assert (first["connected"], first["last_seen"], first["address"]) == (0, None, None)
    assert first["paired"].endswith("Z") and first["expires"] > first["paired"]
    assert "no client is named phone" in complaint(home.server("revoke", "phone"), 2)
    assert "no client" in complaint(home.server("revoke", "sha256:"), 2)
    assert said(home.server("revoke", first["fingerprint"][:20])).startswith("revoked desk; ")
    when = listed(home)[0]["revoked"]
    assert when is not None
    assert home.server("revoke", "desk").returncode == 0
    assert listed(home)[0]["revoked"] == when
    titles, one, two = said(home.server("clients")).splitlines()
    assert titles.split() == [
        "NAME",
        "FINGERPRINT",
        "PAIRED",
        "LAST",
        "SEEN",
        "FROM",
        "MAY",
        "UNTIL",
    ]
    assert one.startswith(f"desk    {first['fingerprint'][7:23]}  ")
    assert "nothing: revoked" in one
    assert " never " in two and " run " in two


def test_a_name_that_may_mean_two_clients(home: Home) -> None:
    home.pair("desk")
    which = listed(home)[0]["fingerprint"].removeprefix("sha256:")[:8]
    home.pair(which)
    for words in (["revoke", which], ["rename", which, "x"], ["limit", which, "--view"]):
        assert "may mean 2 clients" in complaint(home.server(*words), 2)
    assert all(one["revoked"] is None and one["role"] == "run" for one in listed(home))


def test_rename(home: Home) -> None:
    home.pair("desk")
    home.pair("laptop")
    assert said(home.server("rename", "desk", "big tower")) == "desk is big-tower now\n"
    assert "another client is named laptop" in complaint(
        home.server("rename", "big-tower", "laptop"), 2
    )
    assert "no client" in complaint(home.server("rename", "desk", "x"), 2)
    fingerprint = listed(home)[1]["fingerprint"]
    assert said(home.server("rename", fingerprint[:18], "laptop"))  # the name it has
    assert [one["name"] for one in listed(home)] == ["big-tower", "laptop"]


def test_limit(home: Home) -> None:
    home.pair("desk")
    assert "nothing to change" in complaint(home.server("limit", "desk"), 2)
    assert said(home.server("limit", "desk", "--view")) == "desk may from now on: view only\n"
    words = ["limit", "desk", "--project", "game-*", "--project", "tool-1"]
    assert said(home.server(*words)) == "desk may from now on: view only, projects game-* tool-1\n"
    assert said(home.server("limit", "desk", "--run")).endswith(": run, projects game-* tool-1\n")
    assert (listed(home)[0]["role"], listed(home)[0]["projects"]) == ("run", ["game-*", "tool-1"])
    assert " run, projects game-* tool-1 " in said(home.server("clients"))
    home.pair("desk")  # pairing again is no way out of it
    assert listed(home)[0]["projects"] == ["game-*", "tool-1"]
    assert said(home.server("limit", "desk", "--all-projects")).endswith(": run\n")
    assert "no client" in complaint(home.server("limit", "tower", "--view"), 2)
    for bad in ("", "a b", "../x", "x\n", "ä"):
        assert "matches the ID of no project" in complaint(
            home.server("limit", "desk", "--project", bad), 2
        )
    assert home.server("limit", "desk", "--run", "--view").returncode == 2
    assert home.server("limit", "desk", "--project", "x", "--all-projects").returncode == 2


def test_when_they_were_seen(home: Home) -> None:
    home.pair("desk")
    home.pair("laptop")
    desk, laptop = (one["client_id"] for one in listed(home))
    home.start()
    write_sightings(home, {desk: Sighting(1_790_000_000.0, "192.0.2.7", 2)}, running=True)
    assert listed(home)[0]["connected"] == 2
    assert listed(home)[0]["last_seen"] == "2026-09-21T14:13:20.000Z"
    assert "  now        192.0.2.7  " in said(home.server("clients"))
    write_sightings(home, {laptop: Sighting(1_790_000_000.0, "::1", 2)}, running=False)
    assert listed(home)[1]["connected"] == 0  # a daemon that is gone has no connections
    assert "2026-09-2" in said(home.server("clients"))


def write_sightings(home: Home, clients: dict[str, Sighting], *, running: bool) -> None:
    import msgspec

    assert home.daemon is not None
    pid = home.daemon.pid if running else 1
    write_atomic(home.paths.seen, msgspec.json.encode(Sightings(pid, clients)))


def test_the_audit_log_says_who_was_changed(home: Home) -> None:
    home.pair("desk")
    said(home.server("limit", "desk", "--view"))
    said(home.server("rename", "desk", "tower"))
    said(home.server("revoke", "tower"))
    events = [json.loads(line) for line in Path(home.paths.audit).read_text().splitlines()]
    assert [(one["event"], one["client"], one.get("reason", "")) for one in events[1:]] == [
        ("limited", "desk", "view only"),
        ("renamed", "tower", "it was desk"),
        ("revoked", "tower", ""),
    ]


def test_an_audit_log_that_cannot_be_written_is_named(home: Home) -> None:
    home.pair("desk")
    Path(home.paths.audit).unlink()
    Path(home.paths.audit).mkdir()
    done = home.server("revoke", "desk")
    assert done.returncode == 0
    assert done.stderr.decode().startswith(f"psync-server: cannot write {home.paths.audit}: ")
    assert listed(home)[0]["revoked"] is not None


def test_a_terminal_gets_lines_that_fit(home: Home) -> None:
    home.pair("a-rather-long-name-for-a-client-of-this-daemon")
    said(
        home.server(
            "limit", "a-rather-long-name-for-a-client-of-this-daemon", "--project", "x" * 90
        )
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "psync.cli.server", "clients"],
            env=home.env,
            stdout=theirs,
            stdin=subprocess.DEVNULL,
        )
        os.close(theirs)
        output = b""
        try:
            while piece := terminal.read(4096):
                output += piece
        except OSError:  # Linux says so when the other end is closed
            pass
        assert process.wait(20) == 0
    lines = output.decode().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert "…" in lines[1]


def test_help_says_what_a_limit_is_worth(home: Home) -> None:
    text = " ".join(said(home.server("limit", "--help")).split())
    assert "no wall around its programs" in text
    assert "--all-projects" in text
    assert "last_seen" in said(home.server("clients", "--help"))
