"""The mark of a sync that has not ended, and what its time is good for."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import msgspec
import pytest

from psync.daemon import mark
from psync.daemon.look import STEP
from psync.daemon.mark import MARK, Begun, set_mark, take_mark, unfinished


def test_it_is_there_until_it_is_taken(tmp_path: Path) -> None:
    assert not unfinished(str(tmp_path))
    before = time.time_ns()
    set_mark(str(tmp_path))
    set_mark(str(tmp_path))
    assert unfinished(str(tmp_path))
    assert os.listdir(tmp_path) == [MARK]
    begun = take_mark(str(tmp_path))
    assert begun is not None
    # by the clock of the file system, which goes by steps
    assert before - STEP <= begun.at <= time.time_ns()
    assert not unfinished(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        take_mark(str(tmp_path))


def test_it_tells_since_when_no_sync_has_ended(tmp_path: Path) -> None:
    for _ in range(2):
        set_mark(str(tmp_path))
        first = take_mark(str(tmp_path))
        assert first is not None
        assert first.broken is None
    set_mark(str(tmp_path))
    at = msgspec.json.decode((tmp_path / MARK).read_bytes(), type=Begun).at
    for _ in range(2):
        set_mark(str(tmp_path))
    last = take_mark(str(tmp_path))
    assert last is not None
    assert last.broken == at <= last.at


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b"[" * 5000, b'{"at":1'])
def test_one_that_is_damaged_is_one(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MARK).write_bytes(text)
    assert unfinished(str(tmp_path))
    assert take_mark(str(tmp_path)) is None
    assert not unfinished(str(tmp_path))


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text('{"at":1,"offset":1,"boot":""}')
    (tmp_path / MARK).symlink_to("elsewhere")
    assert unfinished(str(tmp_path))
    assert take_mark(str(tmp_path)) is None
    (tmp_path / MARK).symlink_to("nowhere")
    assert unfinished(str(tmp_path))
    set_mark(str(tmp_path))
    assert not (tmp_path / MARK).is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_one_that_cannot_be_made_is_not_there(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            set_mark(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        set_mark(str(tmp_path / "missing"))


def test_times_are_good_for_nothing_when_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mark(str(tmp_path))
    begun = take_mark(str(tmp_path))
    assert begun is not None
    assert begun.by(begun.at + 5) == begun.at
    assert begun.by(begun.at - 5) == begun.at - 5
    assert Begun(begun.at, begun.offset, "another start of the host").by(begun.at) is None
    offset = mark._offset
    for jump in (-3600 * 10**9, 3600 * 10**9):
        monkeypatch.setattr(mark, "_offset", lambda jump=jump: offset() + jump)
        assert begun.by(begun.at + 5) is None
