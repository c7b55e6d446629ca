"""The file that says what a mirror was like: whole or nothing, compact, written at once."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from psync.daemon.note import (
    NOBODY_KNOWS,
    Folder,
    Note,
    NoteDamaged,
    packed,
    read_note,
    write_note,
)

names = st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 47} & set(name))
stats = st.binary(min_size=len(NOBODY_KNOWS), max_size=len(NOBODY_KNOWS))
folders = st.builds(Folder.of, st.integers(0, 2**32 - 1), st.dictionaries(names, stats, max_size=5))
notes = st.builds(
    Note,
    seal=st.text("abc_-", max_size=24),
    inode=st.integers(0, 2**64 - 1),
    folders=st.dictionaries(names, folders, max_size=5),
    gone=st.frozensets(names, max_size=3),
)


@given(notes)
def test_a_note_survives_the_file(tmp_path_factory: pytest.TempPathFactory, note: Note) -> None:
    path = str(tmp_path_factory.getbasetemp() / "note")
    write_note(path, note)
    assert read_note(path) == note


@given(st.integers(0, 2**32 - 1), st.dictionaries(names, stats, max_size=8))
def test_a_folder_is_its_entries(mode: int, entries: dict[bytes, bytes]) -> None:
    folder = Folder.of(mode, entries)
    assert (folder.mode, folder.entries(), folder.count) == (mode, entries, len(entries))
    assert folder.listed() == list(entries)


def test_damage_of_any_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "note"
    with pytest.raises(FileNotFoundError):
        read_note(str(path))
    note = Note("seal", 17, {b"tree": Folder.of(0o40700, {b"a": b"x" * len(NOBODY_KNOWS)})})
    write_note(str(path), note)
    whole = path.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(NoteDamaged):
                read_note(str(path))
    path.write_bytes(whole)
    assert read_note(str(path)) == note


def test_what_is_no_file_is_no_note(tmp_path: Path) -> None:
    path = tmp_path / "note"
    os.mkfifo(path)
    with pytest.raises(NoteDamaged):
        read_note(str(path))
    path.unlink()
    write_note(str(tmp_path / "other"), Note("seal", 17, {}))
    path.symlink_to("other")
    with pytest.raises(OSError, match="symbolic links"):
        read_note(str(path))


def test_what_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = str(tmp_path / "note")
    write_note(path, Note("old", 1, {}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_note(path, Note("new", 1, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_note(path).seal == "old"
    assert os.listdir(tmp_path) == ["note"]


def test_names_that_differ_are_found(tmp_path: Path) -> None:
    entries = {}
    for name in (b"same", b"other", b"gone", b"doubt"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
        entries[name] = packed(os.lstat(tmp_path / os.fsdecode(name)))
    entries[b"doubt"] = NOBODY_KNOWS
    (tmp_path / "other").write_bytes(b"of another size")
    (tmp_path / "gone").unlink()
    (tmp_path / "new").touch()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        found = Folder.of(0, entries).differing(directory)
    finally:
        os.close(directory)
    assert found == [b"other", b"gone", b"doubt"]


def test_a_time_beyond_all_notes_is_one_that_nobody_can_tell() -> None:
    status = os.stat_result(
        (0o100600, 5, 0, 1, 0, 0, 0, 0, 0, 0),
        {"st_mtime_ns": 2**63, "st_ctime_ns": 0, "st_atime_ns": 0},
    )
    assert packed(status) == NOBODY_KNOWS
