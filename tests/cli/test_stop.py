"""``psync stop``: its command line."""

from __future__ import annotations

import argparse

import pytest
from tests.support.field import Field

from psync.cli.stop import signal_name


@pytest.mark.parametrize("word", ["SIGINT", "INT", "int", "sigint", "2"])
def test_signals_by_name_and_number(word: str) -> None:
    assert signal_name(word) == "SIGINT"


@pytest.mark.parametrize("word", ["", "0", "99", "-2", "SIG", "SIGNOTHING", "²"])
def test_no_signal(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="there is no signal"):
        signal_name(word)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RUN is missing"),
        (["--all", "a1"], "--all stops every run"),
        (["--kill", "--signal", "INT", "a1"], "not allowed with argument"),
        (["--grace", "long", "a1"], "is not a duration"),
        (["--signal", "NOTHING", "a1"], "there is no signal 'NOTHING'"),
        ([""], "RUN must not be empty"),
    ],
)
def test_a_wrong_command_line(words: list[str], said: str) -> None:
    with Field(sshd=False) as field:
        done = field.psync("stop", *words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr.decode()


def test_nothing_to_stop_starts_no_daemon() -> None:
    with Field(sshd=False) as field:
        done = field.psync("stop", "--all")
        assert (done.returncode, done.stderr) == (0, b"psync: nothing is running on local\n")
        done = field.psync("stop", "web")
        said = (
            b"psync: there is no run 'web' on local; psync ps -a --on local lists what there is\n"
        )
        assert (done.returncode, done.stderr) == (2, said)
        assert not field.local_home.exists()
