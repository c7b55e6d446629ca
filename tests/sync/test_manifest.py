"""What is removed from a mirror and what stays, with a real rsync, here and behind a real sshd."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.errors import DestinationError
from psync.sync.manifest import levels


def names(world: World) -> set[str]:
    return {name.removeprefix("tree/") for name in world.mirrored()} - {"psync.toml"}


def fill(world: World, *files: str) -> None:
    for name in files:
        world.file(name)
    world.sync().wait()


def test_what_is_gone_here_goes_there_and_what_programs_wrote_stays(anywhere: World) -> None:
    fill(anywhere, "a/b/c", "a/b/d", "x/y/z", "k")
    anywhere.file("a/link").unlink()
    (anywhere.mirror / "tree/a/save").write_text("level 7")
    (anywhere.mirror / "tree/x/log").write_text("log")
    shutil.rmtree(anywhere.root / "a/b")
    shutil.rmtree(anywhere.root / "x")
    summary = anywhere.sync().wait()
    assert names(anywhere) == {"k", "a/save", "x/log"}
    assert not (anywhere.mirror / "tree/a/b").exists()
    assert not (anywhere.mirror / "tree/x/y").exists()
    assert summary.removed == 5
    assert anywhere.warnings == []
    assert anywhere.sync().wait().removed == 0


def test_odd_names_go_too(anywhere: World) -> None:
    odd = [b"a b", b"new\nline", b"-rf", b"host:path", b"\xff\xfe", b"wild*", b"#x", b"deleting x"]
    for name in odd:
        anywhere.file(name)
        anywhere.file(b"dir " + name + b"/x")
    anywhere.file("wilder")
    anywhere.sync().wait()
    for name in odd:
        os.unlink(os.path.join(os.fsencode(anywhere.root), name))
        shutil.rmtree(os.path.join(os.fsencode(anywhere.root), b"dir " + name))
    assert anywhere.sync().wait().removed == 3 * len(odd)
    assert names(anywhere) == {"wilder"}


def test_another_command_does_not_remove_what_it_does_not_send(world: World) -> None:
    fill(world, "assets/x", "build/old", "build/game")
    (world.root / "build/old").unlink()
    (world.root / "assets/x").unlink()
    world.file("assets/y")
    world.sync(world.plan(assets=["assets"])).wait()
    assert names(world) == {"assets/y", "build/old", "build/game"}
    world.sync().wait()
    assert names(world) == {"assets/y", "build/game"}


def test_a_program_that_was_named_otherwise_before_goes(world: World) -> None:
    world.program("build/one")
    world.sync(world.plan("build/one")).wait()
    (world.root / "build/one").rename(world.root / "build/two")
    world.sync(world.plan("build/two")).wait()
    assert names(world) == {"build/two"}


def test_what_is_only_left_out_now_stays(world: World) -> None:
    fill(world, "a.o", "b")
    world.sync(world.plan(exclude=[b"*.o"])).wait()
    assert names(world) == {"a.o", "b"}
    (world.root / "a.o").unlink()
    world.sync(world.plan(exclude=[b"*.o"])).wait()
    assert names(world) == {"b"}


def test_what_a_program_wrote_where_something_was_removed_stays(world: World) -> None:
    fill(world, "save", "b")
    (world.root / "save").unlink()
    world.sync().wait()
    (world.mirror / "tree/save").write_text("by the program")
    world.sync().wait()
    world.file("save")
    (world.root / "save").unlink()
    world.sync().wait()
    assert names(world) == {"save", "b"}


def test_a_file_becomes_a_directory_and_back(anywhere: World) -> None:
    fill(anywhere, "x", "y/z")
    (anywhere.root / "x").unlink()
    shutil.rmtree(anywhere.root / "y")
    fill(anywhere, "x/z", "y")
    assert names(anywhere) == {"x/z", "y"}
    shutil.rmtree(anywhere.root / "x")
    fill(anywhere, "x")
    assert names(anywhere) == {"x", "y"}


def test_a_directory_with_a_programs_files_is_not_removed_for_a_file(world: World) -> None:
    fill(world, "x/a")
    (world.mirror / "tree/x/save").write_text("level 7")
    shutil.rmtree(world.root / "x")
    world.file("x")
    with pytest.raises(DestinationError, match="not empty"):
        world.sync().wait()
    assert names(world) == {"x/save"}


# Nothing is removed


def test_an_empty_source_removes_nothing_and_says_so(world: World) -> None:
    fill(world, "assets/a", "assets/sub/b", "k")
    plan = world.plan(assets=["assets"])
    shutil.rmtree(world.root / "assets")
    (world.root / "assets").mkdir()
    for _ in range(2):
        world.warnings.clear()
        world.sync(plan).wait()
        assert names(world) == {"assets/a", "assets/sub/b", "k"}
        (warning,) = world.warnings
        assert "assets is empty" in warning
        assert "2 files" in warning or "3 files" in warning


def test_another_directory_in_the_projects_place_removes_nothing(world: World) -> None:
    fill(world, "a", "b")
    world.root.rename(world.directory / "moved")
    world.root.mkdir()
    world.file("psync.toml")
    world.file("b")
    for _ in range(2):
        world.warnings.clear()
        world.sync().wait()
        assert names(world) == {"a", "b"}
        assert any("not the one that it was" in warning for warning in world.warnings)
    world.file("a")
    world.sync().wait()
    (world.root / "a").unlink()
    world.sync().wait()  # the new directory has been whole once
    assert names(world) == {"b"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_mount_that_is_gone_removes_nothing(world: World) -> None:
    disk = world.root / "data/disk"
    disk.mkdir(parents=True)
    world.file("data/disk/.placeholder")
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("mounting is not possible here")
    try:
        fill(world, "data/disk/a", "data/b", "data/c")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    (world.root / "data/c").unlink()
    world.sync().wait()
    assert names(world) == {"data/disk/a", "data/disk/.placeholder", "data/b"}
    assert any("nothing is mounted on" in warning for warning in world.warnings)


def test_another_mirror_in_the_place_removes_nothing(anywhere: World) -> None:
    fill(anywhere, "a", "b")
    shutil.rmtree(anywhere.mirror)
    anywhere.make_mirror()
    (anywhere.mirror / "tree/a").write_text("of a program over there")
    (anywhere.root / "a").unlink()
    anywhere.sync().wait()
    assert names(anywhere) == {"a", "b"}
    assert any("not the one of the last sync" in warning for warning in anywhere.warnings)
    anywhere.warnings.clear()
    (anywhere.root / "b").unlink()
    anywhere.file("c")
    anywhere.sync().wait()
    assert "c" in names(anywhere)


def test_nothing_outside_of_the_mirror_is_removed(anywhere: World, tmp_path: Path) -> None:
    fill(anywhere, "a/b/c", "a/d", "k")
    precious = tmp_path / "precious"
    (precious / "b").mkdir(parents=True)
    (precious / "b/c").write_text("precious")
    (precious / "d").write_text("precious")
    shutil.rmtree(anywhere.mirror / "tree/a")
    (anywhere.mirror / "tree/a").symlink_to(precious)
    shutil.rmtree(anywhere.root / "a")
    anywhere.sync().wait()
    assert (precious / "b/c").read_text() == "precious"
    assert (precious / "d").read_text() == "precious"


def test_a_lost_or_damaged_record_removes_nothing(world: World) -> None:
    for damage in (b"", b"{", b"\0\xff\n"):
        fill(world, "a", "b")
        (file,) = Path(world.state).glob("mirrors/*/tree/manifest")
        file.write_bytes(damage)
        (world.root / "a").unlink()
        world.sync().wait()
        assert names(world) == {"a", "b"}


def test_two_targets_and_two_checkouts_do_not_mix(world: World, tmp_path: Path) -> None:
    fill(world, "a", "b")
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    other.state = world.state
    fill(other, "b")
    assert names(world) == {"a", "b"}
    (other.root / "b").unlink()
    other.file("c")
    other.sync().wait()
    assert names(other) == {"c"}
    assert names(world) == {"a", "b"}


def test_directories_come_after_what_they_hold() -> None:
    assert levels((b"a/", b"a/b/", b"a/b/c", b"d", b"e/")) == [
        (b"a/b/c", b"d"),
        (b"a/b",),
        (b"a", b"e"),
    ]
