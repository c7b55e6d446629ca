"""What values say of themselves, whoever sent them."""

from __future__ import annotations

import msgspec
import pytest

from psync.model import ExitStatus, RunInfo


@pytest.mark.parametrize(
    ("status", "returncode"),
    [
        (ExitStatus(code=0), 0),
        (ExitStatus(code=255), 255),
        (ExitStatus(signal="SIGTERM"), 143),
        (ExitStatus(signal="SIGRTMIN+3"), 165),
        (ExitStatus(signal="SIGNOTHING"), 128),
        (ExitStatus(signal="SIGRTMIN+x"), 162),
        (ExitStatus(signal="SIGRTMIN+" + "9" * 5000), 162),
        (ExitStatus(lost=True), 255),
    ],
)
def test_the_status_that_a_shell_would_show(status: ExitStatus, returncode: int) -> None:
    assert status.returncode == returncode


@pytest.mark.parametrize("fields", [{}, {"code": 0, "lost": True}, {"code": 1, "signal": "SIGINT"}])
def test_an_exit_status_says_one_thing(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, ExitStatus)


@pytest.mark.parametrize("run_id", ["", "--kill", "a b", "a\n", "A1", "x" * 33, "../a"])
def test_what_is_no_run_id_never_reaches_a_command_line(run_id: str) -> None:
    run = {"id": run_id, "command": [], "state": "running", "created": 1.0}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(run, RunInfo)
    assert msgspec.convert({**run, "id": "4f1c9e02ab"}, RunInfo).id == "4f1c9e02ab"
