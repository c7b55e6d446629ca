"""How a run ended, read from what a supervisor wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.supervisor.support import Runs, python

from psync.daemon.ending import LOST, Ending, read_ending
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
    (run.dir / "exit.json").unlink()
    assert read_ending(str(run.dir)) == Ending(end=10, status=LOST)
    (run.dir / "exit.json").write_bytes(b"\xff")
    assert read_ending(str(run.dir)) == Ending(end=10, status=LOST)
    (run.dir / "cursor").write_bytes(b"\xff")
    assert read_ending(str(run.dir)) == Ending(end=0, status=LOST)


def test_a_run_that_never_was(tmp_path: Path) -> None:
    assert read_ending(str(tmp_path)) == Ending(end=0, status=LOST)


def test_a_record_that_cannot_be_read_now_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "exit.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        read_ending(str(tmp_path))
