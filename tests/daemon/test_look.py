"""Looking at a mirror that programs may change: what is noted, what is trusted, what is told."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.daemon.look import (
    COARSE_STEP,
    MOST_HELD,
    STEP,
    NotToBeNoted,
    Trust,
    View,
    Way,
    await_step,
    differing,
    file_clock,
    look,
    look_again,
    missing,
)
from psync.daemon.note import NOBODY_KNOWS, Folders, Note
from psync.daemon.rsyncgate import PARTIAL_DIR

LATER = 10**10
NEVER = threading.Event()
"""Nobody gives up waiting."""


class Mirror:
    """A project's directory. What is noted here is trusted, where that is not the question."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = path / "tree"
        for name in ("tree/a", "tree/d/b", "tree/d/e/c", "outside/x"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("content")
        (self.tree / "link").symlink_to("a")
        (path / "project.json").write_text("{}")
        self.top = os.open(path, os.O_RDONLY)

    def trust(self) -> Trust:
        return Trust(time.time_ns() + LATER, time.time_ns() + LATER)

    def look(self, trust: Trust | None = None) -> View:
        view = look(self.top, trust or self.trust(), NEVER)
        await_step(self.top, file_clock(self.top), NEVER)  # later changes bear a later time
        return view

    def again(self, view: View, *names: bytes, trust: Trust | None = None) -> View:
        trust = trust or self.trust()
        return look_again(self.top, trust, view.folders, view.gone, names, NEVER)

    def changed(self, view: View) -> set[str]:
        note = Note("seal", 0, view.folders, frozenset(view.gone))
        found = list(differing(self.top, note, NEVER))
        assert len(found) == len(set(found))
        return {os.fsdecode(path) for path in found}


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path / "p-1")
    yield made
    os.close(made.top)


def paths(folders: Folders) -> set[str]:
    inner = {b"%b/%b" % (path, name) for path, one in folders.items() for name in one.listed()}
    return {os.fsdecode(path) for path in inner | folders.keys()}


ALL = {
    *("tree", "tree/a", "tree/d", "tree/d/b", "tree/d/e", "tree/d/e/c", "tree/link"),
    *("outside", "outside/x"),
}


def test_all_of_both_parts_is_noted_and_nothing_else(mirror: Mirror) -> None:
    partial = mirror.tree / "d" / os.fsdecode(PARTIAL_DIR)
    partial.mkdir()
    (partial / "b").write_text("half")
    (mirror.tree / "d" / "b\udcff").write_text("a name that is no text")
    view = mirror.look()
    assert paths(view.folders) == ALL | {"tree/d/b\udcff"}
    assert mirror.changed(view) == set()
    assert (view.gone, view.young, view.doubts) == (set(), set(), set())


def test_every_kind_of_change_is_told(mirror: Mirror) -> None:
    a = mirror.tree / "a"
    status = a.stat()

    def rewrite() -> None:
        a.write_text("CONTENT")
        os.utime(a, ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace() -> None:
        other = mirror.tree / "other"
        shutil.copy2(a, other)
        other.replace(a)

    for change in (
        *(rewrite, replace, lambda: os.link(a, mirror.path / "second")),
        *(lambda: a.chmod(0o600), lambda: os.truncate(a, 3), lambda: a.touch()),
        lambda: a.unlink(),
    ):
        view = mirror.look()
        change()
        assert mirror.changed(view) == {"tree/a"}, change


def test_a_link_and_a_directory_that_became_another(mirror: Mirror) -> None:
    view = mirror.look()
    (mirror.tree / "link").unlink()
    (mirror.tree / "link").symlink_to("d")
    (mirror.tree / "d").chmod(0o711)
    (mirror.tree / "a").unlink()
    (mirror.tree / "a").mkdir()
    assert mirror.changed(view) == {"tree/link", "tree/d", "tree/a"}


def test_what_is_new_is_no_change(mirror: Mirror) -> None:
    view = mirror.look()
    (mirror.tree / "save").write_text("new")
    (mirror.tree / "d/e/save").write_text("new")
    assert mirror.changed(view) == set()


def test_what_is_below_a_link_is_not_in_the_mirror(mirror: Mirror, tmp_path: Path) -> None:
    """A program swaps a directory for a link to one that holds the very same files."""
    view = mirror.look()
    elsewhere = tmp_path / "elsewhere"
    (mirror.tree / "d").rename(elsewhere)
    (mirror.tree / "d").symlink_to(elsewhere)
    swapped = {"tree/d", "tree/d/b", "tree/d/e", "tree/d/e/c"}
    assert mirror.changed(view) == swapped
    assert not any(path.startswith("tree/d/") for path in paths(mirror.look().folders))
    again = mirror.again(view, b"tree/d/e/c")
    assert mirror.changed(again) == swapped
    again = mirror.again(view, b"tree/d")  # the link is what was sent
    assert mirror.changed(again) == swapped - {"tree/d"}


def test_a_part_that_is_a_link_or_missing_holds_nothing(mirror: Mirror) -> None:
    shutil.rmtree(mirror.path / "outside")
    (mirror.path / "outside").symlink_to("/etc")
    view = mirror.look()
    assert not any(path.startswith("outside") for path in paths(view.folders))
    view = mirror.again(view, b"outside/passwd", b"outside")
    assert not any(path.startswith("outside") for path in paths(view.folders))
    shutil.rmtree(mirror.tree)
    assert mirror.look().folders == {}


def test_what_is_as_young_as_the_sync_is_not_trusted(mirror: Mirror) -> None:
    begun = 1_700_000_000_123_456_789
    for name, age in (("a", STEP + 1), ("d/b", STEP), ("d/e/c", -(10**9))):
        os.utime(mirror.tree / name, ns=(0, begun - age))
    trust = Trust(begun, time.time_ns() + LATER)
    view = mirror.look(trust)
    assert {"tree/d/b", "tree/d/e/c"} <= mirror.changed(view)
    assert "tree/a" not in mirror.changed(view)
    assert len(view.doubts) == 4  # and what was written just now: a link, a file outside
    assert view.young == set()
    whole = begun - begun % 10**9
    os.utime(mirror.tree / "a", ns=(0, whole))
    for age, told in ((COARSE_STEP, True), (COARSE_STEP + 1, False)):
        view = mirror.look(Trust(whole + age, trust.now))
        assert ("tree/a" in mirror.changed(view)) is told


def test_what_was_changed_within_the_step_of_the_clock_is_not_trusted(mirror: Mirror) -> None:
    old = time.time_ns() - LATER
    for name in ("a", "d/b"):
        os.utime(mirror.tree / name, ns=(old, old))
    changed_at = os.stat(mirror.tree / "a").st_ctime_ns
    view = mirror.look(Trust(changed_at, changed_at))
    assert b"tree/a" in view.young
    assert "tree/a" in mirror.changed(view)
    again = mirror.again(view, *view.young, trust=Trust(changed_at, changed_at + 1))
    assert "tree/a" not in mirror.changed(again)
    # a second look after a while is of no use where the clock was an hour ahead
    hour = 3600 * 10**9
    assert b"tree/a" not in mirror.look(Trust(changed_at, changed_at - hour)).young


def test_the_clock_of_the_file_system_goes_on(mirror: Mirror) -> None:
    (mirror.tree / "a").touch()
    written = os.stat(mirror.tree / "a").st_ctime_ns
    assert await_step(mirror.top, written, NEVER) > written
    assert await_step(mirror.top, written + LATER, NEVER) < written + LATER  # not for ever
    given_up = threading.Event()
    given_up.set()
    with pytest.raises(NotToBeNoted):
        await_step(mirror.top, written + LATER, given_up)


def test_only_what_is_named_is_looked_at_again(mirror: Mirror) -> None:
    view = mirror.look()
    (mirror.tree / "a").write_text("sent")
    (mirror.tree / "d/b").write_text("by somebody else")
    (mirror.tree / "d").chmod(0o711)
    (mirror.tree / "new/deep").mkdir(parents=True)
    (mirror.tree / "new/deep/file").write_text("sent")
    again = mirror.again(view, b"tree/a", b"tree/d/e/c", b"tree/new/deep/file", b"tree/./empty/")
    assert mirror.changed(again) == {"tree/d/b", "tree/d", "tree/empty"}
    assert {"tree/new", "tree/new/deep", "tree/new/deep/file"} <= paths(again.folders)
    assert paths(view.folders) == ALL  # that one has not changed
    again = mirror.again(again, b"tree/d/", b"tree/d/b")
    assert mirror.changed(again) == {"tree/empty"}


def test_what_was_named_and_is_gone_is_told_until_it_is_there(mirror: Mirror) -> None:
    """It was removed by the sync, or was sent and then removed by a program: nobody can tell."""
    view = mirror.look()
    (mirror.tree / "a").unlink()
    view = mirror.again(view, b"tree/a", b"tree/sent/away")
    assert mirror.changed(view) == {"tree/a", "tree/sent/away"}
    (mirror.tree / "a").write_text("there again")
    assert mirror.changed(view) == {"tree/a", "tree/sent/away"}
    view = mirror.again(view, b"tree/a")
    assert mirror.changed(view) == {"tree/sent/away"}
    (mirror.tree / "sent/away").mkdir(parents=True)
    assert mirror.changed(mirror.again(view, b"tree/sent/away")) == set()


def test_a_directory_that_became_a_file_and_the_other_way(mirror: Mirror) -> None:
    view = mirror.look()
    shutil.rmtree(mirror.tree / "d")
    (mirror.tree / "d").write_text("a file")
    (mirror.tree / "a").unlink()
    (mirror.tree / "a").mkdir()
    (mirror.tree / "a/in").write_text("sent")
    view = mirror.again(view, b"tree/d", b"tree/a/in")
    assert mirror.changed(view) == {"tree/d/b", "tree/d/e", "tree/d/e/c"}
    (mirror.tree / "d").write_text("another file")
    shutil.rmtree(mirror.tree / "a")
    assert {"tree/d", "tree/a", "tree/a/in"} <= mirror.changed(view)


def test_what_is_missing_since_an_earlier_look(mirror: Mirror) -> None:
    before = mirror.look().folders
    assert missing(before, before) == set()
    shutil.rmtree(mirror.tree / "d/e")
    (mirror.tree / "d/e").write_text("a file")
    (mirror.tree / "a").unlink()
    (mirror.tree / "a").mkdir()
    (mirror.tree / "new").touch()
    (mirror.tree / "link").unlink()
    assert missing(before, mirror.look().folders) == {b"tree/d/e/c", b"tree/link"}


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"/etc/passwd", b"project.json", b"tree/../project.json", b"tree/..", b"tree/\0"],
)
def test_a_name_that_is_none_of_a_mirror(mirror: Mirror, name: bytes) -> None:
    with pytest.raises(NotToBeNoted, match="not a path"):
        mirror.again(mirror.look(), b"tree/a", name)


def test_a_name_that_cannot_be(mirror: Mirror) -> None:
    view = mirror.look()
    partial = b"tree/" + PARTIAL_DIR + b"/a"
    again = mirror.again(view, b"tree/" + b"x" * 300, b"tree/a" + b"/x" * 4000, partial)
    assert again.folders == view.folders
    assert again.gone == {b"tree/" + b"x" * 300}


def test_paths_that_are_longer_than_any_are_no_trouble(mirror: Mirror) -> None:
    at = os.open(mirror.tree, os.O_RDONLY)
    name = "n" * 250
    for _ in range(20):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    view = mirror.look()
    lengths = sorted(len(path) for path in view.folders)
    assert lengths[-1] == len("tree") + 16 * 251
    assert mirror.changed(view) == set()


def test_nobody_waits_for_a_look_that_is_not_wanted(mirror: Mirror) -> None:
    given_up = threading.Event()
    given_up.set()
    view = mirror.look()
    note = Note("seal", 0, view.folders)
    for work in (
        lambda: look(mirror.top, mirror.trust(), given_up),
        lambda: look_again(mirror.top, mirror.trust(), {}, (), [b"tree/a"], given_up),
        lambda: list(differing(mirror.top, note, given_up)),
    ):
        with pytest.raises(NotToBeNoted):
            work()


def test_a_directory_that_cannot_be_read_is_not_passed_over(mirror: Mirror) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads any directory")
    view = mirror.look()
    (mirror.tree / "d").chmod(0o300)
    try:
        with pytest.raises(PermissionError):
            mirror.look()
        assert mirror.changed(view) == {"tree/d"}  # its files can be looked at nevertheless
    finally:
        (mirror.tree / "d").chmod(0o700)


# -- the way -------------------------------------------------------------------------------


def _inodes(way: Way, path: bytes) -> int:
    return os.fstat(way.to(path)).st_ino


def test_nothing_is_put_in_the_way_of_who_is_on_it(mirror: Mirror, tmp_path: Path) -> None:
    inner = os.stat(mirror.tree / "d/e").st_ino
    (tmp_path / "elsewhere/e").mkdir(parents=True)
    with Way(mirror.top) as way:
        way.to(b"tree/d")
        (mirror.tree / "d").rename(tmp_path / "moved")
        (mirror.tree / "d").symlink_to(tmp_path / "elsewhere")
        assert _inodes(way, b"tree/d/e") == inner
        way.to(b"tree")
        with pytest.raises(NotADirectoryError):
            way.to(b"tree/d/e")


def test_a_long_way_holds_few_descriptors_and_closes_them(mirror: Mirror) -> None:
    words = [b"%d" % number for number in range(2 * MOST_HELD)]
    at = os.open(mirror.tree, os.O_RDONLY)
    expected = {}
    for depth, word in enumerate(words, 1):
        os.mkdir(word, dir_fd=at)
        inner = os.open(word, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
        expected[depth] = os.fstat(at).st_ino
    os.close(at)
    before = len(os.listdir("/dev/fd"))
    with Way(mirror.top) as way:
        # down, up again in strides, from one end to the other
        depths = [*range(1, len(words) + 1), *range(len(words), 0, -7), len(words), 1, 100, 99, 100]
        for depth in depths:
            assert _inodes(way, b"/".join((b"tree", *words[:depth]))) == expected[depth]
            assert len(os.listdir("/dev/fd")) <= before + MOST_HELD + 1
        with pytest.raises(FileNotFoundError):
            way.to(b"/".join((b"tree", *words, b"missing")))
        assert _inodes(way, b"tree/0") == expected[1]
        assert _inodes(way, b"outside") == os.stat(mirror.path / "outside").st_ino
    assert len(os.listdir("/dev/fd")) == before
    view = mirror.look()
    assert len(view.folders) == len(words) + 4
    assert mirror.changed(view) == set()


def test_what_nobody_knows_is_like_nothing_that_is(mirror: Mirror) -> None:
    view = mirror.look(Trust(0, 0))
    assert mirror.changed(view) == {*("tree/a", "tree/d/b", "tree/d/e/c", "tree/link", "outside/x")}
    assert len(view.doubts) == 5
    assert view.folders[b"tree"].entries()[b"a"] == NOBODY_KNOWS
    assert stat.S_ISDIR(view.folders[b"tree/d"].mode)
