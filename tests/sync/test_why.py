"""Why a file is left out."""

import os
import subprocess

import pytest
from tests.sync.world import World

from psync.sync.why import Reason, why


def reason(world: World, path: str, *assets: str, exclude: tuple[bytes, ...] = ()) -> Reason:
    plan = world.plan(assets=assets, exclude=exclude)
    return why(plan, os.fsencode(world.root / path), os.environ)


@pytest.mark.parametrize("with_git", [True, False])
def test_the_pattern_is_named_with_file_and_line(world: World, with_git: bool) -> None:
    if with_git:
        subprocess.run(["git", "init", "-q", world.root], check=True)
    world.file(".gitignore", b"# built\nbuild/\n")
    world.file("sub/.psyncignore", b"*.log\n!keep.log\n")
    for name in ("build/x", "sub/a.log", "sub/keep.log", "a.tmp", "b"):
        world.file(name)
    options = {"exclude": (b"x", b"*.tmp")}
    left = reason(world, "build/x", **options)
    assert not left.sent
    assert left.text.endswith(".gitignore:2: build/")
    left = reason(world, "sub/a.log", **options)
    assert not left.sent
    assert left.text.endswith("sub/.psyncignore:1: *.log")
    assert "[sync] exclude:2: *.tmp" in reason(world, "a.tmp", **options).text
    assert reason(world, "sub/keep.log", **options).sent
    assert reason(world, "b", **options).sent
    assert reason(world, "build/x", ".", "build/x").sent


def test_what_is_not_held_and_what_never_goes(world: World) -> None:
    world.file("a/x")
    world.file("b")
    world.file("a/.git/HEAD")
    (world.root / "a/out").symlink_to("/etc")
    assert "nothing that is named holds it" in reason(world, "b", "a").text
    assert "never sent" in reason(world, "a/.git/HEAD").text
    assert "leaves the project" in reason(world, "a/out").text
    assert reason(world, "a/none").text == "there is no such file"
    assert reason(world, "a/x", "a").sent
