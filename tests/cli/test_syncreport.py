"""How a sync is shown."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from psync.cli import events
from psync.cli.syncreport import LINE_AFTER, LOGGED_EVERY, SyncReport, _columns, progress_line
from psync.errors import PsyncError
from psync.sync.lock import Holder
from psync.sync.rsync import Progress, Summary

SOURCES = str(Path(__file__).parents[2] / "src")
HALF = Progress(50_000_000, 50, 2e6, 3, 10, 20, b"assets/big.pak", 100_000_000)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = 1000.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("psync.cli.syncreport.time.monotonic", lambda: now)
    return pass_time


@pytest.mark.parametrize(
    ("summary", "line"),
    [
        (Summary(0, 61, 0.04), "psync: nothing had changed, 61 bytes in 0.0 s\n"),
        (Summary(1, 1234, 0.26), "psync: sent 1 file, 1.2 kB in 0.3 s\n"),
        (Summary(12, 5_000_000, 2.0), "psync: sent 12 files, 5.0 MB in 2.0 s\n"),
        (Summary(0, 500, 0.2, removed=3), "psync: sent nothing, removed 3, 500 bytes in 0.2 s\n"),
    ],
)
def test_a_sync_is_summed_up_in_a_line(
    capfd: pytest.CaptureFixture[str], summary: Summary, line: str
) -> None:
    SyncReport(verbose=True).end(summary)
    assert capfd.readouterr().err == line


def test_where_nobody_watches_a_sync_is_silent(
    capfd: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    quiet = SyncReport(verbose=False)
    quiet.begin("handheld", "game")
    quiet.progress(HALF)
    later(LOGGED_EVERY - 0.1)
    quiet.progress(HALF)
    quiet.end(Summary(3, 100, 1.0))
    assert capfd.readouterr().err == ""


def test_a_long_one_says_a_line_now_and_then(
    capfd: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    quiet = SyncReport(verbose=False)
    for _ in range(26):
        quiet.progress(HALF)
        later(1.0)
    line = "psync: syncing: 50%, 50.0 MB of 100.0 MB, 2.0 MB/s, 25s left, assets/big.pak"
    assert capfd.readouterr().err.splitlines() == [line, line]


def test_what_is_left_out_is_always_told(capfd: pytest.CaptureFixture[str]) -> None:
    quiet = SyncReport(verbose=False)
    quiet.warning("not sent: a device")
    quiet.waiting(None)
    assert capfd.readouterr().err.splitlines() == [
        "psync: warning: not sent: a device",
        "psync: waiting for another sync of this project: unknown process",
    ]


@pytest.fixture
def stdout_events(capfd: pytest.CaptureFixture[str]) -> object:
    events.use_json(1)
    yield
    events._stream.fd = None


@pytest.mark.usefixtures("stdout_events")
def test_events_tell_the_same(
    capfd: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    told = SyncReport(verbose=False)
    told.begin("handheld", "game")
    told.waiting(Holder(17, "psync run x\x1b", 1.0))
    told.warning("not sent: a device")
    for _ in range(3):
        told.progress(HALF)
        later(0.6)
    told.end(Summary(3, 1234, 0.56789, removed=2))
    told.end(Summary(0, 0, 0.01, skipped=True))
    out, err = capfd.readouterr()
    assert err == ""
    progress = {
        "event": "progress",
        "bytes": 50_000_000,
        "total": 100_000_000,
        "rate": 2_000_000,
        "left": 25.0,
        "files": 3,
        "file": "assets/big.pak",
    }
    ended = {"event": "sync-ended", "files": 0, "bytes": 0, "removed": 0, "skipped": False}
    since = Holder(17, "x", 1.0)
    waiting, *others = [json.loads(line) for line in out.splitlines()][1:]
    assert waiting["pid"] == since.pid
    assert waiting["command"] == "psync run x\\x1b"
    assert json.loads(out.splitlines()[0]) == {
        "event": "sync-started",
        "target": "handheld",
        "project": "game",
    }
    assert others == [
        {"event": "warning", "message": "not sent: a device"},
        progress,
        progress,  # of three within 1.2 seconds
        {**ended, "files": 3, "bytes": 1234, "removed": 2, "seconds": 0.568},
        {**ended, "seconds": 0.01, "skipped": True},
    ]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_events_that_could_not_be_written_are_a_failure_of_the_sync() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    events.use_json(full)
    try:
        told = SyncReport(verbose=False)
        told.warning("lost")
        told.end()  # something else went wrong already
        with pytest.raises(PsyncError, match="events could not be written: No space left"):
            told.end(Summary(0, 0, 0.0))
    finally:
        events._stream.fd = None
        os.close(full)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (
            100,
            "psync: 50%, 50.0 MB of 100.0 MB, 2.0 MB/s, 25s left, assets/big.pak",
        ),
        (66, "psync: 50%, 50.0 MB of 100.0 MB, 2.0 MB/s, 25s left, …ts/big.pak"),
        (60, "psync: 50%, 50.0 MB of 100.0 MB, 2.0 MB/s, 25s left"),
        (50, "psync: 50%, 50.0 MB of 100.0 MB, 2.0 MB/s"),
        (40, "psync: 50%, 50.0 MB of 100.0 MB"),
        (20, "psync: 50%"),
        (5, "psyn"),
        (1, ""),
    ],
)
def test_a_narrow_terminal_gets_what_matters(width: int, line: str) -> None:
    assert progress_line(HALF, width) == line


@given(st.integers(1, 200), st.binary(max_size=300), st.sampled_from([None, 10**12]))
def test_the_line_always_fits_and_holds_nothing_that_a_terminal_acts_on(
    width: int, name: bytes, expected: int | None
) -> None:
    line = progress_line(Progress(10**9, 1, 1e6, file=name, expected=expected), width)
    assert _columns(line) < width
    assert line.isprintable()


def test_wide_characters_take_two_columns() -> None:
    line = progress_line(Progress(5, 1, 0.0, file="漢字".encode() * 40), 60)
    assert line.startswith("psync: 5 bytes, …")
    assert 57 <= _columns(line) < 60


def test_without_a_total_there_is_no_share_and_no_time() -> None:
    assert progress_line(Progress(5000, 50, 1000.0), 80) == "psync: 5.0 kB, 1.0 kB/s"


LONG = f"""
import os, sys
import psync.cli.syncreport as syncreport
from psync.sync.rsync import Progress, Summary
now = 0.0
syncreport.time.monotonic = lambda: now
shown = syncreport.SyncReport(verbose=False)
if "shared" in sys.argv:
    shown.share_terminal()
for second in range(5):
    shown.progress(Progress(5_000_000 * second, 50, 2e6, 1, 10, 20, b"a\\xff", 40_000_000))
    now += {LINE_AFTER}
shown.end(Summary(2, 10_000_000, 5.0))
"""


def on_terminal(*words: str, columns: int = 120, env: Mapping[str, str]) -> bytes:
    """Return what a sync of five seconds shows on a terminal."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, *words],
        stderr=theirs,
        env={"PYTHONPATH": SOURCES, **env},
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
    return said


END = b"psync: sent 2 files, 10.0 MB in 5.0 s\r\n"


@pytest.mark.parametrize("more", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_a_line_that_is_drawn_again_and_then_the_sum(more: dict[str, str]) -> None:
    said = on_terminal(env={"TERM": "xterm", **more})
    drawn = said.split(b"\r\x1b[K")
    assert drawn == [
        b"",
        rb"psync: 12%, 5.0 MB of 40.0 MB, 2.0 MB/s, 17s left, a\xff",
        rb"psync: 25%, 10.0 MB of 40.0 MB, 2.0 MB/s, 15s left, a\xff",
        rb"psync: 37%, 15.0 MB of 40.0 MB, 2.0 MB/s, 12s left, a\xff",
        rb"psync: 50%, 20.0 MB of 40.0 MB, 2.0 MB/s, 10s left, a\xff",
        END,
    ]


def test_the_line_is_as_wide_as_the_terminal() -> None:
    drawn = on_terminal(columns=30, env={"TERM": "xterm"}).split(b"\r\x1b[K")
    assert len(drawn) == 6
    assert drawn[1:-1] == [
        b"psync: 12%, 5.0 MB of 40.0 MB",
        b"psync: 25%",
        b"psync: 37%",
        b"psync: 50%",
    ]


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_cannot_erase_a_line_gets_none_so_soon(term: str) -> None:
    assert on_terminal(env={"TERM": term}) == END


def test_beside_a_programs_output_no_line_is_drawn() -> None:
    assert on_terminal("shared", env={"TERM": "xterm"}) == END
