"""Output: every byte, in order, on its stream; limits and full disks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.supervisor.support import Launcher, Runs, python
from tests.support.waiting import wait_until

from psync.supervisor import wire
from psync.supervisor.log import Gap


def test_all_bytes_on_both_streams_interleaved(runs: Runs) -> None:
    code = (
        "import os, sys\n"
        "for i in range(512):\n"
        "    os.write(1 + i % 2, bytes([i % 256]))\n"
        "    os.read(0, 1)\n"  # so that the two pipes are not read at once
    )
    run = runs.start(python(code))
    connection = run.connect()
    for number in range(512):
        while run.reader.end <= number:
            connection.expect(wire.Grew)
        connection.send(wire.Stdin(number, b"."))
    assert run.wait_over().code == 0
    expected = [(1 + i % 2, bytes([i % 256])) for i in range(512)]
    assert list(run.pieces()) == expected


def test_a_prompt_without_a_newline_is_there_at_once(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"printf 'name? '; read name; echo hello $name"])
    connection = run.connect()
    run.wait_output(connection, b"name? ")
    connection.send(wire.Stdin(0, b"me\n"))
    run.wait_over()
    assert run.output() == b"name? hello me\n"


def test_a_line_of_100_megabytes(runs: Runs) -> None:
    size = 100_000_000
    run = runs.start([b"sh", b"-c", b"head -c %d /dev/zero | tr '\\0' x" % size])
    connection = run.connect()
    total, digest = 0, hashlib.sha256()
    for stream, data in run.follow(connection):
        assert stream == 1
        total += len(data)
        digest.update(data)
    assert total == size == run.wait_over().output_end
    assert digest.hexdigest() == hashlib.sha256(b"x" * size).hexdigest()


def test_a_program_waits_for_whoever_watches_it(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"read go; head -c 500000 /dev/zero"])
    connection = run.connect()
    connection.send(wire.Viewers(1), wire.Lead(100_000), wire.Stdin(0, b"go\n"))
    wait_until(lambda: run.reader.end == 100_000)
    connection.send(wire.Lead(200_000))
    wait_until(lambda: run.reader.end == 200_000)
    assert run.alive
    connection.send(wire.Viewers(0))  # nobody watches: only the log's limit counts
    connection.expect(wire.Exited)
    assert run.wait_over().output_end == 500_000


def test_a_killed_programs_last_output_does_not_wait_for_the_one_who_watches(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"read go; head -c 500000 /dev/zero"])
    connection = run.connect()
    connection.send(wire.Viewers(1), wire.Lead(100_000), wire.Stdin(0, b"go\n"))
    wait_until(lambda: run.reader.end >= 100_000)
    connection.send(wire.Stop(15, 10_000))
    assert run.wait_over().output_end >= 100_000


GENERATOR = """
import hashlib, os, sys, random
size, out = int(sys.argv[1]), random.Random(5)
digest = hashlib.sha256()
while size > 0:
    block = out.randbytes(min(size, out.choice((1, 100, 65536, 300_000))))
    digest.update(block)
    size -= len(block)
    while block:
        block = block[os.write(1, block):]
os.write(2, digest.hexdigest().encode())
"""


def test_recycled_segments_carry_the_right_bytes_to_a_reader_that_follows(runs: Runs) -> None:
    run = runs.start(python(GENERATOR, "30000000"), log_limit=4 << 20, log_keep=0)
    connection = run.connect()
    digest, said = hashlib.sha256(), b""
    for stream, data in run.follow(connection):
        if stream == 1:
            digest.update(data)
        else:
            said += data
    assert run.wait_over().code == 0
    assert said == digest.hexdigest().encode()
    assert run.reader.oldest > 20_000_000
    # What is left is readable in the files alone, without stale bytes at the end.
    files = sorted(run.dir.glob("output-*"))
    assert sum(file.stat().st_size for file in files) == run.reader.end - run.reader.oldest
    assert b"".join(file.read_bytes() for file in files).endswith(said)


def test_at_the_limit_the_program_blocks_until_the_floor_rises(runs: Runs) -> None:
    limit = 1 << 20
    run = runs.start(python(GENERATOR, "3000000"), log_limit=limit)
    connection = run.connect()
    digest, offset = hashlib.sha256(), 0
    while True:
        while run.reader.end < min(offset + limit, 3_000_064):
            connection.receive()
        assert run.reader.end - offset <= limit
        while offset < run.reader.end:
            stream, data = run.reader.read(offset)
            if stream == 1:
                digest.update(data)
            offset += len(data)
        if offset == 3_000_064:
            break
        connection.send(wire.Floor(offset))
    assert run.output(2) == digest.hexdigest().encode()
    assert run.wait_over().output_end == 3_000_064


def test_the_end_waits_for_room_so_that_nothing_is_lost(runs: Runs) -> None:
    # The program is gone long before its last 40,000 bytes, which its pipe holds, are in the log.
    run = runs.start(python("import os; os.write(1, bytes(60000))"), log_limit=20_000)
    connection = run.connect()
    while run.reader.end < 20_000:
        connection.receive()
    pid = connection.hello.pid
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert not (run.dir / "exit.json").exists()
    connection.send(wire.Floor(20_000))
    while run.reader.end < 40_000:
        connection.receive()
    assert not (run.dir / "exit.json").exists()
    connection.send(wire.Floor(40_000))
    connection.expect(wire.Exited)
    assert run.wait_over().output_end == 60_000


@pytest.mark.parametrize("frame", [wire.Kill(), wire.Stop(15, 0)])
def test_a_run_that_is_stuck_on_a_full_log_can_be_killed(runs: Runs, frame: wire.Frame) -> None:
    run = runs.start(python("import os; os.write(1, bytes(60000))"), log_limit=20_000)
    connection = run.connect()
    while run.reader.end < 20_000:
        connection.receive()
    pid = connection.hello.pid
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    connection.send(frame)
    connection.expect(wire.Exited)
    result = run.wait_over()
    assert (result.code, result.output_end, result.reason) == (0, 20_000, "exited")


def test_a_flood_at_the_limit_can_be_killed(runs: Runs) -> None:
    run = runs.start(python("import os\nwhile 1: os.write(1, bytes(65536))"), log_limit=100_000)
    connection = run.connect()
    while run.reader.end < 100_000:
        connection.receive()
    connection.send(wire.Kill())
    connection.expect(wire.Exited)
    assert run.wait_over().signal == "SIGKILL"


def test_drop_says_what_went_and_keeps_the_newest(runs: Runs) -> None:
    code = "import os\nfor i in range(200_000): os.write(1, b'%09d\\n' % i)"
    run = runs.start(python(code), log_limit=400_000, overflow="drop")
    result = run.wait_over()  # nobody reads, and it does not block
    assert result.output_end == 2_000_000
    with pytest.raises(Gap) as caught:
        run.reader.read(0)
    assert caught.value.end >= 2_000_000 - 400_000
    whole = b"".join(b"%09d\n" % number for number in range(200_000))
    assert run.output() == whole[caught.value.end :]


def test_a_closed_output_gives_the_program_sigpipe(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"yes; echo status $? >&2"])
    connection = run.connect()
    connection.expect(wire.Grew)
    connection.send(wire.CloseOutput(1))
    for _ in run.follow(connection):
        pass
    run.wait_over()
    assert run.output(2) == b"status 141\n"

    run = runs.start([b"yes"])
    connection = run.connect()
    connection.send(wire.CloseOutput(1), wire.CloseOutput(1))
    connection.expect(wire.Exited)
    assert run.wait_over().signal == "SIGPIPE"


def test_both_outputs_closed_do_not_end_a_program_that_writes_nothing(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"read line; exit 9"])
    connection = run.connect()
    connection.send(wire.CloseOutput(1), wire.CloseOutput(2), wire.Stdin(0, b"\n"))
    connection.expect(wire.Exited)
    assert run.wait_over().code == 9


def test_a_program_that_closes_its_outputs_lives_on(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"exec >&- 2>&-; read line; exit 8"])
    connection = run.connect()
    connection.send(wire.Stdin(0, b"\n"))
    connection.expect(wire.Exited)
    assert run.wait_over().code == 8


def test_output_of_descendants_is_kept(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"(sleep 0.1; echo later) & echo now"])
    assert run.wait_over().code == 0
    assert run.output() == b"now\nlater\n"


def test_what_a_killed_descendant_had_written_is_kept(runs: Runs) -> None:
    code = (
        "import os, signal\n"
        "ours, theirs = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(1, b'x' * 60000)\n"
        "    os.write(theirs, b'.')\n"
        "    signal.pause()\n"
        "os.read(ours, 1)"
    )
    run = runs.start(python(code), log_limit=20_000)  # so that some of it is in the pipe still
    connection = run.connect()
    for _ in run.follow(connection):
        pass
    assert run.wait_over().code == 0
    assert run.output() == b"x" * 60000


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(path)],
        capture_output=True,
    )
    if done.returncode:
        pytest.skip("no tmpfs can be mounted here, so no disk can be filled")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


# Writes until its pipe is full, says so, and goes on.
BACKED_UP = """
import os, sys
os.read(0, 1)
os.set_blocking(1, False)
data, sent = b''.join(b'%d\\n' % n for n in range(1, 60001)), 0
try:
    while sent < len(data): sent += os.write(1, data[sent:sent + 4096])
except BlockingIOError:
    open(sys.argv[1], 'w').close()
os.set_blocking(1, True)
while sent < len(data): sent += os.write(1, data[sent:])
sys.exit(5)
"""


@pytest.mark.parametrize("relief", ["space", "kill"])
def test_a_full_disk_pauses_the_run(tmp_path: Path, launcher: Launcher, relief: str) -> None:
    disk, backed_up = tmp_path / "disk", tmp_path / "backed-up"
    with small_disk(disk):
        runs = Runs(disk, launcher)
        run = runs.start(python(BACKED_UP, str(backed_up)))
        try:
            connection = run.connect()
            fill(disk / "filler")
            connection.send(wire.Stdin(0, b"\n"))
            wait_until(backed_up.exists)
            assert run.reader.end == 0
            if relief == "space":
                (disk / "filler").unlink()
                connection.expect(wire.Exited)
                assert run.wait_over().code == 5
                assert run.output() == b"".join(b"%d\n" % number for number in range(1, 60001))
            else:  # and the record of it fits onto the full disk
                connection.send(wire.Kill())
                connection.expect(wire.Exited)
                result = run.wait_over()
                assert (result.signal, result.output_end) == ("SIGKILL", 0)
        finally:
            runs.close()
