"""``psync pull`` as it is typed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from tests.support.field import Field


@pytest.fixture
def field() -> Iterator[Field]:
    with Field(sshd=False) as made:
        (made.project / "a").write_text("a")
        yield made


def test_what_cannot_be_typed(field: Field) -> None:
    for words, said in (
        (["pull"], b"PATH"),
        (["pull", ""], b"must not be empty"),
        (["pull", "-o", "", "a"], b"must not be empty"),
        (["pull", ".git"], b".git is never synced"),
        (["pull", "-o", "a", "a"], b"psync sync sends"),
        (["pull", "--overwrite-source", "/etc/x"], b"--into"),
    ):
        done = field.psync(*words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_the_help_names_what_there_is(field: Field) -> None:
    said = field.psync("pull", "--help").stdout
    for word in (b"--into", b"--overwrite-source", b"--dry-run", b"--json", b"--on", b"pulled"):
        assert word in said
    assert b"psync pull" in field.psync("--help").stdout


def test_a_tree_comes_back_and_git_does_not_see_it(field: Field) -> None:
    subprocess.run(["git", "init", "-q", str(field.project)], check=True, timeout=30)
    (field.project / ".gitignore").write_text("*.o\n")
    assert field.psync("sync").returncode == 0
    done = field.psync("pull", ".")
    assert done.returncode == 0, done.stderr
    assert (field.project / "pulled/a").read_text() == "a"
    assert b"not pulled: .gitignore: it would take the place of psync's own" in done.stderr
    status = ["git", "-C", str(field.project), "status", "--porcelain", "--untracked-files=all"]
    shown = subprocess.run(status, check=True, capture_output=True, timeout=30).stdout
    assert b"pulled" not in shown
    assert b"pulled" not in field.psync("sync", "-n").stdout


def test_another_directory(field: Field) -> None:
    assert field.psync("sync").returncode == 0
    into = field.directory / "else where"
    done = field.psync("pull", "--into", str(into), "a")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in into.iterdir()] == ["a"]
    (into / "a").write_text("changed here")
    assert field.psync("pull", "-o", str(into), "./a").returncode == 0
    assert (into / "a").read_text() == "a"
