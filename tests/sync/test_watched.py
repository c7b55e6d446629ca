"""Which directories are watched for a plan."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from psync.sync import watched as module
from psync.sync.plan import SyncPlan, plan_sync
from psync.sync.project import Project
from psync.sync.watched import Watched, watched

GIT = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "game"
    for name in ("src/deep", "target/debug", "assets/levels"):
        (root / name).mkdir(parents=True)
    (root / "src/a.c").touch()
    (root / "target/debug/game").touch()
    return root


def look(root: Path, *assets: str, program: str | None = None) -> Watched:
    return watched(plan(root, *assets, program=program), os.environ)


def plan(root: Path, *assets: str, program: str | None = None) -> SyncPlan:
    return plan_sync(
        Project("game-1", bytes(root), "game"),
        cwd=bytes(root),
        program=None if program is None else bytes(root / program),
        assets=[os.fsencode(one) for one in assets],
        include=(),
    )


def names(root: Path, paths: frozenset[bytes]) -> set[str]:
    return {os.path.relpath(os.fsdecode(path), root) for path in paths}


def repository(root: Path, ignored: str) -> None:
    subprocess.run(["git", "init", "-q", root], check=True, timeout=30)
    (root / ".gitignore").write_text(ignored)


def test_a_file_is_watched_through_the_directories_above_it(root: Path) -> None:
    found = look(root, program="target/debug/game")
    assert names(root, found.flat) == {".", "target", "target/debug"}
    assert found.deep == found.split == frozenset()
    assert found.holds(bytes(root / "target/debug/game"))
    assert not found.holds(bytes(root / "target/debug/game.d"))
    assert not found.holds(bytes(root / ".gitignore"))  # it has no say about what was named


def test_what_lies_outside_of_the_project_is_watched_and_nothing_far_above_it(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/data.bin").touch()
    found = look(root, str(tmp_path / "elsewhere/data.bin"))
    assert found.holds(bytes(tmp_path / "elsewhere/data.bin"))
    assert bytes(tmp_path / "elsewhere") in found.flat
    assert bytes(tmp_path) not in found.flat


def test_a_directory_is_watched_with_all_it_holds_but_for_what_is_never_sent(root: Path) -> None:
    (root / ".git/objects").mkdir(parents=True)
    found = look(root)
    assert names(root, found.deep) == {"src", "target", "assets"}
    assert names(root, found.split) == {"."}
    assert found.holds(bytes(root / "src/deep/b.c"))
    assert not found.holds(bytes(root / ".git/index"))
    assert not found.holds(bytes(root / "src/.git/index"))
    assert not found.holds(bytes(root.parent / "game2/a.c"))


@GIT
def test_what_git_ignores_is_not_watched(root: Path) -> None:
    repository(root, "/target/\n/src/deep/\n")
    (root / "src/other").mkdir()
    found = look(root)
    assert names(root, found.deep) == {"src/other", "assets"}
    assert names(root, found.split) == {".", "src"}


@GIT
def test_a_directory_with_nothing_in_it_but_what_is_ignored_is_watched(root: Path) -> None:
    repository(root, "*.o\n/target/\n")
    (root / "made").mkdir()
    (root / "made/x.o").touch()
    (root / "src/made").mkdir()
    (root / "src/made/x.o").touch()
    assert names(root, look(root).deep) == {"src", "assets", "made"}


@GIT
def test_the_program_is_watched_where_git_ignores_it(root: Path) -> None:
    repository(root, "/target/\n")
    found = look(root, ".", program="target/debug/game")
    assert "target/debug" in names(root, found.flat)
    assert "target" not in names(root, found.deep)


@GIT
def test_many_ignored_directories_are_watched_like_all_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(root, "cache\n")
    for number in range(5):
        (root / f"src/{number}/cache").mkdir(parents=True)
        (root / f"src/{number}/a.c").touch()
    (root / "cache").mkdir()
    assert len(look(root).split) > 2
    monkeypatch.setattr(module, "MOST_LEFT_OUT", 3)
    found = look(root)
    assert names(root, found.split) == {"."}
    assert "cache" not in names(root, found.deep)


def test_patterns_of_psync_count(root: Path) -> None:
    (root / ".psyncignore").write_text("/target\n")
    assert names(root, look(root).deep) == {"src", "assets"}


def test_a_link_is_followed_only_if_it_was_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/a").mkdir(parents=True)
    (root / "disk").symlink_to(tmp_path / "disk")
    assert bytes(tmp_path / "disk") not in look(root).split
    found = look(root, "disk")
    assert found.split == {bytes(tmp_path / "disk")}
    assert found.behind_link(bytes(tmp_path / "disk/a/x"))
    assert not found.behind_link(bytes(root / "src/a.c"))


def test_which_changes_mean_that_something_else_has_to_be_watched(root: Path) -> None:
    found = look(root, "src", "assets", program="target/debug/game")
    (root / "src/new").mkdir()
    (root / "src/b.c").touch()
    (root / "target/new").mkdir()
    yes = ["src", "assets", "src/deep", "src/new", "target", ".gitignore", "src/.psyncignore"]
    no = ["src/a.c", "src/b.c", "target/debug/game", "target/new", "other", "other/.gitignore"]
    assert [one for one in yes if not found.outdated_by(bytes(root / one))] == []
    assert [one for one in no if found.outdated_by(bytes(root / one))] == []
