"""What every path of a mirror is like, and what differs later."""

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from psync.daemon.note import (
    COARSE_STEP,
    PARTIAL_DIR,
    STEP,
    Note,
    NoteDamaged,
    Paths,
    differing,
    look,
    look_again,
    read_note,
    write_note,
)

LATER = 10**10
"""Nanoseconds that a sync begins after the files were written, where that is not the question."""


def noted(directory: Path) -> Paths:
    return look(str(directory), time.time_ns() + LATER)


def changed(directory: Path, paths: Paths) -> set[str]:
    return {os.fsdecode(path) for path in differing(str(directory), paths)}


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    for name in ("tree/a", "tree/d/b", "tree/d/e/c", "outside/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    (tmp_path / "tree/link").symlink_to("a")
    (tmp_path / "project.json").write_text("{}")
    return tmp_path


def test_all_of_both_parts_is_noted_and_nothing_else(mirror: Path) -> None:
    partial = mirror / "tree/d" / os.fsdecode(PARTIAL_DIR)
    partial.mkdir()
    (partial / "b").write_text("half")
    paths = noted(mirror)
    assert set(paths) == {
        *(b"tree/a", b"tree/d", b"tree/d/b", b"tree/d/e", b"tree/d/e/c", b"tree/link"),
        b"outside/x",
    }
    assert changed(mirror, paths) == set()


def test_every_kind_of_change_is_found(mirror: Path) -> None:
    a = mirror / "tree/a"
    status = a.stat()

    def rewrite() -> None:
        a.write_text("CONTENT")
        os.utime(a, ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace() -> None:
        other = mirror / "tree/other"
        shutil.copy2(a, other)
        other.replace(a)

    def hard_link() -> None:
        os.link(a, mirror / "second")

    for change in (
        *(rewrite, replace, hard_link),
        *(lambda: a.chmod(0o600), lambda: os.truncate(a, 3), lambda: a.touch()),
        lambda: a.unlink(),
    ):
        paths = noted(mirror)
        time.sleep(0.02)  # the clock of the file system steps
        change()
        assert changed(mirror, paths) == {"tree/a"}, change


def test_a_link_and_a_directory_that_became_another(mirror: Path) -> None:
    paths = noted(mirror)
    (mirror / "tree/link").unlink()
    (mirror / "tree/link").symlink_to("d")
    (mirror / "tree/d").chmod(0o700)
    (mirror / "tree/a").unlink()
    (mirror / "tree/a").mkdir()
    assert changed(mirror, paths) == {"tree/link", "tree/d", "tree/a"}


def test_what_is_new_is_no_change(mirror: Path) -> None:
    paths = noted(mirror)
    (mirror / "tree/save").write_text("new")
    (mirror / "tree/d/e/save").write_text("new")
    assert changed(mirror, paths) == set()


def test_what_is_below_a_link_is_not_in_the_mirror(mirror: Path, tmp_path: Path) -> None:
    """A program swaps a directory for a link to one that holds the very same files."""
    paths = noted(mirror)
    elsewhere = tmp_path / "elsewhere"
    (mirror / "tree/d").rename(elsewhere)
    (mirror / "tree/d").symlink_to(elsewhere)
    assert changed(mirror, paths) == {"tree/d", "tree/d/b", "tree/d/e", "tree/d/e/c"}
    assert not any(b"/d/" in path for path in noted(mirror))
    again = look_again(str(mirror), paths, [b"tree/d/e/c"], time.time_ns() + LATER)
    assert stat.S_ISLNK(again[b"tree/d"][0])


def test_a_part_that_is_a_link_holds_nothing(mirror: Path) -> None:
    shutil.rmtree(mirror / "outside")
    (mirror / "outside").symlink_to("/etc")
    assert not any(path.startswith(b"outside/") for path in noted(mirror))


def test_what_is_as_young_as_the_sync_is_not_trusted(mirror: Path) -> None:
    begun = 1_700_000_000_123_456_789
    for name, age in (("a", STEP + 1), ("d/b", STEP), ("d/e/c", -(10**9))):
        os.utime(mirror / "tree" / name, ns=(0, begun - age))
    paths = look(str(mirror), begun)
    assert paths[b"tree/a"]
    assert (paths[b"tree/d/b"], paths[b"tree/d/e/c"]) == ((), ())
    assert {"tree/d/b", "tree/d/e/c"} <= changed(mirror, paths)
    whole = begun - begun % 10**9
    os.utime(mirror / "tree/a", ns=(0, whole))
    assert look(str(mirror), whole + COARSE_STEP)[b"tree/a"] == ()
    assert look(str(mirror), whole + COARSE_STEP + 1)[b"tree/a"]


def test_only_what_is_named_is_looked_at_again(mirror: Path) -> None:
    begun = time.time_ns() + LATER
    paths = noted(mirror)
    time.sleep(0.02)
    (mirror / "tree/a").write_text("sent")
    (mirror / "tree/d/b").write_text("by somebody else")
    (mirror / "tree/d/e/c").unlink()
    (mirror / "tree/new/deep").mkdir(parents=True)
    (mirror / "tree/new/deep/file").write_text("sent")
    names = [b"tree/a", b"tree/d/e/c", b"tree/new/deep/file", b"tree/gone/"]
    again = look_again(str(mirror), paths, names, begun)
    assert changed(mirror, again) == {"tree/d/b"}
    assert {b"tree/new", b"tree/new/deep", b"tree/new/deep/file"} <= set(again)
    assert b"tree/d/e/c" not in again
    assert b"tree/d/e/c" in paths


def test_a_note_survives_only_whole(mirror: Path) -> None:
    note = Note("seal", 17, noted(mirror))
    path = str(mirror / "note")
    with pytest.raises(FileNotFoundError):
        read_note(path)
    write_note(path, note)
    assert read_note(path) == note
    whole = Path(path).read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            Path(path).write_bytes(damaged)
            try:
                found = read_note(path)
            except NoteDamaged:
                continue
            # a flip in the line may give another seal or inode: another note, and nobody's
            assert found.paths == note.paths
            assert (found.seal, found.inode) != (note.seal, note.inode)


NAMES = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a")

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(
            ["write", "rewrite", "replace", "chmod", "delete", "mkdir", "link", "touch", "nothing"]
        ),
    ),
    max_size=6,
)


def state(path: Path) -> object:
    """What matters of a path: what it is, what it holds, its mode."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    return status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else None


def through_directories(top: Path, name: str) -> bool:
    return not any((top / parent).is_symlink() for parent in Path(name).parents)


def change(top: Path, name: str, how: str) -> None:
    path = top / name
    if not path.parent.is_dir() or not through_directories(top, name):
        return
    status = path.lstat() if os.path.lexists(path) else None
    regular = status is not None and stat.S_ISREG(status.st_mode)
    if how == "write" and (status is None or regular):
        path.write_text("other")
    elif how == "rewrite" and regular and status is not None:
        path.write_bytes(path.read_bytes().swapcase())
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "replace" and regular and status is not None:
        other = top / "other"
        other.write_bytes(path.read_bytes().swapcase())
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)
    elif how == "chmod" and status is not None and not stat.S_ISLNK(status.st_mode):
        path.chmod(0o700)
    elif how == "delete" and status is not None:
        shutil.rmtree(path) if stat.S_ISDIR(status.st_mode) else path.unlink()
    elif how == "mkdir" and status is None:
        path.mkdir()
    elif how == "link" and status is not None:
        away = top.parent / f"away-{time.monotonic_ns()}"
        path.rename(away)
        path.symlink_to(away)
    elif how == "touch" and regular:
        path.touch()


@settings(deadline=None)
@given(changes=CHANGES)
def test_whatever_is_other_is_told(
    changes: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("mirror")
    top = directory / "tree"
    for name in NAMES:
        path = top / name
        if name in ("d", "d/e"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("content")
    old = time.time() - 100  # as rsync leaves files: with the times that they have at the source
    for name in NAMES:
        os.utime(top / name, (old, old))
    time.sleep(0.02)
    before = {name: state(top / name) for name in NAMES}
    paths = look(str(directory), time.time_ns())
    assert changed(directory, paths) == set()
    time.sleep(0.02)
    touched = set()
    for name, how in changes:
        change(top, name, how)
        touched.add(name)
    told = changed(directory, paths)
    for name in NAMES:
        if state(top / name) != before[name] or not through_directories(top, name):
            assert f"tree/{name}" in told
        elif not any(one == name or name.startswith(f"{one}/") for one in touched):
            assert f"tree/{name}" not in told
