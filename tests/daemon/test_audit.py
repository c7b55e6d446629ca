"""The audit log."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.daemon.test_guard import client

from psync.daemon.audit import REFUSALS, Audit, shown_command
from psync.model import ExitStatus, RunInfo, RunState
from psync.transport.filelock import FileLock
from psync.transport.quiet import Note


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_what_when_and_from_where(path: Path) -> None:
    Audit(str(path), clock=lambda: 1_800_000_000.5).write(
        "connected", client(), address="192.0.2.7", reason="because"
    )
    assert lines(path) == [
        {
            "time": "2027-01-15T08:00:00.500Z",
            "event": "connected",
            "client": "desk",
            "fingerprint": "sha256:" + "a" * 64,
            "address": "192.0.2.7",
            "reason": "because",
        }
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_whatever_it_is_told_is_one_harmless_line(path: Path) -> None:
    audit = Audit(str(path))
    nasty = "\x1b]0;x\x07\n\u202e\udc80\x85" + "long" * 1000
    audit.write(
        "started",
        name=nasty,
        address=nasty,
        run=nasty,
        project=nasty,
        command=[nasty.encode("utf-8", "surrogateescape"), b"\xff\n", b"x" * 100_000],
        reason=nasty,
    )
    (line,) = lines(path)
    assert len(path.read_bytes()) < 8000
    for value in line.values():
        assert str(value).isprintable()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([b"./game", b"--level", b"3"], "./game --level 3"),
        ([b"a b", b"", b"it's"], "'a b' '' 'it'\\''s'"),
        ([b"\xff\n"], "\\xff\\n"),
        ([], ""),
    ],
)
def test_a_command_is_readable(words: list[bytes], shown: str) -> None:
    assert shown_command(words) == shown


def test_a_long_command_is_cut() -> None:
    shown = shown_command([b"word"] * 100_000)
    assert len(shown) == 300
    assert shown.endswith("…")


def test_it_is_rotated_and_the_oldest_goes(path: Path) -> None:
    audit = Audit(str(path), largest=1000, kept=2)
    for number in range(60):
        audit.write("opened", project=f"p{number}")
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert set(names) - {"audit.jsonl"} == {"audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.lock"}
    found = [
        line["project"]
        for name in ("audit.jsonl.2", "audit.jsonl.1", "audit.jsonl")
        if name in names
        for line in lines(path.with_name(name))
    ]
    assert found == [f"p{number}" for number in range(60 - len(found), 60)]
    assert 10 < len(found) < 60
    for name in names:
        assert path.with_name(name).stat().st_size < 1200


def test_who_rotates_waits_for_nobody(path: Path) -> None:
    audit = Audit(str(path), largest=100)
    audit.write("opened", project="first")
    with FileLock(f"{path}.lock"):
        audit.write("opened", project="second" * 20)
    assert not path.with_name("audit.jsonl.1").exists()
    audit.write("opened", project="third")
    assert len(lines(path.with_name("audit.jsonl.1"))) == 3


WRITER = """
import sys
from psync.daemon.audit import Audit
audit = Audit(sys.argv[1], largest=20_000, kept=50)
print("ready", flush=True)
sys.stdin.read(1)
for number in range(400):
    audit.write("opened", project=f"{sys.argv[2]}-{number}")
"""


def test_several_processes_lose_and_mix_nothing(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, path, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for who in "abc"
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    for process in started:
        with process:
            assert process.wait(50) == 0
    files = [entry for entry in path.parent.iterdir() if not entry.name.endswith(".lock")]
    found = [line["project"] for file in files for line in lines(file)]
    assert sorted(found) == sorted(f"{who}-{n}" for who in "abc" for n in range(400))
    assert len(files) > 3


def test_a_disk_that_takes_nothing_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    audit = Audit(str(in_the_way / "audit.jsonl"))
    for _ in range(5):
        audit.write("opened")
    (record,) = caplog.records
    assert "cannot write" in record.message


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit("/dev/full")
    audit.write("opened")
    assert "No space left" in caplog.text


def test_it_follows_no_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "other"
    link = tmp_path / "audit.jsonl"
    link.symlink_to(target)
    Audit(str(link)).write("opened")
    assert not target.exists()
    assert "cannot write" in caplog.text


def test_many_refusals_of_one_client_become_few_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 50.0
    monkeypatch.setattr("psync.daemon.audit.time.monotonic", lambda: now)
    audit = Audit(str(path))
    for _ in range(1000):
        audit.refused(client(), "192.0.2.7", "no")
    audit.refused(client(client_id="other-0123456789abcdef", name="other"), "192.0.2.8", "no")
    assert len(lines(path)) == REFUSALS + 1
    assert lines(path)[-1]["client"] == "other"
    now += 61
    audit.refused(client(), "192.0.2.7", "no")
    assert lines(path)[-1]["more"] == 1000 - REFUSALS


def test_strangers(path: Path) -> None:
    Audit(str(path)).note(Note(30, "tls", "192.0.2.9", "turned away 192.0.2.9: it hung up", 7))
    (line,) = lines(path)
    assert (line["event"], line["address"], line["more"]) == ("refused", "192.0.2.9", 7)
    assert "hung up" in line["reason"]


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        (ExitStatus(code=3), "exited", "exit status 3"),
        (ExitStatus(signal="SIGKILL"), "disconnected", "SIGKILL (disconnected)"),
        (ExitStatus(lost=True), "", "lost"),
    ],
)
def test_how_runs_end(path: Path, status: ExitStatus, reason: str, said: str) -> None:
    run = RunInfo(
        id="0a1b",
        command=(b"true",),
        state=RunState.EXITED,
        created=1.0,
        client="desk",
        status=status,
        reason=reason,
    )
    Audit(str(path)).exited(run)
    (line,) = lines(path)
    assert (line["event"], line["run"], line["client"]) == ("exited", "0a1b", "desk")
    assert line["reason"] == said
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
