"""The revision of a source tree: what git itself says, and what a hostile tree says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from psync.client.revision import source_revision

ONE = "1" * 40
ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.invalid",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.invalid",
}

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


def git(where: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=where, env=ENV, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    git(root, "commit", "-q", "--allow-empty", "-m", "one")
    return root


def found(path: Path) -> str:
    return source_revision(bytes(path))


@needs_git
def test_it_is_what_git_says(tree: Path) -> None:
    (tree / "deep" / "er").mkdir(parents=True)
    head = git(tree, "rev-parse", "HEAD")
    assert found(tree) == found(tree / "deep/er") == head
    git(tree, "pack-refs", "--all")
    assert not (tree / ".git/refs/heads/main").exists()
    assert found(tree) == head
    git(tree, "checkout", "-q", "-b", "feature/two")
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    assert found(tree) == git(tree, "rev-parse", "HEAD") != head
    git(tree, "checkout", "-q", "--detach", head)
    assert found(tree) == head


@needs_git
def test_another_working_tree_has_its_own(tree: Path, tmp_path: Path) -> None:
    git(tree, "worktree", "add", "-q", "-b", "side", "../side")
    git(tmp_path / "side", "commit", "-q", "--allow-empty", "-m", "two")
    assert found(tmp_path / "side") == git(tmp_path / "side", "rev-parse", "HEAD")
    assert found(tree) == git(tree, "rev-parse", "HEAD") != found(tmp_path / "side")
    git(tree, "pack-refs", "--all")
    assert found(tmp_path / "side") == git(tmp_path / "side", "rev-parse", "HEAD")


@needs_git
def test_before_the_first_commit_there_is_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    assert found(tmp_path) == ""


def test_without_git_there_is_none(tmp_path: Path) -> None:
    assert found(tmp_path) == ""
    assert found(tmp_path / "missing") == ""


def bare(tmp_path: Path, head: bytes) -> Path:
    (tmp_path / ".git/refs/heads").mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_bytes(head)
    return tmp_path


@pytest.mark.parametrize(
    "head",
    [
        b"ref: refs/../../secret\n",
        b"ref: /etc/hostname\n",
        b"ref: refs/heads/\0x\n",
        b"ref: refs/heads/a\x1b[31m\n",
        b"ref: refs/heads\n",
        b"ref: refs/heads/loop\n",
        b"ref: refs/heads/pipe\n",
        b"\x1b[31m" + ONE.encode(),
        ONE.encode() + b"1",
        ONE.encode() + b" and more",
        b"",
        b"x" * 100_000,
    ],
)
def test_hostile_words_are_no_revision(tmp_path: Path, head: bytes) -> None:
    root = bare(tmp_path, head)
    (tmp_path / "secret").write_text(ONE)
    (root / ".git/refs/heads/loop").write_bytes(b"ref: refs/heads/loop\n")
    os.mkfifo(root / ".git/refs/heads/pipe")
    assert found(root) == ""


def test_a_pipe_or_a_directory_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a/.git").mkdir(parents=True)
    os.mkfifo(tmp_path / "a/.git/HEAD")
    assert found(tmp_path / "a") == ""
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b/.git")
    assert found(tmp_path / "b") == ""
    (tmp_path / "c/.git/HEAD").mkdir(parents=True)
    assert found(tmp_path / "c") == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([".git", ".git/HEAD", ".git/packed-refs"]), data=st.binary())
def test_whatever_stands_there_it_is_a_revision_or_nothing(
    tmp_path: Path, name: str, data: bytes
) -> None:
    shutil.rmtree(tmp_path / "t", ignore_errors=True)
    (tmp_path / "t").mkdir()
    if name != ".git":
        bare(tmp_path / "t", b"ref: refs/heads/main\n")
    (tmp_path / "t" / name).write_bytes(b"gitdir: " + data if name == ".git" else data)
    assert found(tmp_path / "t") in ("", data.decode("latin-1").strip())
