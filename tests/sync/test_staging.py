"""What arrives, and what of it gets into its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from psync.errors import DestinationError
from psync.sync.staging import MUNGED, NotAskedFor, Placed, Staging
from psync.sync.wanted import Wanted

EVERYTHING = Wanted([b"."])


class Into:
    """A destination, and what comes into its staging directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.placed: list[Placed] = []
        self.left: dict[bytes, str] = {}
        self.failed: dict[bytes, str] = {}

    def staging(self) -> Staging:
        return Staging(os.fsencode(self.path))

    def leave(self, name: bytes, why: str, failure: bool) -> None:
        (self.failed if failure else self.left)[name] = why

    def place(self, staging: Staging, came: Path, prefix: bytes = b"") -> None:
        staging.place(
            os.fsencode(came),
            prefix,
            keep=frozenset([b".gitignore"]),
            on_placed=self.placed.append,
            on_left=self.leave,
        )


@pytest.fixture
def into(tmp_path: Path) -> Into:
    (tmp_path / "into").mkdir()
    return Into(tmp_path / "into")


def directory(staging: Staging, name: bytes = b"0") -> Path:
    return Path(os.fsdecode(staging.directory(name)))


def write(path: Path, content: str = "new", mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def munged(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.fsdecode(MUNGED) + target)


def test_files_get_into_their_places(into: Into) -> None:
    write(into.path / "a/old", "old")
    write(into.path / "a/mine", "mine")
    with into.staging() as staging:
        came = directory(staging)
        write(came / "a/old")
        write(came / "b/c/deep", mode=0o600)
        (came / "b").chmod(0o700)
        (came / "empty").mkdir()
        munged(came / "b/link", "c/deep")
        staging.check(os.fsencode(came), EVERYTHING)
        into.place(staging, came)
    assert (into.path / "a/old").read_text() == "new"
    assert (into.path / "a/mine").read_text() == "mine"
    assert (into.path / "b/c/deep").stat().st_mode & 0o777 == 0o600
    assert (into.path / "b").stat().st_mode & 0o777 == 0o700
    assert os.readlink(into.path / "b/link") == "c/deep"
    assert sorted(path.name for path in into.path.iterdir()) == ["a", "b"]
    assert {one.name: one.size for one in into.placed} == {
        b"a/old": 3,
        b"b/c/deep": 3,
        b"b/link": 6,
    }
    assert into.left == into.failed == {}


def test_no_link_in_the_destination_is_followed(into: Into, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside / "file", "precious")
    (into.path / "dir").symlink_to(outside)
    (into.path / "file").symlink_to(outside / "file")
    with into.staging() as staging:
        came = directory(staging)
        write(came / "dir/file")
        write(came / "dir/new")
        write(came / "file")
        into.place(staging, came)
    assert (outside / "file").read_text() == "precious"
    assert os.listdir(outside) == ["file"]
    assert list(into.failed) == [b"dir"]
    assert not (into.path / "file").is_symlink()


def test_what_stands_in_the_way_is_named_and_stays(into: Into) -> None:
    (into.path / "file").mkdir()
    write(into.path / "dir", "a file")
    with into.staging() as staging:
        came = directory(staging)
        write(came / "file")
        munged(came / "file2/link", "x")
        write(came / "dir/inner")
        (into.path / "file2/link").mkdir(parents=True)
        into.place(staging, came)
    assert into.failed == {
        b"file": "a directory stands in its place",
        b"file2/link": "a directory stands in its place",
        b"dir": "a link or a file stands where a directory belongs",
    }
    assert (into.path / "dir").read_text() == "a file"


def test_modes_are_harmless(into: Into) -> None:
    with into.staging() as staging:
        came = directory(staging)
        write(came / "root", mode=0o6777)
        into.place(staging, came)
    assert stat.S_IMODE((into.path / "root").stat().st_mode) == 0o755


def test_links_that_lead_out_are_left_out_and_named(into: Into) -> None:
    with into.staging() as staging:
        came = directory(staging)
        munged(came / "out", "../secret")
        munged(came / "abs", "/etc/passwd")
        munged(came / "twice", "/rsyncd-munged/etc")
        (came / "raw").symlink_to("/etc/passwd")
        into.place(staging, came)
    assert sorted(into.left) == [b"abs", b"out", b"raw", b"twice"]
    assert os.listdir(into.path) == []


@pytest.mark.parametrize("kind", ["strange", "dot git", "fifo", "file above", "link above"])
def test_what_was_not_asked_for_is_refused(into: Into, kind: str) -> None:
    with into.staging() as staging:
        came = directory(staging)
        write(came / "saves/slot1")
        if kind == "strange":
            write(came / "Makefile")
        elif kind == "dot git":
            write(came / "saves/slot2/.git/config")
        elif kind == "fifo":
            os.mkfifo(came / "saves/slot1.fifo")
        elif kind == "file above":
            write(came / "more")
        else:
            munged(came / "more", "/etc")
        wanted = Wanted([b"saves", b"more/deep"])
        with pytest.raises(NotAskedFor):
            staging.check(os.fsencode(came), wanted)
    assert os.listdir(into.path) == []


def test_two_files_of_one_name_are_not_taken_for_one(into: Into) -> None:
    with into.staging() as staging:
        for number, content in ((b"0", "first"), (b"1", "second")):
            write(directory(staging, number) / "x", content)
            into.place(staging, directory(staging, number))
    assert (into.path / "x").read_text() == "first"
    assert list(into.failed) == [b"x"]


def test_a_prefix_is_made(into: Into) -> None:
    with into.staging() as staging:
        write(directory(staging) / "etc/x")
        into.place(staging, directory(staging), b"outside")
    assert (into.path / "outside/etc/x").read_text() == "new"


def test_what_is_to_be_kept_is_kept(into: Into) -> None:
    write(into.path / ".gitignore", "*\n")
    with into.staging() as staging:
        write(directory(staging) / ".gitignore", "!*\n")
        write(directory(staging) / "sub/.gitignore", "x\n")
        into.place(staging, directory(staging))
    assert (into.path / ".gitignore").read_text() == "*\n"
    assert list(into.left) == [b".gitignore"]
    assert (into.path / "sub/.gitignore").read_text() == "x\n"


def test_what_a_killed_pull_left_goes_and_what_is_at_work_stays(into: Into) -> None:
    write(into.path / ".psync-partial/pull-dead/0/file")
    write(into.path / ".psync-partial/other/file")
    with into.staging() as first:
        assert not (into.path / ".psync-partial/pull-dead").exists()
        with into.staging():
            assert os.path.isdir(first.root)
        assert os.path.isdir(first.root)
    assert os.listdir(into.path / ".psync-partial") == ["other"]


def test_a_link_is_no_staging_directory(into: Into, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (into.path / ".psync-partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DestinationError), into.staging():
        pass
    assert os.listdir(tmp_path / "elsewhere") == []


def test_cancelled_it_moves_nothing_more(into: Into) -> None:
    with into.staging() as staging:
        write(directory(staging) / "x")
        staging.place(
            os.fsencode(directory(staging)),
            cancelled=lambda: True,
            on_placed=into.placed.append,
            on_left=into.leave,
        )
    assert (into.placed, os.listdir(into.path)) == ([], [])
