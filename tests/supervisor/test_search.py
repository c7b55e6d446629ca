"""Finding lines and times in a log, against the simplest way to find them."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tests.supervisor.test_log import LIMIT, SMALL, put, writer_in

from psync.supervisor import index, search
from psync.supervisor.cursor import Cursor
from psync.supervisor.log import LogDamaged, index_name, output_name
from psync.supervisor.logwriter import LogWriter
from psync.supervisor.search import locate

SECOND = 10**9
EPOCH = 1_700_000_000


def at(run_dir: Path, **what: float | None) -> int:
    """The place alone."""
    return locate(str(run_dir), **what)[0]  # type: ignore[arg-type]


def tail(data: bytes, count: int) -> bytes:
    """The last lines as ``tail -n`` has them."""
    lines = [text + b"\n" for text in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return b"".join([text for text in lines if text][-count:]) if count else b""


class Log:
    """A log and what went into it, written at times of the test's choosing."""

    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch, keep: int = 10**9) -> None:
        self.writer = LogWriter(str(run_dir), limit=LIMIT, keep=keep, drop=False)
        self._monkeypatch = monkeypatch

    def put(self, stream: int, data: bytes, seconds: float) -> None:
        """Append at so many seconds after ``EPOCH``; what fits, when everything was read."""
        stamp = EPOCH * SECOND + int(seconds * SECOND)
        with self._monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: stamp)
            self.writer.raise_floor(self.writer.end)
            put(self.writer, stream, data)


line = st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"") + b"\n")
text = st.one_of(
    st.lists(line, max_size=20).map(b"".join),
    st.binary(max_size=60),
    st.sampled_from([b"\n", b"\n\n\n", b"x" * (SMALL + 1), b"x" * SMALL + b"\n"]),
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), text), max_size=10),
    st.integers(0, 30),
    st.sampled_from([1, 7, 4096, 256 * 1024]),
)
def test_the_last_lines_are_those_of_tail(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[int, bytes]],
    count: int,
    block: int,
) -> None:
    run_dir = tmp_path_factory.mktemp("log")
    writer = writer_in(run_dir)
    written: list[tuple[int, int]] = []  # stream and byte of every offset
    for stream, data in pieces:
        if data and len(data) <= writer.room:
            put(writer, stream, data)
            written += [(stream, byte) for byte in data]
    whole = bytes(byte for _, byte in written)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "BLOCK", block)
        place, oldest, end = locate(str(run_dir), lines=count)
        assert (oldest, end) == (0, len(whole))
        assert whole[place:] == tail(whole, count)
        for stream in (1, 2):
            place = at(run_dir, lines=count, stream=stream)
            mine = bytes(byte for of, byte in written if of == stream)
            rest = bytes(byte for of, byte in written[place:] if of == stream)
            assert rest == tail(mine, count)
            assert place == end or not count or written[place][0] == stream


def test_lines_of_one_stream_among_more_of_the_other_than_is_read_at_a_time(
    tmp_path: Path,
) -> None:
    writer = writer_in(tmp_path)
    put(writer, 2, b"rare\n")
    for number in range(2000):
        put(writer, 1 + number % 2, b"o\n" if number % 2 == 0 else b"e\n")
    end = writer.end
    assert at(tmp_path, lines=1, stream=1) == end - 4
    assert at(tmp_path, lines=1000, stream=1) == 5
    assert at(tmp_path, lines=1001, stream=2) == 0
    assert at(tmp_path, lines=10**15, stream=1) == 5
    put(writer, 1, b"last")
    assert at(tmp_path, lines=1, stream=1) == end
    assert at(tmp_path, lines=0, stream=1) == end + 4


def test_a_run_without_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        locate(str(tmp_path), lines=1)
    writer_in(tmp_path)
    for what in ({"lines": 3}, {"since": 0.0}, {"lines": 3, "stream": 2}, {}):
        assert locate(str(tmp_path), **what) == (0, 0, 0)


def test_a_time_is_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path, monkeypatch)
    ends = [0]
    for number in range(40):
        log.put(1, b"%02d" % number * 1500, number * 10)  # some five in each segment
        ends.append(log.writer.end)
    assert log.writer.end > 5 * SMALL
    for number in range(40):
        assert at(tmp_path, since=EPOCH + number * 10) == ends[number]
        assert at(tmp_path, since=EPOCH + number * 10 + 0.001) == ends[number + 1]
        assert at(tmp_path, since=EPOCH + number * 10 - 0.001) == ends[number]
    assert at(tmp_path, since=0) == 0
    assert at(tmp_path, since=1e10) == log.writer.end
    # With both it is the later place.
    assert at(tmp_path, since=EPOCH, lines=1) == 0
    log.put(1, b"\nlast\n", 1000)
    assert at(tmp_path, since=EPOCH, lines=1) == log.writer.end - 5
    assert at(tmp_path, since=EPOCH + 1001, lines=1) == log.writer.end


@pytest.mark.parametrize("microseconds", [0, 1, 123_457, 999_999])
def test_the_time_of_a_line_finds_that_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, microseconds: int
) -> None:
    log = Log(tmp_path, monkeypatch)
    log.put(1, b"before\n", 0)
    log.put(1, b"then\n", 5 + microseconds / 1e6)
    assert at(tmp_path, since=float(f"{EPOCH + 5}.{microseconds:06}")) == 7


def test_a_time_costs_few_looks_however_long_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, monkeypatch)
    for number in range(64):
        log.put(1, bytes(SMALL // 8), 1 + number)
    looks: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        looks.append(offset)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    for number in range(64):
        looks.clear()
        assert at(tmp_path, since=EPOCH + 1 + number) == number * SMALL // 8
        assert 0 < len(looks) <= 12


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30), st.integers(-1, 21))
def test_a_clock_that_jumps_finds_a_place_where_the_time_is_passed(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], since: int
) -> None:
    run_dir = tmp_path_factory.mktemp("log")
    starts = []
    with pytest.MonkeyPatch.context() as patch:
        log = Log(run_dir, patch)
        for seconds in times:
            starts.append(log.writer.end)
            log.put(1, bytes(SMALL // 3), seconds)
    place = at(run_dir, since=EPOCH + since)
    # By the index, that is: the time of the stretch, and that at the start of each segment.
    stamps = dict(_stamps(run_dir))
    before = [stamp for start, stamp in sorted(stamps.items()) if start < place]
    if place < log.writer.end:
        assert stamps[place] >= (EPOCH + since) * SECOND
    if before:
        assert before[-1] < (EPOCH + since) * SECOND
    if times == sorted(times):
        assert all(stamp < (EPOCH + since) * SECOND for stamp in before)


def _stamps(run_dir: Path) -> list[tuple[int, int]]:
    found = []
    for path in sorted(run_dir.glob("index-*")):
        fd = os.open(path, os.O_RDONLY)
        entries = index.Index(str(path), fd, 0)
        found += [entries.entry(number)[:2] for number in range(entries.count())]
        entries.close()
    return found


def test_what_was_recycled_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path, monkeypatch, keep=0)
    for number in range(20):
        log.put(1 + number % 2, b"line\n" * (SMALL // 10), number)
    oldest = log.writer.cursor.oldest
    assert oldest > 0
    assert locate(str(tmp_path)) == (oldest, oldest, log.writer.end)
    assert at(tmp_path, since=0) == oldest
    assert at(tmp_path, lines=10**9) == oldest
    assert oldest <= at(tmp_path, lines=10**9, stream=2) < oldest + SMALL
    assert at(tmp_path, lines=1) == log.writer.end - 5


@pytest.mark.parametrize("what", [{"lines": 10**9}, {"lines": 10**9, "stream": 1}, {"since": 1.0}])
def test_recycling_while_a_place_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: dict[str, float]
) -> None:
    """Before each file is opened the oldest segment goes; nothing is left to the reader's luck."""
    writer = writer_in(tmp_path)
    put(writer, 1, b"line\n" * (LIMIT // 5))
    oldest = 0
    theirs = os.open

    def open_late(path: str, flags: int, *args: int) -> int:
        nonlocal oldest
        if "index-" in path or "output-" in path:
            (tmp_path / output_name(oldest)).unlink()
            (tmp_path / index_name(oldest)).unlink()
            oldest += SMALL
            writer.cursor.oldest = oldest
        return theirs(path, flags, *args)

    monkeypatch.setattr(os, "open", open_late)
    place, now, end = locate(str(tmp_path), **what)  # type: ignore[arg-type]
    assert now == oldest > 0
    assert oldest <= place <= end


def test_damage_is_told(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    put(writer, 1, b"x" * SMALL)
    put(writer, 2, b"y\n" * 10)
    middle = tmp_path / index_name(0)
    good = middle.read_bytes()
    middle.write_bytes(b"")
    with pytest.raises(LogDamaged, match=r"says nothing|cut short"):
        locate(str(tmp_path), lines=100, stream=1)
    with pytest.raises(LogDamaged, match="cut short"):
        locate(str(tmp_path), since=time.time())
    middle.write_bytes(good[:16] + b"\2" + good[17:])
    with pytest.raises(LogDamaged, match="damaged"):
        locate(str(tmp_path), lines=100, stream=1)
    middle.unlink()
    with pytest.raises(LogDamaged, match="missing"):
        locate(str(tmp_path), since=time.time())
    os.truncate(tmp_path / output_name(SMALL), 3)
    with pytest.raises(LogDamaged, match="cut short"):
        locate(str(tmp_path), lines=3)
    (tmp_path / output_name(SMALL)).unlink()
    with pytest.raises(LogDamaged, match="missing"):
        locate(str(tmp_path), lines=3)
    (tmp_path / "cursor").write_bytes(b"")
    with pytest.raises(LogDamaged, match="cursor"):
        locate(str(tmp_path), lines=3)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    writer = writer_in(tmp_path)
    put(writer, 1, b"line\n" * (LIMIT // 5))
    before = len(os.listdir("/proc/self/fd"))
    for what in ({"lines": 10**6}, {"lines": 10**6, "stream": 1}, {"lines": 2, "stream": 1}):
        locate(str(tmp_path), **what)
    locate(str(tmp_path), since=time.time())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.long
def test_a_log_of_a_gigabyte(tmp_path: Path) -> None:
    rng = random.Random(7)
    writer = LogWriter(str(tmp_path), limit=2**31, keep=2**31, drop=False)
    piece = b"".join(b"%060d\n" % rng.randrange(10**50) for _ in range(5000))
    while writer.end < 2**30:
        put(writer, 1 + rng.randrange(2), piece)
    end = Cursor.open(str(tmp_path)).end
    before = _peak()
    assert at(tmp_path, lines=10) == end - 610
    assert at(tmp_path, lines=end // 61 - 5) == 5 * 61
    assert at(tmp_path, lines=10**9, stream=1) < 20 * len(piece)
    assert _peak() - before < 16 * 1024


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
