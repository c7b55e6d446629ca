"""The command line of ``psync-server``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.support.daemon import Home

import psync


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def complaint(done: subprocess.CompletedProcess[bytes], status: int) -> str:
    """Check that one line was said and nothing else; return it."""
    assert (done.returncode, done.stdout) == (status, b""), done
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("psync-server: ")
    return line


def test_start_says_what_it_did_and_status_agrees(home: Home) -> None:
    status = home.server("status")
    assert status.returncode == 1
    assert b"does not run" in status.stdout
    status = home.server("status", "--json")
    assert (status.returncode, json.loads(status.stdout)) == (1, {"running": False, "daemon": None})
    first = home.server("start")
    second = home.server("start")
    assert (first.returncode, second.returncode, first.stderr, second.stderr) == (0, 0, b"", b"")
    assert first.stdout.startswith(b"psync-server started: process ")
    assert second.stdout == first.stdout.replace(b"started", b"runs already")
    status = home.server("status", "--json")
    said = json.loads(status.stdout)
    assert (status.returncode, said["running"]) == (0, True)
    assert str(said["daemon"]["pid"]).encode() in first.stdout
    assert said["daemon"]["software"] == f"psync-server {psync.__version__}"
    status = home.server("status")
    assert status.returncode == 0
    assert f"  127.0.0.1:{said['daemon']['port']} (this host only" in status.stdout.decode()


def test_clients_and_revoke(home: Home) -> None:
    none = home.server("clients")
    assert (none.returncode, none.stderr) == (0, b"")
    assert b"no client is paired" in none.stdout
    assert home.server("clients", "--json").stdout == b"[]\n"
    assert "no client is named desk" in complaint(home.server("revoke", "desk"), 2)
    home.pair("desk")
    home.pair("laptop")
    first, second = json.loads(home.server("clients", "--json").stdout)
    assert (first["name"], second["name"], first["revoked"]) == ("desk", "laptop", None)
    assert "no client is named phone" in complaint(home.server("revoke", "phone"), 2)
    assert "no client" in complaint(home.server("revoke", "sha256:"), 2)
    done = home.server("revoke", first["fingerprint"][:20])
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"revoked desk; ")
    assert home.server("revoke", "desk").returncode == 0
    one, two = home.server("clients").stdout.decode().splitlines()
    assert one.startswith("desk    sha256:")
    assert one.endswith("  revoked")
    assert "  paired 2" in two


def test_a_name_that_may_mean_two_clients(home: Home) -> None:
    home.pair("desk")
    (record,) = json.loads(home.server("clients", "--json").stdout)
    home.pair(record["fingerprint"].removeprefix("sha256:")[:8])
    which = record["fingerprint"].removeprefix("sha256:")[:8]
    line = complaint(home.server("revoke", which), 2)
    assert "may mean 2 clients" in line
    assert all(
        one["revoked"] is None for one in json.loads(home.server("clients", "--json").stdout)
    )


def test_a_wrong_command_line(home: Home) -> None:
    for words in (["nonsense"], ["revoke"], ["serve", "--ready-fd", "x"], ["enroll"]):
        done = home.server(*words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"Traceback" not in done.stderr
    for address in ("nonsense", "127.0.0.1:99999", "127.0.0.1:-1", ":", ""):
        assert "--listen" in complaint(home.server("serve", "--listen", address), 2)


def test_version_and_help(home: Home) -> None:
    assert home.server("--version").stdout.decode() == f"psync-server {psync.__version__}\n"
    assert b"revoke" in home.server("--help").stdout


def test_an_unusable_home(home: Home) -> None:
    home.env["PSYNC_SERVER_HOME"] = "relative"
    assert "not an absolute path" in complaint(home.server("status"), 2)
    home.env["PSYNC_SERVER_HOME"] = "/proc/none"
    assert "/proc/none" in complaint(home.server("serve"), 2)


def test_garbage_instead_of_a_pairing_request(home: Home) -> None:
    done = home.server("enroll", "--nonce", "0123456789abcdef")
    assert done.returncode == 125
    assert b"Traceback" not in done.stderr
    assert b"0123456789abcdef" in done.stdout  # the client is told


def test_a_reader_that_leaves_is_no_accident(home: Home) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "psync.cli.server", "clients"],
        env=home.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(20) == 141


def test_serve_is_what_it_does_when_nothing_else_is_named(home: Home) -> None:
    for words in (["--listen", "nonsense"], ["serve", "--listen", "nonsense"]):
        assert "nonsense" in complaint(home.server(*words), 2)
