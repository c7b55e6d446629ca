"""A process that the kernel keeps in one directory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def confined(directory: Path, command: str, program: str = "/bin/sh") -> tuple[int, bytes]:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(directory), program, command],
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


def test_rsync_runs_in_it(inside: Path) -> None:
    rsync = shutil.which("rsync")
    assert rsync is not None
    (inside / "source").mkdir()
    (inside / "source/x").write_text("x")
    assert confined(inside, "rsync -r source/ copy/", rsync)[0] == 0
    assert (inside / "copy/x").read_text() == "x"
