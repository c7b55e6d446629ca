"""What a directory holds that is to be sent: real files, a real git."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.errors import Interrupted, SyncError
from psync.sync import git
from psync.sync.listing import Listing, case_collisions, list_tree


@pytest.fixture(params=["git", "none"])
def project(request: pytest.FixtureRequest, world: World) -> World:
    """A project that is a git working copy, and one that is none."""
    if request.param == "git":
        subprocess.run(["git", "init", "-q", world.root], check=True)
    return world


def listing(world: World, *assets: str | bytes, exclude: tuple[bytes, ...] = ()) -> Listing:
    plan = world.plan(assets=assets, exclude=exclude)
    (tree,) = plan.trees
    return list_tree(tree, root=plan.project.root, exclude=plan.exclude, environ=os.environ)


def names(world: World, *assets: str | bytes, exclude: tuple[bytes, ...] = ()) -> set[str]:
    found = {os.fsdecode(name) for name in listing(world, *assets, exclude=exclude).entries}
    return found - {"psync.toml", ".gitignore", ".psyncignore"}


def test_what_git_ignores_stays_here(project: World) -> None:
    project.file(".gitignore", b"build/\n*.o\n!keep.o\n/top\n")
    project.file("sub/.gitignore", b"*.log\n")
    for name in ("build/x", "a.o", "keep.o", "top", "sub/top", "sub/a.log", "a.log", "sub/b"):
        project.file(name)
    assert names(project) == {"keep.o", "sub/top", "sub/.gitignore", "a.log", "sub/b"}


def test_what_is_named_goes_whatever_is_ignored(project: World) -> None:
    project.file(".gitignore", b"build/\n*.o\n")
    project.file("build/game")
    project.file("build/data/x.o")
    project.file("a.o")
    project.file("b.o")
    assert names(project, "build", "a.o") == {"build/game", "build/data/x.o", "a.o"}
    assert names(project, "build/data") == {"build/data/x.o"}
    assert names(project, ".", "build/game", "a.o") == {"build/game", "a.o"}


def test_psyncs_own_patterns_have_the_last_word(project: World) -> None:
    project.file(".gitignore", b"build/\n*.dat\nnode/\n")
    project.file(".psyncignore", b"!build/\nbuild/tmp/\n*.c\n!level.dat\n!/node/one/file\n")
    for name in ("build/game", "build/x.dat", "build/tmp/x", "a.c", "a.dat", "level.dat"):
        project.file(name)
    for name in ("node/one/file", "node/one/other", "node/two/file"):
        project.file(name)
    assert names(project) == {"build/game", "build/x.dat", "level.dat", "node/one/file"}


def test_the_configuration_leaves_out_and_files_bring_back(project: World) -> None:
    project.file(".psyncignore", b"!b.tmp\n")
    for name in ("a.tmp", "b.tmp", "docs/x", "src/docs/x"):
        project.file(name)
    assert names(project, exclude=(b"*.tmp", b"/docs/")) == {"b.tmp", "src/docs/x"}


def test_git_need_not_be_there(project: World, monkeypatch: pytest.MonkeyPatch) -> None:
    project.file(".gitignore", b"*.o\n")
    project.file("a.o")
    project.file("sub/b.o")
    project.file("sub/b")
    monkeypatch.setenv("PATH", str(project.directory))
    assert names(project) == {"sub/b"}


def test_a_working_copy_in_a_working_copy_has_its_own_patterns(world: World) -> None:
    subprocess.run(["git", "init", "-q", world.root], check=True)
    subprocess.run(["git", "init", "-q", world.root / "dep"], check=True)
    world.file("dep/.gitignore", b"out/\n")
    world.file("dep/out/x")
    world.file("dep/src")
    assert names(world) == {"dep/.gitignore", "dep/src"}


def test_directories_with_nothing_in_them_go_and_vcs_never(project: World) -> None:
    project.file(".gitignore", b"*.o\n")
    (project.root / "saves").mkdir()
    project.file("objects/a.o")
    project.file(".hg/x")
    project.file("sub/.svn/x")
    project.file("sub/.psync-partial/x")
    project.file("sub/.psync-mirror")
    git = (project.root / ".git").exists()  # for git, one that holds only what it ignores is
    assert names(project) == {"saves", "sub"} | (set() if git else {"objects"})
    project.sync().wait()
    mirrored = {name for name in project.mirrored() if not name.endswith(".psync-mirror")}
    assert mirrored == {"tree/psync.toml", "tree/.gitignore"}
    assert (project.mirror / "tree/saves").is_dir()


def test_odd_names(project: World) -> None:
    odd = [b"a b", b"new\nline", b"-rf", b"host:path", b"\xff\xfe", b"wild*[card]?", b"#x", b"!x"]
    for name in odd:
        project.file(name)
        project.file(b"dir " + name + b"/x")
    project.file(".gitignore", b"\\!x\n")
    found = set(listing(project).entries)
    for name in odd:
        assert (name in found) == (name != b"!x")
        assert (b"dir " + name + b"/x") in found


def test_a_link_is_listed_and_not_followed(project: World) -> None:
    project.file("real/x")
    (project.root / "link").symlink_to("real")
    (project.root / "loop").symlink_to(".")
    assert names(project) == {"real/x", "link", "loop"}


def test_all_of_a_directory_left_out_is_told(project: World) -> None:
    project.file(".psyncignore", b"*.o\n")
    project.file("obj/a.o")
    found = listing(project, "obj")
    assert any("nothing of" in text and "obj" in text for text in found.warnings)


def test_a_directory_that_cannot_be_listed_is_named(world: World) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    world.file("secret/x")
    (world.root / "secret").chmod(0)
    try:
        with pytest.raises(SyncError, match=r"secret .Permission denied"):
            listing(world)
    finally:
        (world.root / "secret").chmod(0o755)


def test_a_path_that_is_too_long_is_named(world: World) -> None:
    here = os.open(world.root, os.O_RDONLY)
    top = os.dup(here)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with pytest.raises(SyncError, match="File name too long"):
            listing(world)
    finally:
        shutil.rmtree("d" * 250, dir_fd=top)
        os.close(top)


def test_many_levels_are_no_more_than_many(world: World) -> None:
    here = world.root
    try:
        for _ in range(1500):
            here = Path(f"{here}/d")
            os.mkdir(here)
        (here / "x").touch()
        assert names(world) == {str((here / "x").relative_to(world.root))}
    finally:
        subprocess.run(["rm", "-rf", world.root / "d"], check=True)


def test_it_can_be_cancelled(world: World) -> None:
    (tree,) = world.plan().trees
    with pytest.raises(Interrupted):
        list_tree(tree, root=world.project.root, environ=os.environ, cancelled=lambda: True)


def test_names_that_differ_only_in_case_are_told() -> None:
    assert case_collisions([b"Makefile", b"makefile", b"x", "Ä".encode(), "ä".encode()]) == (
        "Makefile and makefile differ only in case",
        "Ä and ä differ only in case",
    )


@pytest.mark.parametrize("seed", range(20))
def test_without_git_it_is_as_with_git(world: World, seed: int) -> None:
    random_ = random.Random(seed)
    words = ["a", "b", "c", "x.o", "y.o"]
    patterns = ["*.o", "!x.o", "/a", "b/", "!b/", "a/b", "**/c", "c/**", "!y.o", "# a", "[ab]"]
    for _ in range(25):
        path = "/".join(random_.choices(words, k=random_.randint(1, 4)))
        try:
            world.file(path)
        except OSError:
            continue  # a file stands where a directory would
    for directory in [world.root, *(path for path in world.root.rglob("*") if path.is_dir())]:
        if random_.random() < 0.4:
            lines = random_.choices(patterns, k=3)
            (directory / ".gitignore").write_text("\n".join(lines) + "\n")
    without = names(world)
    subprocess.run(["git", "init", "-q", world.root], check=True)
    assert git.working_copy(os.fsencode(world.root)) == os.fsencode(world.root)
    told = names(world)
    # git does not tell of ignored directories in which there is nothing
    assert {n for n in without if not (world.root / n).is_dir()} == {
        n for n in told if not (world.root / n).is_dir()
    }
