"""What is known of the files here, from one sync to the next."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.errors import Interrupted, SyncError
from psync.sync.listing import Stat
from psync.sync.plan import SyncPlan
from psync.sync.source import Source


def looked(world: World, plan: SyncPlan | None = None) -> Source:
    source = Source(plan or world.plan(), os.environ)
    source.look()
    return source


def stats(source: Source) -> dict[bytes, dict[bytes, Stat]]:
    return {part.tree.destination: dict(part.stats) for part in source.parts}


def fresh(source: Source) -> set[bytes]:
    assert source.fresh is not None
    return {part.tree.destination + b"/" + name for part in source.fresh for name in part.stats}


def path(world: World, name: str) -> bytes:
    return os.fsencode(world.root / name)


def test_a_file_that_changed_is_the_only_one_that_is_fresh(world: World) -> None:
    for name in ("a", "d/b", "d/c"):
        world.file(name)
    source = looked(world)
    world.file("d/b", b"changed")
    assert source.refresh([path(world, "d/b"), path(world, "a")])
    assert fresh(source) == {b"tree/d/b"}
    assert stats(source) == stats(looked(world))
    assert source.refresh([])
    assert fresh(source) == set()


def test_what_is_new_is_judged_by_the_rules(world: World) -> None:
    world.file(".psyncignore", b"*.o\nskipped/\n")
    world.file("d/a")
    source = looked(world)
    for name in ("new", "d/new", "d/e/f/new", "d/x.o", "skipped/new", "d/.git/new"):
        world.file(name)
    (world.root / "d/link").symlink_to("a")
    changed = ["new", "d/new", "d/e", "d/x.o", "skipped/new", "d/.git", "d/link", "never was"]
    assert source.refresh([path(world, name) for name in changed])
    assert fresh(source) == {
        *(b"tree/new", b"tree/d/new", b"tree/d/e", b"tree/d/e/f", b"tree/d/e/f/new", b"tree/d/link")
    }
    assert stats(source) == stats(looked(world))


@pytest.mark.parametrize("asked", [True, False], ids=["git", "no git"])
def test_what_git_ignores_is_not_new(world: World, asked: bool) -> None:
    if asked:
        subprocess.run(["git", "init", "-q", world.root], check=True)
    world.file(".gitignore", b"*.o\n/target/\n")
    world.program("target/debug/game")
    world.file("d/a")
    source = looked(world, world.plan("target/debug/game", assets=["."]))
    for name in ("d/x.o", "d/new", "target/debug/other", "e/x.o", "e/new"):
        world.file(name)
    world.file("target/debug/game", b"#!/bin/sh\nexit\n", 0o755)
    changed = ["d/x.o", "d/new", "target/debug/other", "target/debug/game", "e", "target"]
    assert source.refresh([path(world, name) for name in changed])
    assert fresh(source) == {*(b"tree/d/new", b"tree/target/debug/game", b"tree/e", b"tree/e/new")}


@pytest.mark.parametrize("rules", [".gitignore", "d/.psyncignore"])
def test_rules_that_change_call_for_a_look_at_everything(world: World, rules: str) -> None:
    world.file("d/a")
    source = looked(world)
    world.file(rules, b"a\n")
    assert not source.refresh([path(world, rules)])


def test_what_is_gone_or_another_kind_of_thing_does_too(world: World) -> None:
    for name in ("gone", "file", "d/a"):
        world.file(name)
    source = looked(world)
    (world.root / "gone").unlink()
    assert not source.refresh([path(world, "gone")])
    source = looked(world)
    (world.root / "file").unlink()
    (world.root / "file").mkdir()
    assert not source.refresh([path(world, "file")])
    (world.root / "d/a").unlink()
    (world.root / "d").rmdir()
    source = looked(world)
    world.file("d")
    assert source.refresh([path(world, "d")])


def test_what_is_never_sent_is_judged_by_all_there_is(world: World) -> None:
    world.file("a")
    (world.root / "link").symlink_to("a")
    (world.root / "out").symlink_to("/etc/passwd")
    source = looked(world)
    (part,) = source.parts
    assert part.never == {b"out"} and b"out" in part.entries
    assert b"tree/link" in source.names() and b"tree/out" not in source.names()
    assert source.refresh([path(world, "out"), path(world, "link")])
    for name, target in (("link", "/etc/passwd"), ("out", "a"), ("new", "..")):
        (world.root / name).unlink(missing_ok=True)
        (world.root / name).symlink_to(target)
        assert not source.refresh([path(world, name)])
        source.look()
        assert source.refresh([path(world, name)])


def test_before_the_first_look_nothing_is_known(world: World) -> None:
    assert not Source(world.plan(), os.environ).refresh([])


def test_what_is_not_sent_is_nobodys_business(world: World, tmp_path: Path) -> None:
    world.program("build/game")
    source = looked(world, world.plan("build/game"))
    world.file("build/other")
    (tmp_path / "elsewhere").touch()
    assert source.refresh([path(world, "build/other"), os.fsencode(tmp_path / "elsewhere")])
    assert fresh(source) == set()


def test_a_link_that_was_named_is_what_it_leads_to(world: World) -> None:
    world.file("real")
    (world.root / "named").symlink_to("real")
    source = looked(world, world.plan(assets=["named"]))
    world.file("real", b"changed")
    assert source.refresh([path(world, "named")])
    assert fresh(source) == {b"tree/named"}
    (part,) = source.fresh or ()
    assert part.links == (b"named",)


def test_looking_can_be_given_up(world: World) -> None:
    world.file("a")
    source = Source(world.plan(), os.environ)
    source.cancelled = lambda: True
    with pytest.raises(Interrupted):
        source.look()


def test_what_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(SyncError, match="nothing does not exist"):
        looked(world, world.plan(assets=["nothing"]))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_known_after_changes_is_what_a_look_would_find(world: World, seed: int) -> None:
    chosen = random.Random(seed)
    names = [
        f"{'/'.join(chosen.choices('abc', k=depth))}/f{n}" for depth in (1, 2, 3) for n in range(5)
    ]
    world.file(".psyncignore", b"f1\n/a/b/\n!f3\n")
    for name in chosen.sample(names, 8):
        world.file(name)
    source = looked(world)
    for _ in range(5):
        changed = chosen.sample(names, 3)
        for name in changed:
            world.file(name, os.urandom(4))
        # a watcher may tell of the file, or of a directory that is new
        told = [chosen.choice([name, os.path.dirname(name)]) for name in changed]
        assert source.refresh([path(world, name) for name in (*told, *changed)])
        assert stats(source) == stats(looked(world))
