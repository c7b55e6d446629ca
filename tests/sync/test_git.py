"""What git says, with a real git and working copies that mean harm."""

import os
import subprocess
from pathlib import Path

import pytest

from psync.errors import Interrupted
from psync.sync import git


def new(root: Path, *patterns: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "-q", root], check=True)
    (root / ".gitignore").write_text("".join(f"{pattern}\n" for pattern in patterns))
    return root


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def ask(root: Path, *directories: str) -> set[str] | None:
    paths = [os.fsencode(root / name) for name in directories or (".",)]
    found = git.ignored(os.fsencode(root), [os.path.normpath(p) for p in paths], os.environ)
    return None if found is None else {os.path.relpath(os.fsdecode(p), root) for p in found}


def test_the_working_copy_is_found_upwards(tmp_path: Path) -> None:
    root = new(tmp_path / "r")
    assert git.working_copy(os.fsencode(root / "a/b")) == os.fsencode(root)
    assert git.working_copy(b"/") is None


def test_ignored_directories_stand_for_what_they_hold(tmp_path: Path) -> None:
    root = new(tmp_path / "r", "build/", "*.o", "odd*")
    touch(root, "build/x/1", "src/a.o", "src/a.c", "odd\nname")
    assert ask(root) == {"build", "src/a.o", "odd\nname"}
    assert ask(root, "src") == {"src/a.o"}
    assert ask(root, "build/x", "src") == {"build", "src/a.o"}


def test_what_is_tracked_is_not_ignored(tmp_path: Path) -> None:
    root = new(tmp_path / "r", "build/")
    touch(root, "build/kept", "build/other")
    subprocess.run(["git", "-C", root, "add", "-f", "build/kept"], check=True)
    assert ask(root) == {"build/other"}


def test_the_users_own_excludes_count(tmp_path: Path) -> None:
    root = new(tmp_path / "r")
    touch(root, "a.swp", "b.tmp")
    (root / ".git/info/exclude").write_text("*.swp\n")
    assert ask(root) == {"a.swp"}


def test_a_pattern_is_blamed(tmp_path: Path) -> None:
    root = new(tmp_path / "r", "", "build/")
    touch(root, "build/x", "a")
    path = os.fsencode(root)
    assert git.blame(path, path + b"/build/x", os.environ) == (b".gitignore", 2, b"build/")
    assert git.blame(path, path + b"/a", os.environ) is None


def test_nothing_that_the_configuration_names_is_executed(tmp_path: Path) -> None:
    root = new(tmp_path / "r", "*.o")
    touch(root, "a.o", "b")
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch '{tmp_path}/executed'\n")
    evil.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "post-checkout", "pre-auto-gc"):
        (hooks / name).symlink_to(evil)
    for key in ("core.fsmonitor", "core.pager", "core.editor", "core.sshCommand", "alias.ls-files"):
        subprocess.run(["git", "-C", root, "config", key, str(evil)], check=True)
    subprocess.run(["git", "-C", root, "config", "core.hooksPath", str(hooks)], check=True)
    for key in ("filter.x.clean", "filter.x.process", "diff.external"):
        subprocess.run(["git", "-C", root, "config", key, str(evil)], check=True)
    (root / ".gitattributes").write_text("* filter=x\n")
    assert ask(root) == {"a.o"}
    git.blame(os.fsencode(root), os.fsencode(root / "a.o"), os.environ)
    assert not (tmp_path / "executed").exists()
    # the bait works: without the precautions it is taken
    subprocess.run(["git", "-C", root, "status"], capture_output=True)
    assert (tmp_path / "executed").exists()


def test_a_hooks_environment_does_not_lead_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new(tmp_path / "r", "*.o")
    touch(root, "a.o")
    monkeypatch.setenv("GIT_DIR", str(new(tmp_path / "other") / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert ask(root) == {"a.o"}


def test_without_an_answer_there_is_none(tmp_path: Path) -> None:
    root = new(tmp_path / "r")
    nowhere = {"PATH": str(tmp_path)}
    old = os.environ["PATH"]
    try:
        os.environ["PATH"] = str(tmp_path)
        assert git.ignored(os.fsencode(root), [os.fsencode(root)], nowhere) is None
    finally:
        os.environ["PATH"] = old
    (root / ".git/config").write_text("[broken")
    assert ask(root) is None
    (root / ".git/config").write_text("[core]\nworktree = /etc\nrepositoryformatversion = 0\n")
    assert not ask(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_somebody_elses_working_copy_is_not_asked(tmp_path: Path) -> None:
    root = new(tmp_path / "r", "*.o")
    touch(root, "a.o")
    for path in (root, root / ".git", root / ".git/config"):
        os.chown(path, 12345, 12345)
    assert ask(root) is None


def test_what_a_pattern_speaks_of_is_told_from_what_merely_holds_nothing_else(
    tmp_path: Path,
) -> None:
    top = new(tmp_path / "r", "*.o", "/target/")
    touch(top, "target/a\nb/x.o", "made/x.o")
    assert ask(top) == {"target", "made", "made/x.o"}
    root = os.fsencode(top)
    asked = [root + b"/target", root + b"/made", root + b"/target/a\nb"]
    assert git.named_by_patterns(root, asked, os.environ) == {asked[0], asked[2]}
    assert git.named_by_patterns(root, asked[1:2], os.environ) == frozenset()
    assert git.named_by_patterns(root, [], os.environ) == frozenset()


def test_git_need_not_be_waited_for(tmp_path: Path) -> None:
    top = new(tmp_path / "r", "*.o")
    touch(top, "a.o")
    (top / ".git/info/exclude").unlink(missing_ok=True)
    os.mkfifo(top / ".git/info/exclude")  # git waits for somebody to write to it
    root = os.fsencode(top)
    asked = iter([False, False])
    with pytest.raises(Interrupted):
        git.ignored(root, [root], os.environ, lambda: next(asked, True))
    with pytest.raises(Interrupted):
        git.named_by_patterns(root, [root + b"/a.o"], os.environ, lambda: True)
