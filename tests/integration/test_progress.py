"""What psync shows and tells of a sync and a run, for people and as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.field import Field

SIZE = 3_000_000
SLOW = 1000
"""Kilobytes per second of rsync here: three seconds, and rsync tells of each."""


@pytest.fixture
def field(field: Field) -> Iterator[Field]:
    """A client and a daemon host with a big file to send."""
    field.pair()
    (field.project / "assets").mkdir()
    (field.project / "assets" / "big.pak").write_bytes(random.Random(7).randbytes(SIZE))
    yield field


def slow(field: Field) -> None:
    """Have rsync send no faster than over a bad link."""
    real = shutil.which("rsync", path=field.env["PATH"])
    tools = field.directory / "slow"
    tools.mkdir()
    script = tools / "rsync"
    script.write_text(
        f'#!/bin/sh\ncase "$1" in --version) exec {real} "$@";; esac\n'
        f'exec {real} --bwlimit={SLOW} "$@"\n'
    )
    script.chmod(0o755)
    field.env["PATH"] = f"{tools}:{field.env['PATH']}"


def objects(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def test_a_sync_tells_its_events_on_stdout(field: Field) -> None:
    slow(field)
    done = field.psync("sync", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    first, *progress, last = objects(done.stdout)
    assert first == {"event": "sync-started", "target": "there", "project": field.project.name}
    assert len(progress) >= 2
    assert {one["event"] for one in progress} == {"progress"}
    counts = [one["bytes"] for one in progress]
    assert counts == sorted(counts)
    assert {one["total"] for one in progress} == {SIZE}  # of psync.toml there is nothing
    assert progress[-1]["file"] == "assets/big.pak"
    assert progress[-1]["rate"] > 0
    assert last["event"] == "sync-ended"
    assert (last["files"], last["skipped"], last["removed"]) == (2, False, 0)
    assert last["bytes"] > SIZE
    # the link is known for what it is
    (note,) = (field.home / ".local/state/psync/links").iterdir()
    assert 0 < json.loads(note.read_bytes())["rate"] < 2000 * SLOW
    (again_first, again) = objects(field.psync("sync", "--json").stdout)
    assert again_first["event"] == "sync-started"
    assert (again["files"], again["skipped"]) == (0, True)


def test_what_is_left_out_and_what_went_wrong_are_events_too(field: Field) -> None:
    os.symlink("/etc/passwd", field.project / "away")
    warning = [
        one for one in objects(field.psync("sync", "--json").stdout) if one["event"] == "warning"
    ]
    assert len(warning) == 1
    assert "away" in warning[0]["message"]
    done = field.psync("sync", "--json", "-A", "nowhere")
    assert done.returncode == 125
    assert done.stderr == b""
    error = objects(done.stdout)[-1]
    assert (error["event"], error["code"], error["exit_status"]) == ("error", "sync", 125)
    assert "nowhere" in error["message"]


def test_a_run_tells_its_events_on_stderr_and_the_output_stays_as_it_is(field: Field) -> None:
    field.script("game", "printf 'out\\n'; exit 7\n")
    done = field.psync("run", "--json", "./game")
    assert (done.returncode, done.stdout) == (7, b"out\n")
    events = {one["event"]: one for one in objects(done.stderr)}
    assert [event for event in events if event != "progress"] == [
        "sync-started",
        "sync-ended",
        "run-started",
        "run-ended",
    ]
    run = events["run-started"]["run"]
    assert events["run-ended"] == {"event": "run-ended", "run": run, "status": 7, "signal": None}
    listed = json.loads(field.psync("ps", "-a", "--json").stdout)
    assert run in [one["id"] for one in listed]


def test_a_run_that_a_signal_ended_and_one_that_was_never_one(field: Field) -> None:
    field.script("game", "kill -TERM $$\n")
    ended = objects(field.psync("run", "--json", "./game").stderr)[-1]
    assert (ended["event"], ended["status"], ended["signal"]) == ("run-ended", 143, "SIGTERM")
    done = field.psync("run", "--json", "no-such-program")
    assert done.returncode == 127
    assert objects(done.stderr)[-1]["code"] == "program-not-found"


def test_a_detached_run_tells_its_id(field: Field) -> None:
    field.script("game", "exit 0\n")
    done = field.psync("run", "--json", "--detach", "./game")
    assert done.returncode == 0, done.stderr
    assert objects(done.stderr)[-1] == {"event": "run-started", "run": done.stdout.decode().strip()}


def on_terminal(field: Field, *words: str) -> bytes:
    """Return what a psync shows on a terminal that is 100 columns wide."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    process = field.start(*words, stdin=subprocess.DEVNULL, stderr=theirs, env={"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait(30) == 0
    return shown


def test_a_long_sync_shows_how_far_it_is_on_a_terminal(field: Field) -> None:
    slow(field)
    _, *drawn, told = on_terminal(field, "sync").split(b"\r\x1b[K")
    assert drawn
    assert all(b" of 3.0 MB, " in line for line in drawn)
    assert drawn[-1].endswith(b"left, assets/big.pak")
    assert told.startswith(b"psync: sent 2 files, 3.0 MB in ")


def test_a_short_one_shows_what_it_did(field: Field) -> None:
    (field.project / "assets" / "big.pak").write_bytes(b"small")
    assert b"\x1b" not in on_terminal(field, "sync")


def test_checksum_sends_what_size_and_time_do_not_tell(field: Field) -> None:
    assert field.psync("sync").returncode == 0
    (there,) = (field.server_home / "data" / "projects").glob("*/tree/assets/big.pak")
    here = field.project / "assets" / "big.pak"
    status = here.stat()
    there.write_bytes(bytes(SIZE))
    os.utime(there, ns=(status.st_atime_ns, status.st_mtime_ns))
    # whoever has forgotten what was sent has size and time only
    for known in (field.home / ".local/state/psync/mirrors").glob("*/known"):
        known.unlink()
    assert field.psync("sync", "-n").stdout == b""
    assert b"big.pak" in field.psync("sync", "-n", "--checksum").stdout
    done = field.psync("sync", "--checksum")
    assert b"sent 1 file" in done.stderr, done.stderr
    assert there.read_bytes() == here.read_bytes()


def rsyncs(field: Field) -> Path:
    """Have the command lines of rsync here written down."""
    real = shutil.which("rsync", path=field.env["PATH"])
    tools, log = field.directory / "logged", field.directory / "rsync.log"
    tools.mkdir()
    (tools / "rsync").write_text(f'#!/bin/sh\necho "$*" >>"{log}"\nexec {real} "$@"\n')
    (tools / "rsync").chmod(0o755)
    field.env["PATH"] = f"{tools}:{field.env['PATH']}"
    return log


def sending(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "progress2" in line]


def test_only_what_can_be_compressed_is(field: Field) -> None:
    log = rsyncs(field)
    assert field.psync("sync", "-A", "assets").returncode == 0
    assert " -z " not in sending(log)[0]
    (field.project / "text").write_bytes(b"some words, " * 100_000)
    log.write_text("")
    assert field.psync("sync", "-A", "text").returncode == 0
    assert " -z " in sending(log)[0]


def test_sync_strips_the_programs_that_it_is_named(field: Field) -> None:
    compiler = shutil.which("cc")
    strip = shutil.which("strip") or shutil.which("llvm-strip")
    if compiler is None or strip is None:
        pytest.skip("needs a compiler and strip")
    source = field.directory / "game.c"
    source.write_text("int main(void) { return 0; }\n")
    programs = [field.project / "game", field.project / "tools" / "editor"]
    programs[1].parent.mkdir()
    for program in programs:
        subprocess.run([compiler, "-g", "-o", str(program), str(source)], check=True, timeout=30)
    done = field.psync("sync", "--strip", "debug", "-A", "game", "-A", "tools/editor")
    assert done.returncode == 0, done.stderr
    (tree,) = (field.server_home / "data" / "projects").glob("*/tree")
    for program in programs:
        there = tree / program.relative_to(field.project)
        assert there.stat().st_size < program.stat().st_size
    assert field.psync("run", "--no-sync", "./game").returncode == 0
