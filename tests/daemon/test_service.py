"""A daemon in the background: started once, whoever asks, and found by everybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.daemon import Home
from tests.support.waiting import alive, wait_until

from psync.daemon.logfile import LARGEST
from psync.daemon.service import ensure, running
from psync.errors import ConfigError, PsyncError


def test_five_starters_at_once_get_the_same_daemon(home: Home) -> None:
    code = (
        "import os, sys\n"
        "from psync.daemon.service import ensure\n"
        "from psync.paths import ServerPaths\n"
        "sys.stdin.readline()\n"
        "print(ensure(ServerPaths.from_environ(os.environ), os.environ).pid)"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=home.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(b"go\n")
        starter.stdin.flush()
    pids = set()
    for starter in starters:
        output, _ = starter.communicate(timeout=40)
        assert starter.returncode == 0
        pids.add(int(output))
    (pid,) = pids
    assert alive(pid)
    wait_until(lambda: _daemons(home) == [pid])  # the slower ones leave


def _daemons(home: Home) -> list[int]:
    mark = f"PSYNC_SERVER_HOME={home.env['PSYNC_SERVER_HOME']}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if marked and b"serve" in words:
            found.append(int(entry.name))
    return found


def test_the_daemon_is_nobodys_terminal_and_lives_in_the_root(home: Home) -> None:
    presence = ensure(home.paths, home.env)
    assert ensure(home.paths, home.env) == presence == running(home.paths)
    process = Path(f"/proc/{presence.pid}")
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(presence.pid) == presence.pid
    assert os.readlink(process / "fd/0") == "/dev/null"
    assert os.readlink(process / "fd/1") == os.readlink(process / "fd/2") == home.paths.log
    assert Path(home.paths.log).stat().st_mode & 0o777 == 0o600


def test_why_it_did_not_start_is_told_with_its_class(home: Home) -> None:
    home.directory.joinpath("there").mkdir(mode=0o700)
    (home.directory / "there/server.toml").write_text("nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        ensure(home.paths, home.env)
    assert running(home.paths) is None


def test_a_daemon_that_dies_at_once(home: Home) -> None:
    with pytest.raises(PsyncError, match="ended while it started"):
        ensure(home.paths, {**home.env, "PYTHONPATH": "/nonexistent", "PYTHONHOME": "/nonexistent"})


def test_a_large_log_is_moved_aside(home: Home) -> None:
    os.makedirs(home.paths.state, 0o700)
    with open(home.paths.log, "wb") as log:
        log.truncate(LARGEST + 1)
    ensure(home.paths, home.env)
    assert os.stat(f"{home.paths.log}.1").st_size == LARGEST + 1
    assert os.stat(home.paths.log).st_size < 1000


def test_a_dead_daemons_note_is_not_believed(home: Home) -> None:
    presence = home.start()
    assert running(home.paths) == presence
    home.leave(9)
    assert running(home.paths) is None
    assert json.loads(Path(home.paths.record).read_text())["pid"] == presence.pid
