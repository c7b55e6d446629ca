"""How a run ended, read from what a supervisor wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.supervisor.support import Runs, python

from psync.daemon.ending import LOST, Ending, mark_lost, read_ending
from psync.model import ExitStatus


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('x' * 9); raise SystemExit(3)", ExitStatus(code=3)),
        (
            "import os; os.write(1, b'x' * 10); os.kill(os.getpid(), 9)",
            ExitStatus(signal="SIGKILL"),
        ),
    ],
)
def test_a_run_that_ended(runs: Runs, code: str, status: ExitStatus) -> None:
    run = runs.start(python(code))
    run.wait_over()
    ending = read_ending(str(run.dir))
    assert (ending.end, ending.status, ending.reason, ending.oldest) == (10, status, "exited", 0)
    assert ending.started is not None
    assert ending.ended is not None
    assert ending.started <= ending.ended


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [(b"/nonexistent", 127, "program-not-found"), (b"/etc/passwd", 126, "not-executable")],
)
def test_a_program_that_could_not_be_executed(
    runs: Runs, program: bytes, code: int, error: str
) -> None:
    run = runs.start([program])
    run.wait_over()
    ending = read_ending(str(run.dir))
    assert (ending.end, ending.status, ending.error) == (0, ExitStatus(code=code), error)
    assert os.fsdecode(program) in ending.message


def test_without_a_record_it_is_lost_but_its_output_counts(runs: Runs) -> None:
    run = runs.start(python("print('x' * 9)"))
    run.wait_over()
    truth = read_ending(str(run.dir))
    assert truth.started is not None
    assert truth.ended is not None
    for end, name in ((10, ""), (10, "exit.json"), (0, "cursor")):
        if name:
            (run.dir / name).write_bytes(b"\xff")
        else:
            (run.dir / "exit.json").unlink()
        lost = read_ending(str(run.dir))
        assert (lost.end, lost.status, lost.reason) == (end, LOST, "")
        assert lost.started is not None
        assert lost.ended is not None
        assert lost.started <= lost.ended <= truth.ended + 1.0  # clocks of files are coarser


def test_a_lost_run_ended_no_earlier_than_its_last_output(tmp_path: Path) -> None:
    for name, when in (("supervisor.json", 100), ("output-" + "0" * 20, 300), ("cursor", 900)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    lost = read_ending(str(tmp_path))
    assert (lost.started, lost.ended) == (100.0, 300.0)
    mark_lost(str(tmp_path), 345.5)  # somebody knew better
    os.utime(tmp_path / "lost", (999, 999))
    assert read_ending(str(tmp_path)).ended == 345.5
    for text in (b"", b"nan", b"-1", b"\xff", b"1e99"):
        (tmp_path / "lost").write_bytes(text)
        assert read_ending(str(tmp_path)).ended == 300.0
    mark_lost(str(tmp_path / "gone"), 1.0)


def test_a_run_that_never_was(tmp_path: Path) -> None:
    assert read_ending(str(tmp_path)) == Ending(end=0, status=LOST)


def test_a_record_that_cannot_be_read_now_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "exit.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        read_ending(str(tmp_path))
