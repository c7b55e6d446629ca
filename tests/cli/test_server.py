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
    said = json.loads(status.stdout)
    assert (status.returncode, said["running"], said["daemon"]) == (1, False, None)
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
    assert f"  127.0.0.1:{said['daemon']['port']} (from this host only" in status.stdout.decode()


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
