"""What a mirror holds that is not sent, and its removal, in real mirrors."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.errors import Interrupted, SyncError
from psync.sync.clean import Cleaning, Sent, sent_by, way_to
from psync.sync.plan import OUTSIDE, TREE
from psync.sync.source import Source

ODD = (b"-rf", b"a b", b"new\nline", b"\xff\xfe", b"co:lon", b"a -> b", b"*", b"#", b"\\#012", b"~")


def synced(world: World) -> World:
    world.file("src/main.c")
    world.file("data/level", b"level")
    world.sync().wait()
    return world


def cleaning(world: World, *, folds_case: bool = False) -> Cleaning:
    source = Source(world.plan(), os.environ)
    source.look()
    return Cleaning(
        world.endpoint,
        os.fsencode(world.mirror),
        sent_by(source),
        state=world.state,
        folds_case=folds_case,
    )


def put(world: World, name: bytes, content: bytes = b"junk", part: str = "tree") -> Path:
    path = world.mirror / part / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_an_exact_mirror_has_no_surplus(anywhere: World) -> None:
    world = synced(anywhere)
    before = world.mirrored()
    found = cleaning(world).find()
    assert found.empty
    assert cleaning(world).remove(found) == ()
    assert world.mirrored() == before


def test_what_is_not_sent_goes_and_nothing_else(anywhere: World) -> None:
    world = synced(anywhere)
    before = world.mirrored()
    put(world, b"saves/deep/down/slot", b"12345")
    put(world, b"src/main.o", b"123")
    put(world, b"etc/passwd", part="outside")
    (world.mirror / "tree/empty/er").mkdir(parents=True)
    one = cleaning(world)
    found = one.find()
    assert found.outermost == (b"outside/etc/", b"tree/empty/", b"tree/saves/", b"tree/src/main.o")
    assert (found.files, found.size) == (3, 12)
    removed = one.remove(found)
    assert set(found.outermost) <= set(removed)
    assert world.mirrored() == before
    assert sorted(path.name for path in (world.mirror / "tree").iterdir()) == [
        ".psync-mirror",
        *("data", "psync.toml", "src"),
    ]
    assert list((world.mirror / "outside").iterdir()) == []
    assert one.find().empty
    world.sync().wait()  # the mark is there still
    assert world.warnings == []


def test_names_are_exact(anywhere: World) -> None:
    world = synced(anywhere)
    for name in ODD:
        world.file(b"kept/" + name)
    world.sync().wait()
    before = world.mirrored()
    for name in ODD:
        put(world, b"junk/" + name)
        put(world, b"kept/" + name + b"2")
        put(world, name + b"/inside")
    found = cleaning(world).find()
    assert set(found.outermost) == {
        b"tree/junk/",
        *(b"tree/kept/" + name + b"2" for name in ODD),
        *(b"tree/" + name + b"/" for name in ODD),
    }
    cleaning(world).remove(found)
    assert world.mirrored() == before


def test_no_link_is_followed(anywhere: World) -> None:
    world = synced(anywhere)
    precious = world.directory / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (world.mirror / "tree/link").symlink_to(precious)
    (world.mirror / "tree/dangling").symlink_to("nowhere")
    (world.mirror / "tree/up").symlink_to("../..")
    found = cleaning(world).find()
    assert found.outermost == (b"tree/dangling", b"tree/link", b"tree/up")
    cleaning(world).remove(found)
    assert (precious / "file").read_text() == "precious"
    assert cleaning(world).find().empty


def test_a_link_planted_after_the_look_is_not_followed(anywhere: World) -> None:
    world = synced(anywhere)
    precious = world.directory / "precious"
    put(world, b"logs/deep/file")
    found = cleaning(world).find()
    shutil.rmtree(world.mirror / "tree/logs")
    (precious / "deep").mkdir(parents=True)
    (precious / "deep/file").write_text("precious")
    (world.mirror / "tree/logs").symlink_to(precious)
    try:
        cleaning(world).remove(found)
    except SyncError:
        pass
    assert (precious / "deep/file").read_text() == "precious"


def test_what_is_neither_file_nor_link_goes_too(anywhere: World, tmp_path: Path) -> None:
    world = synced(anywhere)
    os.mkfifo(world.mirror / "tree/fifo")
    here = os.getcwd()
    os.chdir(world.mirror / "tree")  # a socket's path has to be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
    finally:
        os.chdir(here)
    found = cleaning(world).find()
    assert found.outermost == (b"tree/fifo", b"tree/socket")
    cleaning(world).remove(found)
    assert cleaning(world).find().empty


def test_closed_directories_are_opened_and_go(anywhere: World) -> None:
    world = synced(anywhere)
    for mode in (0o500, 0o000, 0o400):
        put(world, b"closed%o/inner/file" % mode)
        (world.mirror / f"tree/closed{mode:o}/inner").chmod(mode)
        (world.mirror / f"tree/closed{mode:o}").chmod(mode)
    found = cleaning(world).find()
    assert found.outermost == (b"tree/closed0/", b"tree/closed400/", b"tree/closed500/")
    assert (world.mirror / "tree/closed0").stat().st_mode & 0o777 == 0  # looking changes nothing
    cleaning(world).remove(found)
    assert cleaning(world).find().empty


def test_what_was_not_listed_stays_and_is_named(anywhere: World) -> None:
    world = synced(anywhere)
    put(world, b"logs/old")
    found = cleaning(world).find()
    new = put(world, b"logs/new")
    other = put(world, b"other")
    with pytest.raises(SyncError, match="tree/logs/"):
        cleaning(world).remove(found)
    assert (new.exists(), other.exists()) == (True, True)
    assert not (world.mirror / "tree/logs/old").exists()


def test_unfinished_files_go(world: World) -> None:
    synced(world)
    put(world, b"src/.psync-partial/main.c")
    found = cleaning(world).find()
    assert found.outermost == (b"tree/src/.psync-partial/",)
    cleaning(world).remove(found)
    assert cleaning(world).find().empty


def test_what_a_named_link_leads_to_counts_as_sent(world: World, tmp_path: Path) -> None:
    synced(world)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/asset").write_text("asset")
    (world.root / "linked").symlink_to(tmp_path / "elsewhere")
    plan = world.plan(assets=["linked"])
    world.sync(plan).wait()
    assert (world.mirror / "tree/linked/asset").read_text() == "asset"
    source = Source(plan, os.environ)
    source.look()
    mirror = os.fsencode(world.mirror)
    one = Cleaning(world.endpoint, mirror, sent_by(source), state=world.state)
    # the plan sends nothing but the asset
    assert one.find().outermost == (b"tree/data/", b"tree/psync.toml", b"tree/src/")


def test_where_case_does_not_count_another_spelling_is_the_same(world: World) -> None:
    synced(world)
    (world.mirror / "tree/src").rename(world.mirror / "tree/SRC")
    assert cleaning(world).find().outermost == (b"tree/SRC/",)
    assert cleaning(world, folds_case=True).find().empty


def test_nothing_sent_removes_nothing(world: World) -> None:
    synced(world)
    for sent in ((), (Sent(TREE, frozenset()), Sent(OUTSIDE, frozenset()))):
        one = Cleaning(world.endpoint, os.fsencode(world.mirror), sent, state=world.state)
        with pytest.raises(SyncError, match="nothing of the project is sent"):
            one.find()


def test_cancelled_it_says_so(world: World) -> None:
    synced(world)
    put(world, b"junk")
    one = cleaning(world)
    found = one.find()
    one.cancel()
    with pytest.raises(Interrupted):
        one.remove(found)
    with pytest.raises(Interrupted):
        one.find()
    assert (world.mirror / "tree/junk").exists()


def test_the_way_may_be_longer_than_a_path(tmp_path: Path) -> None:
    deep = b"/".join([b"x" * 200] * 30)
    with way_to([deep, b"a/b"]) as way:
        assert (Path(os.fsdecode(way)) / "a/b").is_dir()
    assert not os.path.exists(way)
