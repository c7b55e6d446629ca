"""``psync sync --clean``: the mirror holds what is sent, and nothing else."""

from __future__ import annotations

import os
import pty
import signal
from pathlib import Path

import pytest
from tests.support.field import Field, read_until


@pytest.fixture
def littered(paired: Field) -> Path:
    """A mirror in which programs have written."""
    (paired.project / "data").write_text("data")
    done = paired.psync("sync")
    assert done.returncode == 0, done.stderr
    mirror = paired.mirror()
    for name in ("tree/save", "tree/logs/deep/log", "outside/x"):
        path = mirror / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("written there")
    return mirror


def files(mirror: Path) -> set[str]:
    return {
        str(path.relative_to(mirror))
        for top in ("tree", "outside")
        for path in (mirror / top).rglob("*")
        if path.name != ".psync-mirror"
    }


def sent(field: Field) -> set[str]:
    return {f"tree/{path.relative_to(field.project)}" for path in field.project.rglob("*")}


def test_it_says_what_it_would_remove(paired: Field, littered: Path) -> None:
    done = paired.psync("sync", "--clean", "--dry-run")
    assert done.stdout.decode().splitlines() == [
        *("remove outside/x", "remove tree/logs/", "remove tree/save")
    ]
    assert "tree/save" in files(littered)


def test_it_needs_a_terminal_or_yes(paired: Field, littered: Path) -> None:
    done = paired.psync("sync", "--clean")
    assert done.returncode == 2
    assert b"--yes" in done.stderr
    assert "tree/save" in files(littered)
    done = paired.psync("sync", "--clean", "--yes")
    assert done.returncode == 0, done.stderr
    assert files(littered) == sent(paired)
    # nothing is left to remove, and the mirror is known
    done = paired.psync("sync", "--clean", "--yes", "--dry-run")
    assert (done.stdout, done.returncode) == (b"", 0)
    done = paired.psync("sync")
    assert done.stderr.startswith(b"psync: nothing had changed, 0 bytes")


@pytest.mark.parametrize(("answer", "gone"), [(b"y\n", True), (b"n\n", False), (b"\n", False)])
def test_it_asks(paired: Field, littered: Path, answer: bytes, gone: bool) -> None:
    here, there = pty.openpty()
    process = paired.start("sync", "--clean", stdin=there)
    os.close(there)
    try:
        said = read_until(process, b"[y/N] ", stderr=True)
        assert (
            b"remove 3 files (39 bytes) from the mirror: outside/x, tree/logs/, tree/save?" in said
        )
        os.write(here, answer)
        assert process.wait(30) == 0
    finally:
        os.close(here)
    assert ("tree/save" not in files(littered)) is gone


def test_ctrl_c_at_the_question_removes_nothing(paired: Field, littered: Path) -> None:
    here, there = pty.openpty()
    process = paired.start("sync", "--clean", stdin=there)
    os.close(there)
    try:
        read_until(process, b"[y/N] ", stderr=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        said = process.stderr.read()
    finally:
        os.close(here)
    assert said.splitlines()[-1] == (b"psync: interrupted while psync asked; nothing was removed")
    assert "tree/save" in files(littered)
