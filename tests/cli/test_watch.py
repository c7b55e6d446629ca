"""The command line of ``psync watch``, and what it says of a change."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from psync.cli import watch


def psync(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "psync.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_help_says_what_becomes_of_the_old_run_and_of_stdin() -> None:
    done = psync("watch", "--help")
    assert done.returncode == 0
    for word in ("--grace", "Ctrl-C", "stdin", "--assets", "WATCHFILES_FORCE_POLLING", "left out"):
        assert word in done.stdout, word
    assert "--detach" not in done.stdout
    assert "psync watch" in psync("--help").stdout


@pytest.mark.parametrize("grace", ["soon", "-1s", ""])
def test_a_grace_that_is_no_time_is_a_mistake(grace: str) -> None:
    done = psync("watch", f"--grace={grace}", "true")
    assert (done.returncode, "--grace" in done.stderr) == (2, True), done.stderr


def test_nobody_reads_a_pipe_whose_other_end_is_closed(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    assert not watch._is_unread(theirs)
    os.close(ours)
    assert watch._is_unread(theirs)
    os.close(theirs)
    with (tmp_path / "file").open("wb") as file:
        assert not watch._is_unread(file.fileno())
