"""``psync ps``: what is printed of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.field import SOURCES, Field

from psync.cli.ps import as_json, as_table
from psync.model import ExitStatus, RunInfo, RunState

NOW = 1_000_000.0

GOING = RunInfo(
    id="4f1c9e02ab",
    command=(b"./game", b"--level", b"a b"),
    state=RunState.RUNNING,
    created=NOW - 100,
    started=NOW - 90,
    name="evening",
    project="my-game-0a1b2c",
    output=1_234_567,
    viewers=2,
    disconnect_grace=300.0,
)
OVER = RunInfo(
    id="0123456789",
    command=(b"\x1b]0;x\x07\xff",),
    state=RunState.EXITED,
    created=NOW - 8000,
    started=NOW - 8000,
    ended=NOW - 7990.5,
    status=ExitStatus(signal="SIGSEGV"),
    reason="exited",
)


def test_runs_that_go_on() -> None:
    shown = as_table([("deck", GOING)], several=False, finished=False, now=NOW).splitlines()
    assert shown[0].split() == (
        ["ID", "NAME", "PROJECT", "COMMAND", "STATE", "DURATION", "OUTPUT", "VIEWERS"]
    )
    assert shown[1] == (
        "4f1c9e02ab  evening  my-game-0a1b2c  ./game --level 'a b'  "
        "running     1m30s  1.2 MB        2"
    )
    assert len(shown[0]) == len(shown[1])


def test_finished_ones_have_an_age_and_several_targets_their_names() -> None:
    pairs = [("deck", GOING), ("board", OVER)]
    shown = as_table(pairs, several=True, finished=True, now=NOW).splitlines()
    assert [line.split()[2] for line in shown] == ["TARGET", "deck", "board"]
    assert shown[0].split()[4:7] == ["STATE", "AGE", "DURATION"]
    assert shown[1].split()[-6:] == ["running", "1m40s", "1m30s", "1.2", "MB", "2"]
    command = "'\\x1b]0;x\\x07\\xff'"
    assert shown[2].split()[:5] == ["0123456789", "-", "board", command, "SIGSEGV"]
    assert shown[2].split()[5:] == ["2h13m", "9.5s", "0", "bytes", "0"]


def test_json_holds_all_there_is_and_survives_any_byte() -> None:
    row = json.loads(json.dumps(as_json("board", OVER)))
    assert row == {
        "target": "board",
        "id": "0123456789",
        "name": "",
        "project": None,
        "client": "",
        "revision": "",
        "command": ["\x1b]0;x\x07\udcff"],
        "state": "exited",
        "exit_code": None,
        "signal": "SIGSEGV",
        "exit_status": 139,
        "reason": "exited",
        "created": "1970-01-12T11:33:20.000Z",
        "started": "1970-01-12T11:33:20.000Z",
        "ended": "1970-01-12T11:33:29.500Z",
        "output": 0,
        "oldest": 0,
        "viewers": 0,
        "disconnect_grace": None,
        "overflow": "block",
    }


def test_every_field_is_named_in_the_help() -> None:
    with Field(sshd=False) as field:
        said = field.psync("ps", "--help").stdout.decode()
    assert [key for key in as_json("board", GOING) if key not in said] == []


def test_no_daemon_is_started_only_to_say_that_there_is_nothing() -> None:
    with Field(sshd=False) as field:
        for words in (["ps", "-a", "--json"], ["ps", "--json", "--all-targets"]):
            done = field.psync(*words)
            assert (done.returncode, done.stdout, done.stderr) == (0, b"[]\n", b"")
        done = field.psync("ps")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
        done = field.psync("ps", "-q")
        assert (done.returncode, done.stdout) == (0, b"")
        assert not field.local_home.exists()


def test_options_that_exclude_each_other() -> None:
    with Field(sshd=False) as field:
        for words in (["--json", "-q"], ["--on", "local", "--all-targets"], ["extra"]):
            done = field.psync("ps", *words)
            assert (done.returncode, done.stdout) == (2, b"")
            assert done.stderr.endswith(b"; see psync ps --help\n")


def test_nothing_heavy_is_imported_to_say_so(tmp_path: Path) -> None:
    code = """
import sys
before = set(sys.modules)
from psync.cli.main import dispatch
dispatch(["ps", "-q"])
heavy = {"asyncio", "ssl", "cryptography", "rich", "tomlkit", "picows", "json", "subprocess"}
print(*heavy & (set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HOME": str(tmp_path), "PYTHONPATH": SOURCES},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        timeout=50,
        check=True,
    )
    assert done.stdout == b"\n"
