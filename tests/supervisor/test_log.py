"""Reading the log while it is written, and after."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from psync.supervisor import index
from psync.supervisor.cursor import Cursor
from psync.supervisor.log import SEGMENT, Gap, LogDamaged, LogReader, tidy
from psync.supervisor.logwriter import LogWriter

LIMIT = 64 * 1024  # makes segments of 16 KiB
SMALL = LIMIT // 4


def writer_in(run_dir: Path, *, keep: int = 10**9, drop: bool = False) -> LogWriter:
    return LogWriter(str(run_dir), limit=LIMIT, keep=keep, drop=drop)


def put(writer: LogWriter, stream: int, data: bytes) -> None:
    assert writer.append(stream, memoryview(data)) == len(data)


def everything(reader: LogReader, offset: int = 0, step: int = 65536) -> list[tuple[int, bytes]]:
    """All pieces from ``offset``, neighbours of one stream joined."""
    pieces: list[tuple[int, bytes]] = []
    while True:
        stream, data = reader.read(offset, step)
        if not data:
            return pieces
        offset += len(data)
        if pieces and pieces[-1][0] == stream:
            data = pieces.pop()[1] + data
        pieces.append((stream, data))


def entries_of(path: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, time and stream of every entry of an index, checked."""
    fd = os.open(path, os.O_RDONLY)
    entries = index.Index(str(path), fd, 0)
    for number in range(entries.count()):
        yield entries.entry(number)
    entries.close()


def joined(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    result: list[tuple[int, bytes]] = []
    for stream, data in pieces:
        if result and result[-1][0] == stream:
            result[-1] = (stream, result[-1][1] + data)
        else:
            result.append((stream, data))
    return result


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(1, 3 * SMALL)), max_size=12),
    st.integers(1, 2 * SMALL),
    st.integers(0, 2**32),
)
def test_what_was_written_is_read_by_stream_wherever_one_starts(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[tuple[int, int]],
    step: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    run_dir = tmp_path_factory.mktemp("log")
    writer = writer_in(run_dir)
    reader = LogReader(str(run_dir))
    pieces: list[tuple[int, bytes]] = []
    for stream, size in sizes:
        pieces.append((stream, rng.randbytes(size)))
        put(writer, *pieces[-1])
        if rng.random() < 0.5:  # a reader that follows and one that jumps
            reader.read(rng.randrange(writer.end))
    expected = joined(pieces)
    assert everything(reader, 0, step) == expected
    whole = b"".join(data for _, data in expected)
    streams = b"".join(bytes([stream]) * len(data) for stream, data in expected)
    assert reader.end == len(whole)
    for _ in range(10):
        if whole:
            at = rng.randrange(len(whole))
            stream, data = reader.read(at, step)
            assert data == whole[at : at + len(data)]
            assert {stream} == set(streams[at : at + len(data)])
            buffer = memoryview(bytearray(step))
            assert reader.read_into(at, buffer) == (stream, len(data))
            assert buffer[: len(data)] == data
    writer.finish()
    files = sorted(run_dir.glob("output-*"))
    assert b"".join(file.read_bytes() for file in files) == whole
    reader.close()


def test_the_end_and_what_is_beyond(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    reader = LogReader(str(tmp_path))
    assert (reader.end, reader.oldest, reader.floor, reader.stdin_taken) == (0, 0, 0, 0)
    assert reader.read(0) == (0, b"")
    assert reader.read_into(0, memoryview(bytearray(5))) == (0, 0)
    with pytest.raises(ValueError, match="beyond"):
        reader.read(1)
    put(writer, 2, b"abc")
    assert reader.read(0, 2) == (2, b"ab")
    assert reader.read(2) == (2, b"c")
    assert reader.read(3) == (0, b"")
    writer.cursor.stdin_taken = 7
    assert reader.stdin_taken == 7
    reader.close()


def test_many_short_stretches_are_found_from_both_sides(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    for number in range(3000):  # more than is read of the index at a time
        put(writer, 1 + number % 2, bytes([number % 256]))
    reader = LogReader(str(tmp_path))
    for number in (0, 2999, 1500, 1499, 1, 2998, 700, 701, 702):
        assert reader.read(number) == (1 + number % 2, bytes([number % 256]))
    reader.close()


def test_a_reader_sees_what_comes_after_it_has_seen_the_end(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    reader = LogReader(str(tmp_path))
    offset = 0
    for number in range(100):
        put(writer, 1 + number % 3 % 2, b"%03d" % number)
        assert reader.read(offset) == (1 + number % 3 % 2, b"%03d" % number)
        offset += 3
        assert reader.read(offset) == (0, b"")
    reader.close()


def test_a_recycled_segment_is_a_gap_also_for_a_reader_that_has_it_open(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, keep=0)
    reader = LogReader(str(tmp_path))
    put(writer, 1, b"a" * SMALL)
    assert reader.read(0, 10) == (1, b"a" * 10)
    writer.raise_floor(SMALL)
    put(writer, 1, b"b" * 10)
    with pytest.raises(Gap) as caught:
        reader.read(10)
    assert (caught.value.start, caught.value.end) == (10, SMALL)
    with pytest.raises(Gap):
        LogReader(str(tmp_path)).read(0)
    assert reader.read(SMALL) == (1, b"b" * 10)
    assert sorted(os.listdir(tmp_path)) == [
        "cursor",
        f"index-{SMALL:020d}",
        f"output-{SMALL:020d}",
    ]
    reader.close()


def test_a_segment_recycled_between_look_and_read_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_in(tmp_path, keep=0)
    reader = LogReader(str(tmp_path))
    put(writer, 1, b"a" * SMALL)
    pread = os.pread

    def pread_late(fd: int, size: int, offset: int) -> bytes:
        if size == 10:  # the output, not its index
            writer.raise_floor(SMALL)
            put(writer, 1, b"b" * 10)
            assert pread(fd, 10, 0) == b"b" * 10  # what a reader without a second look would get
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread_late)
    with pytest.raises(Gap):
        reader.read(0, 10)
    reader.close()


def test_a_missing_or_cut_file_is_damage_and_no_gap(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    put(writer, 1, b"x" * (SMALL + 10))
    os.truncate(tmp_path / f"output-{0:020d}", 5)
    (tmp_path / f"index-{SMALL:020d}").unlink()
    reader = LogReader(str(tmp_path))
    with pytest.raises(LogDamaged, match="cut short"):
        reader.read(0)
    with pytest.raises(LogDamaged, match="missing"):
        reader.read(SMALL)
    os.truncate(tmp_path / f"index-{0:020d}", 0)
    with pytest.raises(LogDamaged, match="says nothing"):
        LogReader(str(tmp_path)).read(0)
    reader.close()


@pytest.mark.parametrize("content", [b"", b"x" * 64, bytes(64), b"x" * 65])
def test_a_damaged_cursor_is_called_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cursor").write_bytes(content)
    with pytest.raises(LogDamaged, match="cursor"):
        LogReader(str(tmp_path))


def test_a_cursor_is_the_same_for_both_sides(tmp_path: Path) -> None:
    ours = Cursor.create(str(tmp_path), SEGMENT)
    theirs = Cursor.open(str(tmp_path))
    ours.end, ours.floor, ours.oldest, ours.stdin_taken = 2**63, 2, 3, 4
    assert (theirs.end, theirs.floor, theirs.oldest, theirs.stdin_taken) == (2**63, 2, 3, 4)
    assert theirs.segment == SEGMENT
    with pytest.raises(TypeError):
        theirs.end = 5
    theirs.close()
    ours.close()


def test_tidy_cuts_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    writer = writer_in(tmp_path, keep=0)
    put(writer, 1, b"a" * SMALL)
    writer.raise_floor(SMALL)
    put(writer, 2, b"b" * 10)  # and then the supervisor is killed
    last = tmp_path / f"output-{SMALL:020d}"
    assert last.stat().st_size == SMALL
    (tmp_path / f"output-{2 * SMALL:020d}").write_bytes(b"renamed, and nothing in it yet")
    tidy(str(tmp_path))
    assert last.read_bytes() == b"b" * 10
    assert sorted(os.listdir(tmp_path)) == ["cursor", f"index-{SMALL:020d}", last.name]


def test_the_index_says_when_bytes_came(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    for stream in (1, 1, 2, 2, 1):
        put(writer, stream, b"x" * 10)
    entries = list(entries_of(tmp_path / f"index-{0:020d}"))
    changes = [(offset, stream) for offset, _, stream in entries]
    # More entries only where the machine took 100 ms between two appends.
    assert {(0, 1), (20, 2), (40, 1)} <= set(changes)
    stamps = [stamp for _, stamp, _ in entries]
    assert stamps == sorted(stamps)


def test_with_times_every_piece_is_of_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_in(tmp_path)
    second = 10**9
    for now in (0, 5, second, second + 7, 3 * second, second):  # it is set back in the end
        monkeypatch.setattr(time, "time_ns", lambda now=now: 10**18 + now)
        put(writer, 1, b"x" * 10)
    reader = LogReader(str(tmp_path), times=True)
    found = []
    offset = 0
    while offset < reader.end:
        _, data = reader.read(offset)
        found.append((offset, len(data), reader.stamp - 10**18))
        offset += len(data)
    assert found == [(0, 20, 0), (20, 20, second), (40, 10, 3 * second), (50, 10, second)]
    assert reader.read(45) == (1, b"x" * 5)
    assert reader.stamp == 10**18 + 3 * second
    put(writer, 1, b"y")  # of the stretch that the reader has at its end
    assert reader.read(60) == (1, b"y")
    assert reader.stamp == 10**18 + second
    reader.close()
    whole = LogReader(str(tmp_path))
    assert whole.read(0) == (1, b"x" * 60 + b"y")
    assert whole.stamp == 10**18
    whole.close()
