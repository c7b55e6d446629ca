"""``psync`` as a process: help, version, unknown commands, missing descriptors, defects."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import psync
from psync.cli.main import COMMANDS

COMMAND = [sys.executable, "-P", "-m", "psync.cli.main"]
SOURCES = str(Path(__file__).parents[2] / "src")


def call(
    *words: str, home: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": SOURCES, **(env or {})}
    return subprocess.run(
        [*COMMAND, *words],
        env=environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_alone_it_prints_help_and_fails(tmp_path: Path) -> None:
    done = call(home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: psync COMMAND")


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help(tmp_path: Path, word: str) -> None:
    done = call(word, home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert f"psync {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(tmp_path: Path, command: str) -> None:
    done = call(command, "--help", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: psync {command} ")
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_version(tmp_path: Path) -> None:
    done = call("--version", home=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"psync {psync.__version__}\n")


@pytest.mark.parametrize("redirections", ["<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_no_trouble(tmp_path: Path, redirections: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *COMMAND, "run", "./nothing"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": SOURCES},
        cwd=tmp_path,
        capture_output=True,
        timeout=50,
    )
    assert done.returncode == 127
    assert (b"does not exist" in done.stderr) == ("2>&-" not in redirections)


def test_nobody_reading_is_no_failure(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=50,
            env={"HOME": str(tmp_path), "PYTHONPATH": SOURCES},
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_defect_is_one_line_and_125(tmp_path: Path) -> None:
    breaking = "import psync.cli.main as m; m.dispatch = lambda argv: 1 / 0; m.main()"
    env = {"HOME": str(tmp_path), "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", breaking]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50)
    assert done.returncode == 125
    assert done.stderr == (
        "psync: a defect in psync: ZeroDivisionError: division by zero; PSYNC_DEBUG=1 shows where\n"
    )
    env["PSYNC_DEBUG"] = "1"
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50)
    assert "Traceback" in done.stderr


def test_no_home_is_told(tmp_path: Path) -> None:
    done = call("targets", home=tmp_path, env={"XDG_CONFIG_HOME": "relative"})
    assert done.returncode == 0  # the specification says to ignore it
    assert done.stdout.startswith("* local ")


def test_the_common_path_starts_without_what_it_does_not_need() -> None:
    heavy = {"asyncio", "ssl", "picows", "cryptography", "rich", "tomlkit", "secrets", "ipaddress"}
    code = "import sys; b = set(sys.modules); import psync.cli.run; print(*set(sys.modules) - b)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=50,
    )
    assert set(done.stdout.split()) & heavy == set()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["run", "--help"], ["targets"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_cannot_be_printed_is_a_failure(
    tmp_path: Path, words: list[str], unbuffered: str
) -> None:
    environ = {"HOME": str(tmp_path), "PYTHONPATH": SOURCES, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, timeout=50, env=environ
        )
    said = b"psync: stdout could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (125, said)


def test_a_closed_stdout_is_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "--version"],
        stderr=subprocess.PIPE,
        timeout=50,
        env={"HOME": str(tmp_path), "PYTHONPATH": SOURCES},
    )
    assert (done.returncode, done.stderr) == (0, b"")
