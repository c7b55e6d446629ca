"""Limits of the log, recycling, and a failing disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.supervisor.test_log import LIMIT, SMALL, entries_of, everything, put, writer_in

from psync.supervisor.log import SEGMENT, Gap, LogReader
from psync.supervisor.logwriter import LogWriter


def outputs(run_dir: Path) -> list[int]:
    return sorted(int(file.name.partition("-")[2]) for file in run_dir.glob("output-*"))


def test_room_shrinks_to_nothing_and_comes_back_with_the_floor(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    assert writer.room == LIMIT
    put(writer, 1, bytes(LIMIT))
    assert writer.room == 0
    writer.raise_floor(100)
    assert writer.room == 100
    writer.raise_floor(50)  # never falls
    assert writer.room == 100
    writer.raise_floor(10**12)  # nor beyond the end
    assert writer.room == LIMIT
    assert writer.cursor.floor == LIMIT


def test_what_was_read_is_kept_up_to_the_limit_and_then_used_again(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, keep=2 * SMALL)
    inodes = set()
    for number in range(10):
        put(writer, 1, bytes([number]) * SMALL)
        writer.raise_floor(writer.end)
        inodes |= {file.stat().st_ino for file in tmp_path.glob("output-*")}
    assert outputs(tmp_path) == [n * SMALL for n in (7, 8, 9)]
    assert len(inodes) == 3
    reader = LogReader(str(tmp_path))
    assert reader.oldest == 7 * SMALL
    whole = b"".join(data for _, data in everything(reader, reader.oldest))
    assert whole == bytes([7]) * SMALL + bytes([8]) * SMALL + bytes([9]) * SMALL
    reader.close()


def test_the_last_segment_is_cut_at_the_end(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, keep=0)
    put(writer, 1, b"a" * SMALL)
    writer.raise_floor(writer.end)
    put(writer, 1, b"b" * 5)
    writer.finish()
    writer.finish()
    assert (tmp_path / f"output-{SMALL:020d}").read_bytes() == b"b" * 5


def test_a_floor_that_jumps_leaves_no_old_files_behind(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, keep=0)
    put(writer, 1, bytes(4 * SMALL))
    writer.raise_floor(writer.end)
    put(writer, 1, b"x")
    assert outputs(tmp_path) == [4 * SMALL]


def test_drop_gives_up_the_oldest_and_says_so(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, drop=True)
    reader = LogReader(str(tmp_path))
    for number in range(20):
        assert writer.room > 0
        put(writer, 1, bytes([number]) * SMALL)
    assert writer.end - reader.oldest <= LIMIT
    with pytest.raises(Gap) as caught:
        reader.read(5)
    gap = caught.value
    assert (gap.start, gap.end) == (5, reader.oldest)
    assert reader.read(gap.end, 1) == (1, bytes([gap.end // SMALL]))
    assert outputs(tmp_path) == list(range(reader.oldest, writer.end, SMALL))
    reader.close()


def test_drop_does_not_touch_what_fits(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, drop=True)
    put(writer, 1, bytes(LIMIT))
    assert writer.cursor.oldest == 0


def test_segments_are_as_large_as_the_format_says_unless_the_limit_is_small(
    tmp_path: Path,
) -> None:
    for number, (limit, size) in enumerate(
        [(2**30, SEGMENT), (1, 4096), (LIMIT, SMALL), (70_001, 16384)]
    ):
        run_dir = tmp_path / str(number)
        run_dir.mkdir()
        writer = LogWriter(str(run_dir), limit=limit, keep=0, drop=False)
        assert writer.cursor.segment == size


def test_the_wall_clock_may_jump_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_in(tmp_path)
    for now in (10**18, 5, 6, 10**8 + 5, 10**8 + 6):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        put(writer, 1, b"x")
    entries = entries_of(tmp_path / f"index-{0:020d}")
    assert [(offset, stamp) for offset, stamp, _ in entries] == [
        (0, 10**18),
        (1, 5),
        (3, 10**8 + 5),
    ]


class BrokenDisk:
    """Lets so many calls of ``os.pwrite``, ``os.open`` and ``os.rename`` pass, then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for name in ("pwrite", "open", "rename"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object) -> object:
            if self.left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= 1
            return call(*args)

        return wrapped


@pytest.mark.parametrize("passes", range(8))
def test_a_disk_that_fails_anywhere_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    disk = BrokenDisk(monkeypatch)
    writer = writer_in(tmp_path, keep=0)
    reader = LogReader(str(tmp_path))
    put(writer, 1, b"a" * (SMALL - 5))
    writer.raise_floor(writer.end)
    put(writer, 2, b"b" * 5)
    writer.raise_floor(writer.end)
    rest = memoryview(b"c" * 10 + b"d" * SMALL)  # into the next segment and the one behind it
    disk.left = passes
    taken = writer.append(1, rest)
    if taken < len(rest):
        assert writer.failure is not None
        assert writer.failure.errno == errno.ENOSPC
    assert writer.end == writer.cursor.end == SMALL + taken
    disk.left = 10**9
    assert b"".join(data for _, data in everything(reader, SMALL)) == rest[:taken]
    put(writer, 2, bytes(rest[taken:]))
    assert writer.failure is None
    expected = [(1, bytes(rest[:taken])), (2, bytes(rest[taken:]))]
    assert everything(reader, SMALL) == [piece for piece in expected if piece[1]]
    reader.close()


def test_a_program_that_says_little_for_days_makes_no_long_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(str(tmp_path), limit=2**30, keep=0, drop=False)
    now = 10**18
    monkeypatch.setattr(time, "time_ns", lambda: now)
    for _ in range(60_000):
        now += 100_000_000
        put(writer, 1, b".")
    entries = [stamp for _, stamp, _ in entries_of(tmp_path / f"index-{0:020d}")]
    assert 43_000 < len(entries) < 46_000
    assert entries[1] - entries[0] == 100_000_000
    assert entries[-1] - entries[-2] == 1_000_000_000


def test_what_is_kept_includes_its_index(tmp_path: Path) -> None:
    keep = 8 * SMALL
    for name in ("long", "short"):
        (tmp_path / name).mkdir()
        writer = LogWriter(str(tmp_path / name), limit=LIMIT, keep=keep, drop=False)
        while writer.end < 24 * SMALL:
            stream = 1 + (writer.end // 64) % 2 if name == "long" else 1
            put(writer, stream, bytes(64))
            writer.raise_floor(writer.end)
        sizes = [path.stat().st_size for path in (tmp_path / name).iterdir()]
        assert keep <= sum(sizes) <= keep + 4 * SMALL
        assert (len(outputs(tmp_path / name)) < 9) == (name == "long")
