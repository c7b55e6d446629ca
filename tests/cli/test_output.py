"""What psync itself says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.cli.output import SyncReport, report, say, say_now, size, span
from psync.errors import ProgramNotFound
from psync.sync.rsync import Progress, Summary

SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (12_345_678, "12.3 MB"),
        (5_000_000_000, "5.0 GB"),
        (5_000_000_000_000, "5000.0 GB"),
    ],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0.0s"),
        (-1e300, "0.0s"),
        (1e300, "1157407d09h"),
        (0.49, "0.4s"),
        (9.99, "9.9s"),
        (10, "10s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_399, "23h59m"),
        (86_400, "1d00h"),
        (400 * 86_400, "400d00h"),
    ],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_line_is_one_line_whatever_is_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo\x1b[31m \udcff ü")
    assert capfd.readouterr().err == "psync: one\\ntwo\\x1b[31m \\xff ü\n"


def test_an_error_is_told_with_its_hint_and_has_a_status(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert report(ProgramNotFound("no ./x", hint="build it")) == 127
    assert capfd.readouterr().err == "psync: no ./x; build it\n"


def with_stderr(fd: int, act: Callable[[], None]) -> None:
    """Call ``act`` with descriptor 2 leading elsewhere."""
    saved = os.dup(2)
    try:
        os.dup2(fd, 2)
        act()
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def test_a_stuck_stderr_does_not_hold_up_the_loop() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    with_stderr(writer, lambda: say_now("dropped"))
    os.close(writer)
    os.close(reader)


def test_a_closed_stderr_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with_stderr(writer, lambda: say("to nobody"))
    os.close(writer)


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        (Summary(0, 61, 0.04), "psync: nothing had changed, 61 bytes in 0.0 s\n"),
        (Summary(1, 1234, 0.26), "psync: sent 1 file, 1.2 kB in 0.3 s\n"),
        (Summary(12, 5_000_000, 2.0), "psync: sent 12 files, 5.0 MB in 2.0 s\n"),
    ],
)
def test_a_sync_is_summed_up_in_a_line(
    capfd: pytest.CaptureFixture[str], summary: Summary, line: str
) -> None:
    SyncReport(verbose=True).end(summary)
    assert capfd.readouterr().err == line


def test_where_nobody_watches_a_sync_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    quiet = SyncReport(verbose=False)
    quiet.progress(Progress(5, 50, 1.0))
    quiet.end(Summary(3, 100, 1.0))
    assert capfd.readouterr().err == ""


def test_what_is_left_out_is_always_told(capfd: pytest.CaptureFixture[str]) -> None:
    quiet = SyncReport(verbose=False)
    quiet.warning("not sent: a device")
    quiet.waiting(None)
    assert capfd.readouterr().err.splitlines() == [
        "psync: warning: not sent: a device",
        "psync: waiting for another sync of this project: unknown process",
    ]


BAR = """
import psync.cli.output as output
from psync.sync.rsync import Progress, Summary
output.BAR_AFTER = -1.0
shown = output.SyncReport(verbose=False)
shown.progress(Progress(5_000_000, 50, 2e6, 1, 10, 20))
shown.end(Summary(2, 10_000_000, 5.0))
"""


def test_a_terminal_gets_a_bar_and_then_the_line() -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", BAR],
        stderr=theirs,
        env={"PYTHONPATH": SOURCES, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not chunk:
            break
        said += chunk
    os.close(ours)
    assert process.wait(20) == 0
    assert b"5.0 MB, 2.0 MB/s, 10 files to go" in said
    assert said.endswith(b"psync: sent 2 files, 10.0 MB in 5.0 s\r\n")
