"""What psync itself says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.cli.output import report, say, say_now, size, span
from psync.errors import ProgramNotFound

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


LINES = """
from psync.cli.output import drawn, say
drawn().draw("half")
say("words")
drawn().draw("more")
drawn().erase()
drawn().erase()
say("the end")
"""


def test_other_words_take_the_place_of_the_line_that_is_drawn_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LINES],
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": SOURCES},
        timeout=30,
        check=True,
    )
    clear = b"\r\x1b[K"
    assert done.stderr == (
        clear + b"half" + clear + b"psync: words\n" + clear + b"more" + clear + b"psync: the end\n"
    )
