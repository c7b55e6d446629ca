"""What the daemon says about its host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import psync
from psync.daemon.facts import Facts, emulated_machines, find_rsync, host_facts, server_executable
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


def test_emulators_that_are_registered(tmp_path: Path) -> None:
    def register(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)

    arm = "7f454c460201010000000000000000000200b700"
    register("status", "enabled\n")
    register("register", "")
    register(
        "qemu-aarch64", f"enabled\ninterpreter /q\nflags: OC\noffset 0\nmagic {arm}\nmask ff\n"
    )
    register("qemu-arm", f"disabled\noffset 0\nmagic {arm.replace('b7', '28')}\n")
    register("jar", "enabled\ninterpreter /j\nextension .jar\n")
    register("other", "enabled\noffset 0\nmagic 4d5a\n")
    register("odd", "enabled\noffset 0\nmagic 7f454c4\n")
    assert emulated_machines(str(tmp_path)) == ("aarch64",)
    assert emulated_machines(str(tmp_path / "none")) == ()


def test_the_loaders_of_this_host_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psync.daemon.facts.LOADERS", (b"/bin/sh", b"/no/such/loader"))
    assert host_facts(b"/p").loaders == (b"/bin/sh",)
    facts = Facts(b"/p")
    monkeypatch.setattr("psync.daemon.facts.LOADERS", (b"/bin/sh", b"/bin/ls"))
    assert facts.current().loaders == (b"/bin/sh", b"/bin/ls")
