"""Opening a part of a mirror, with links where there should be none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from psync.daemon.part import NoMirror, open_mirror, open_part
from psync.daemon.projects import Projects
from psync.daemon.rsyncgate import Denied, Job

PROJECT = "game-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The directory of all mirrors, with one of ``desk`` and things around it."""
    Projects(str(tmp_path / "root")).open(PROJECT, client="desk", source=b"/src", host="desk")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").touch()
    return tmp_path / "root"


def takes(part: bytes = b"tree") -> Job:
    return Job(PROJECT, part, ())


def gives(*sources: bytes) -> Job:
    return Job(PROJECT, b"tree", (), True, sources)


def opened(root: Path, job: Job, client: str = "desk") -> str:
    """Open a part and return where it is."""
    fd = open_part(str(root), job, client)
    try:
        assert not os.get_inheritable(fd)
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> object:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_a_part_of_ones_own_mirror(root: Path) -> None:
    assert opened(root, takes()) == f"{root}/{PROJECT}/tree"
    assert opened(root, takes(b"outside")) == f"{root}/{PROJECT}/outside"


def test_a_part_is_made_to_write_to_and_not_to_read_from(root: Path) -> None:
    shutil.rmtree(root / PROJECT / "tree")
    with pytest.raises(Denied, match="cannot be used"):
        opened(root, gives(b""))
    assert opened(root, takes()) == f"{root}/{PROJECT}/tree"


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert opened(tmp_path / "link", takes()) == f"{root}/{PROJECT}/tree"


def test_another_clients_mirror_is_denied(root: Path) -> None:
    for job in (takes(), gives(b"x")):
        with pytest.raises(Denied, match="belongs to another client"):
            opened(root, job, "laptop")


@pytest.mark.parametrize("what", ["", PROJECT, f"{PROJECT}/project.json"])
def test_no_mirror_is_said_in_rsyncs_words(root: Path, what: str) -> None:
    (root / what).rename(root.parent / "moved")
    words = f'rsync: [Receiver] mkdir "{root}/{PROJECT}" failed: No such file or directory (2)'
    with pytest.raises(NoMirror) as caught:
        opened(root, takes())
    assert str(caught.value) == words


@pytest.mark.parametrize("what", [PROJECT, f"{PROJECT}/tree", f"{PROJECT}/project.json"])
def test_a_link_in_its_place_is_denied(root: Path, what: str) -> None:
    moved = root.parent / "moved"
    (root / what).rename(moved)
    (root / what).symlink_to(moved)
    for job in (takes(), gives(b"x")):
        with pytest.raises(Denied):
            opened(root, job)


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b"{}", b'{"client": 5}'])
def test_a_damaged_marker_is_denied(root: Path, text: bytes) -> None:
    (root / PROJECT / "project.json").write_bytes(text)
    with pytest.raises(Denied, match="not a mirror that can be used"):
        opened(root, takes())


@pytest.mark.parametrize("what", ["directory", "fifo"])
def test_a_marker_that_is_no_file_is_denied(root: Path, what: str) -> None:
    (root / PROJECT / "project.json").unlink()
    if what == "fifo":
        os.mkfifo(root / PROJECT / "project.json")
    else:
        (root / PROJECT / "project.json").mkdir()
    with pytest.raises(Denied):
        opened(root, takes())


def test_a_mirror_alone(root: Path) -> None:
    fd = open_mirror(str(root), PROJECT, "desk")
    assert sorted(os.listdir(fd)) == ["outside", "project.json", "tree"]
    os.close(fd)


# -- what is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", [b"", b"a", b"a/b", b"a/none", b"in", b"in/b", b"in/", b"in/.", b"out", b"none/x"]
)
def test_names_inside_may_be_read_and_links_are_sent_as_they_are(root: Path, source: bytes) -> None:
    tree = root / PROJECT / "tree"
    (tree / "a").mkdir()
    (tree / "a/b").touch()
    (tree / "in").symlink_to("a")
    (tree / "out").symlink_to(root.parent / "outside")
    assert opened(root, gives(source)) == str(tree)


@pytest.mark.parametrize(
    "source",
    [b"out/", b"out/.", b"out/secret", b"up/secret", b"out/x/y", b"a/far/x", b"a/far/", b"./out/"],
)
def test_links_that_lead_out_are_not_followed(root: Path, source: bytes) -> None:
    tree = root / PROJECT / "tree"
    (tree / "a").mkdir()
    (tree / "out").symlink_to(root.parent / "outside")
    (tree / "up").symlink_to("../../../outside")
    (tree / "a/far").symlink_to("../out")
    for sources in ([source], [b"a", source]):
        with pytest.raises(Denied, match="through a link"):
            opened(root, gives(*sources))


def test_links_that_go_round_in_circles_are_no_way_out(root: Path) -> None:
    (root / PROJECT / "tree/loop").symlink_to("loop")
    opened(root, gives(b"loop/x"))
