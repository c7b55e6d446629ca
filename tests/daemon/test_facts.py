"""What the daemon says about its host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import psync
from psync.daemon.facts import Facts, find_rsync, host_facts, server_executable
from psync.model import Tool


def rsync(directory: Path, text: str) -> None:
    (directory / "rsync").write_text(f"#!/bin/sh\n{text}\n")
    (directory / "rsync").chmod(0o755)


def test_facts_of_this_host() -> None:
    facts = host_facts(b"/\xff")
    assert facts.projects_root == b"/\xff"
    assert (facts.system, facts.machine) == (os.uname().sysname, os.uname().machine)
    assert facts.software == f"psync-server {psync.__version__}"
    assert facts.rsync is not None
    assert facts.rsync.version[0].isdigit()
    assert os.access(facts.server, os.X_OK)
    assert facts.server == server_executable()


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("echo 'rsync  version 3.2.7  protocol version 31'", "3.2.7"),
        ("echo 'rsync  version v3.4.0pre1  protocol version 32'", "3.4.0pre1"),
        ("echo 'openrsync: protocol version 29'", "openrsync: protocol version 29"),
        ("echo broken >&2; exit 1", "broken"),  # a client says what it cannot use, and where
        ("exit 1", "no version"),
    ],
)
def test_an_rsync_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: str
) -> None:
    rsync(tmp_path, text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_rsync() == Tool(f"{tmp_path}/rsync", version)


def test_no_rsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_rsync() is None


def test_an_rsync_that_hangs_counts_as_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rsync(tmp_path, "exec /bin/sleep 1000")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("psync.daemon.facts.PROBE_TIMEOUT", 0.1)
    assert find_rsync() is None


def test_an_rsync_that_comes_changes_and_goes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = Facts(b"/projects")
    assert facts.current().rsync is None
    rsync(tmp_path, "echo 'rsync  version 2.6.9  protocol version 29'")
    assert facts.current().rsync == Tool(f"{tmp_path}/rsync", "2.6.9")
    (tmp_path / "rsync").unlink()
    rsync(tmp_path, "echo 'rsync  version 3.10.11  protocol version 31'")
    assert facts.current().rsync == Tool(f"{tmp_path}/rsync", "3.10.11")
    (tmp_path / "rsync").unlink()
    assert facts.current().rsync is None


def test_an_rsync_that_stays_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    rsync(tmp_path, f"echo x >> {asked}; echo 'rsync  version 3.2.7  protocol version 31'")
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = Facts(b"/projects")
    assert facts.current() is facts.current()
    assert asked.read_text() == "x\n"
