"""What is noted of files, and when it says something."""

import os
import stat
import time
from pathlib import Path

from psync.sync.known import (
    COARSE_STEP,
    STEP,
    Known,
    differing,
    doubtful,
    read_known,
    settle,
    write_known,
)
from psync.sync.listing import Stat, look_at

FILE = stat.S_IFREG | 0o644
NOW = 1_700_000_000_123_456_789


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    known = Known(
        "seal", "strip", {b"tree": {b"a\xff": (FILE, 1, 2**62, 3, 2**63), b"d": (16877,), b"y": ()}}
    )
    write_known(str(tmp_path), b"place", known)
    assert read_known(str(tmp_path), b"place") == known
    assert read_known(str(tmp_path), b"another") is None


def test_what_is_damaged_says_nothing(tmp_path: Path) -> None:
    write_known(str(tmp_path), b"place", Known("seal", "", {b"tree": {b"a": (1, 2, 3, 4, 5)}}))
    (path,) = tmp_path.glob("mirrors/*/known")
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert read_known(str(tmp_path), b"place") is None
    path.write_bytes(b"\x94\x02" + whole[2:])  # another version
    assert read_known(str(tmp_path), b"place") is None
    path.write_bytes(b"\xff" * 100)
    assert read_known(str(tmp_path), b"place") is None


def test_a_file_as_young_as_the_look_is_not_noted() -> None:
    old: Stat = (FILE, 1, NOW - STEP - 1, NOW - STEP - 1, 1)
    stats: dict[bytes, Stat] = {
        b"old": old,
        b"written": (FILE, 1, NOW - STEP, NOW - STEP, 1),
        b"changed": (FILE, 1, old[2], NOW, 1),
        b"from the future": (FILE, 1, NOW + 10**12, old[3], 1),
        b"directory": (16877,),
    }
    assert settle(stats, NOW) == {
        **dict.fromkeys(stats, ()),
        b"old": old,
        b"directory": (16877,),
    }


def test_a_clock_of_whole_seconds_steps_further() -> None:
    second = NOW - NOW % 10**9
    young: Stat = (FILE, 1, second, second, 1)
    old: Stat = (FILE, 1, second - COARSE_STEP, second - COARSE_STEP, 1)
    assert settle({b"young": young, b"old": old}, NOW) == {b"young": (), b"old": old}


def test_what_differs() -> None:
    one: Stat = (FILE, 1, 2, 3, 4)
    assert differing({b"a": one, b"b": one}, {b"a": one, b"b": one}) == set()
    for at in range(5):
        other = (*one[:at], one[at] + 1, *one[at + 1 :])
        assert differing({b"a": other}, {b"a": one}) == {b"a"}
    assert differing({b"a": one, b"b": ()}, {b"b": ()}) == {b"a", b"b"}


def test_what_size_and_time_do_not_tell() -> None:
    one: Stat = (FILE, 1, 2, 3, 4)
    link: Stat = (stat.S_IFLNK | 0o777, 1, 2, 9, 4)
    assert doubtful(b"a", {b"a": one}, {b"a": (FILE, 1, 2, 9, 4)})
    assert doubtful(b"a", {b"a": one}, {b"a": ()})
    assert not doubtful(b"a", {b"a": one}, {b"a": (FILE, 1, 9, 3, 4)})
    assert not doubtful(b"a", {b"a": one}, {})
    assert not doubtful(b"a", {b"a": link}, {b"a": one})
    assert not doubtful(b"a", {b"a": ()}, {b"a": one})


def test_a_rewrite_within_a_step_of_the_clock_is_never_taken_for_the_same(tmp_path: Path) -> None:
    """Same size, and time and inode may be the same: then it must not have been noted."""
    path = tmp_path / "file"
    for _ in range(200):
        path.write_bytes(b"one")
        looked_at = time.time_ns()
        noted = settle({b"file": look_at(os.fsencode(path))}, looked_at)
        path.write_bytes(b"two")
        assert differing({b"file": look_at(os.fsencode(path))}, noted)
