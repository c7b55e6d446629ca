"""A process that the kernel keeps in one directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from psync.daemon.landlock import FAILED, command

CONFINED = """
import os, sys
from psync.daemon.landlock import confine
directory, program, *command = sys.argv[1:]
fd = os.open(directory, os.O_RDONLY)
os.fchdir(fd)
if not confine(fd, program):
    sys.exit(77)
os.execv("/bin/sh", ["sh", "-c", *command])
"""


def confined(directory: Path, text: str, program: str = "/bin/sh") -> tuple[int, bytes]:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(directory), program, text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=30,
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no Landlock")
    return done.returncode, done.stdout


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A directory with links that lead out of it."""
    directory = tmp_path / "inside"
    directory.mkdir()
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "empty").mkdir()
    (directory / "up").symlink_to("..")
    (directory / "link").symlink_to("../secret")
    return directory


def test_inside_everything_works(inside: Path) -> None:
    command = "mkdir a && echo hello >a/x && mv a/x y && cat y && ln -s y z && rm -r a && cat z"
    assert confined(inside, command) == (0, b"hello\nhello\n")


@pytest.mark.parametrize(
    "command",
    [
        "echo evil >up/new",
        "echo evil >up/secret",
        "echo evil >>link",
        ": >link",
        "rm -f up/secret",
        "mkdir up/new",
        "rmdir up/empty",
        "ln -s x up/new",
        "mv up/secret here",
        "ln up/secret here",
        "touch x && mv x up/secret",
        "cat up/secret",
        "cat link",
    ],
)
def test_no_link_leads_out(inside: Path, command: str) -> None:
    status, output = confined(inside, command)
    assert (status != 0, output) == (True, b"")
    above = inside.parent
    assert (above / "secret").read_text() == "secret\n"
    assert sorted(path.name for path in above.iterdir()) == ["empty", "inside", "secret"]


def test_a_program_from_elsewhere_may_read_what_it_needs_and_still_not_write(inside: Path) -> None:
    elsewhere = str(inside.parent / "bin/rsync")
    assert confined(inside, "cat link", elsewhere) == (0, b"secret\n")
    assert confined(inside, "echo evil >link", elsewhere)[0] != 0


@pytest.mark.parametrize("command", ["ls up/", "ls up/empty", "ls /etc", "ls /tmp", "ls -d up/*"])
def test_no_directory_outside_is_listed(inside: Path, command: str) -> None:
    _, output = confined(inside, command)
    assert b"secret" not in output
    assert b"passwd" not in output
    assert output in (b"", b"up/*\n")


# -- the program that it is ------------------------------------------------------------------


def started(
    directory: Path, *argv: str | bytes, writes: bool, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        return subprocess.run(
            command(fd, argv, writes=writes),
            input=stdin,
            capture_output=True,
            env={"A": "b"},
            pass_fds=[fd],
            timeout=30,
        )
    finally:
        os.close(fd)


@pytest.fixture
def _landlock(tmp_path: Path) -> None:
    confined(tmp_path, "true")


@pytest.mark.usefixtures("_landlock")
def test_a_command_is_executed_in_the_directory_and_writes_there_only(inside: Path) -> None:
    text = "cat; pwd; echo $A; echo new >new; echo evil >up/new"
    done = started(inside, "/bin/sh", "-c", text, writes=True, stdin=b"in\n")
    lines = done.stdout.splitlines()
    assert lines[:3] == [b"in", os.fsencode(inside), b"b"]
    assert (inside / "new").read_text() == "new\n"
    assert not (inside.parent / "new").exists()


@pytest.mark.usefixtures("_landlock")
@pytest.mark.parametrize(
    "text",
    ["echo x >new", "echo x >>kept", ": >kept", "rm kept", "mv kept x", "mkdir x", "ln kept x"],
)
def test_a_command_that_only_reads_writes_nowhere(inside: Path, text: str) -> None:
    (inside / "kept").write_text("kept\n")
    before = sorted(inside.iterdir())
    assert started(inside, "/bin/sh", "-c", text, writes=False).returncode != 0
    assert started(inside, "/bin/cat", "kept", writes=False).stdout == b"kept\n"
    assert sorted(inside.iterdir()) == before
    assert (inside / "kept").read_text() == "kept\n"


def test_words_of_a_command_are_bytes(inside: Path) -> None:
    words = [b"\xff\xfe", "ü".encode(), b"a b\n", b"", b"-x"]
    done = started(inside, "/usr/bin/printf", b"%s|", *words, writes=True)
    assert done.stdout == b"|".join(words) + b"|"


def test_a_command_inherits_no_descriptor_of_the_directory(inside: Path) -> None:
    program = "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in range(3, 20)"
    program += " if os.path.exists(f'/proc/self/fd/{n}')))"
    # a program from elsewhere, so that it may read /proc
    python = inside.parent / "python"
    python.symlink_to(sys.executable)
    done = started(inside, str(python), "-I", "-S", "-c", program, writes=True)
    assert done.returncode == 0, done
    assert os.fsencode(inside) not in done.stdout


def test_a_command_that_is_not_there_is_named(inside: Path) -> None:
    done = started(inside, "/no/such/rsync", "--server", writes=True)
    assert done.returncode == FAILED
    assert b"/no/such/rsync cannot be started: No such file" in done.stderr
    assert b"Traceback" not in done.stderr


def test_rsync_runs_in_it(inside: Path) -> None:
    rsync = shutil.which("rsync")
    assert rsync is not None
    (inside / "source").mkdir()
    (inside / "source/x").write_text("x")
    assert confined(inside, "rsync -r source/ copy/", rsync)[0] == 0
    assert (inside / "copy/x").read_text() == "x"
