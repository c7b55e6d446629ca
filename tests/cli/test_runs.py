"""Which run a word stands for, and what is known without asking a daemon."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from psync.cli.runs import command_line, no_run, nothing_local, outcome, pick, reference
from psync.errors import UsageError
from psync.model import ExitStatus, RunInfo, RunState
from psync.paths import ClientPaths

ENDED = RunState.EXITED


def info(run_id: str, name: str = "", state: RunState = RunState.RUNNING) -> RunInfo:
    return RunInfo(id=run_id, command=(b"./game",), state=state, created=1.0, name=name)


@pytest.mark.parametrize(
    ("word", "found", "which"),
    [
        ("-1", [info("b"), info("a")], "b"),
        ("-1", [], None),
        ("a1", [info("a1b"), info("a1")], "a1"),
        ("a1", [info("c", "a1"), info("a1b")], "c"),
        ("a1", [info("a1", "x"), info("c", "a1")], "a1"),
        ("web", [info("c", "web", ENDED), info("b", "web"), info("a", "web")], "b"),
        ("web", [info("c", "web", ENDED), info("b", "web", ENDED)], "c"),
        ("a", [info("abc")], "abc"),
        ("a", [], None),
        ("a", [info("b", "about")], None),
    ],
)
def test_what_a_word_stands_for(word: str, found: list[RunInfo], which: str | None) -> None:
    run = pick(word, found)
    assert (None if run is None else run.id) == which


def test_several_that_begin_alike_are_listed() -> None:
    found = [info(f"a{number}") for number in range(7)]
    with pytest.raises(UsageError) as caught:
        pick("a", found)
    assert "a0 (./game), a1 (./game)" in caught.value.message
    assert caught.value.message.endswith("and 2 more")
    assert caught.value.hint == "type more of the ID"


def test_a_reference_is_written_as_names_are() -> None:
    assert reference("-1") == "-1"
    assert reference("a\nb") == "a\\nb"
    assert len(reference("x" * 1000)) == 200
    with pytest.raises(argparse.ArgumentTypeError):
        reference("")


def test_a_command_as_a_shell_would_take_it() -> None:
    words = (b"./game", b"--level=3", b"", b"it's", b"a b", b"\x1b[2J\xff")
    run = RunInfo(id="a", command=words, state=ENDED, created=1.0)
    assert command_line(run) == """./game --level=3 '' 'it'"'"'s' 'a b' '\\x1b[2J\\xff'"""


@pytest.mark.parametrize(
    ("state", "status", "reason", "shown"),
    [
        (RunState.RUNNING, None, "", "running"),
        (RunState.STOPPING, None, "", "stopping"),
        (ENDED, ExitStatus(code=3), "exited", "exited 3"),
        (ENDED, ExitStatus(signal="SIGKILL"), "stopped", "SIGKILL"),
        (RunState.LOST, ExitStatus(lost=True), "", "lost"),
        (ENDED, ExitStatus(code=127), "exec-failed", "not executed"),
    ],
)
def test_the_state_in_a_word(
    state: RunState, status: ExitStatus | None, reason: str, shown: str
) -> None:
    run = RunInfo(id="a", command=(), state=state, created=1.0, status=status, reason=reason)
    assert outcome(run) == shown


def test_where_no_daemon_ever_was_there_are_no_runs(tmp_path: Path) -> None:
    paths = ClientPaths.from_environ({"HOME": str(tmp_path)})
    assert nothing_local(paths, finished=True)
    assert os.listdir(tmp_path) == []


def test_what_a_daemon_left_is_seen(tmp_path: Path) -> None:
    paths = ClientPaths.from_environ({"HOME": str(tmp_path)})
    runs = Path(paths.local) / "state/runs"
    runs.mkdir(parents=True)
    assert nothing_local(paths, finished=True)
    (runs / "0123456789.damaged").mkdir()
    assert nothing_local(paths, finished=True)
    (runs / "0123456789").mkdir()  # no supervisor lives there
    assert not nothing_local(paths, finished=True)
    assert nothing_local(paths, finished=False)


@pytest.mark.parametrize(
    ("word", "others", "said"),
    [
        ("-1", False, "there are no runs on deck; psync run PROGRAM starts one"),
        ("-1", True, "there are no runs on deck; psync ps -a --all-targets lists the runs of all"),
        ("web", False, "there is no run 'web' on deck; psync ps -a --on deck lists what there is"),
        ("web", True, "there is no run 'web' on deck; psync ps -a --all-targets lists the runs"),
    ],
)
def test_a_run_that_is_not_there(word: str, others: bool, said: str) -> None:
    assert str(no_run(word, "deck", others=others)).startswith(said)
