"""``psync logs``: its command line, and how pieces of output get to stdout and stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.field import Field
from tests.support.waiting import wait_until

SOURCES = str(Path(__file__).parents[2] / "src")

SHOW = """
import asyncio, sys
from psync.cli.logs import Screen
from psync.client.pieces import Output
from psync.model import Stream

PIECES = {pieces}

async def show():
    screen = Screen(raw={raw!r}, timestamps={timestamps!r})
    offset = 0
    more = True
    for stream, data in PIECES:
        more = more and await screen.show(Output(Stream(stream), offset, data, 10**9), {end!r})
        offset += len(data)
    await screen.finish()
    screen.close()
    return screen.result()

sys.exit(asyncio.run(show()))
"""

Pieces = list[tuple[int, bytes]]


def command(
    pieces: Pieces | str, *, raw: bool = False, timestamps: bool = False, end: int | None = None
) -> list[str]:
    code = SHOW.format(pieces=pieces, raw=raw, timestamps=timestamps, end=end)
    return [sys.executable, "-c", code]


ENVIRON = {"PYTHONPATH": SOURCES, "TZ": "UTC"}
HOSTILE: Pieces = [(1, b"\x1b[31mred\x1b]0;ti"), (2, b"err\x1b"), (1, b"tle\x07\n"), (2, b"[2J")]


def on_a_terminal(words: list[str], *, stderr: bool = True) -> bytes:
    """Return what a terminal that is stdout, and stderr as well, gets."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        words, stdout=theirs, stderr=theirs if stderr else subprocess.DEVNULL, env=ENVIRON
    )
    os.close(theirs)
    got = b""
    while True:
        try:
            got += os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert process.wait(20) == 0
    return got


def test_files_get_the_bytes_as_they_are(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        subprocess.run(
            command(HOSTILE), stdout=out, stderr=err, env=ENVIRON, check=True, timeout=50
        )
    assert (tmp_path / "out").read_bytes() == b"\x1b[31mred\x1b]0;title\x07\n"
    assert (tmp_path / "err").read_bytes() == b"err\x1b[2J"


def test_a_terminal_gets_text_and_colours() -> None:
    got = on_a_terminal(command(HOSTILE))
    # what stderr still held came last, and the colour that was left on is off again
    assert got == b"\x1b[31mred^[]0;tierrtle^G\r\n^[[2J\x1b[0m"


def test_it_is_decided_for_each_stream() -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            command(HOSTILE), stdout=subprocess.PIPE, stderr=theirs, env=ENVIRON, timeout=50
        )
        assert done.stdout == b"\x1b[31mred\x1b]0;title\x07\n"
        assert os.read(ours, 1000) == b"err^[[2J"
    finally:
        os.close(ours)
        os.close(theirs)


def test_raw_passes_everything() -> None:
    got = on_a_terminal(command(HOSTILE, raw=True), stderr=False)
    assert got == b"\x1b[31mred\x1b]0;title\x07\r\n"


def test_lines_get_times_of_their_own_stream() -> None:
    done = subprocess.run(
        command([(1, b"a\nb"), (2, b"x\n"), (1, b"c\n")], timestamps=True),
        capture_output=True,
        env=ENVIRON,
        timeout=50,
    )
    stamp = b"1970-01-01T00:00:01.000+00:00 "
    assert done.stdout == stamp + b"a\n" + stamp + b"bc\n"
    assert done.stderr == stamp + b"x\n"


def test_times_stay_whole_on_a_terminal() -> None:
    got = on_a_terminal(command([(1, b"a\n\x1b"), (1, b"[31mb\n")], timestamps=True))
    stamp = b"1970-01-01T00:00:01.000+00:00 "
    assert got == stamp + b"a\r\n" + stamp + b"\x1b[31mb\r\n\x1b[0m"


def test_nothing_beyond_the_end_is_shown() -> None:
    done = subprocess.run(
        command([(1, b"abc"), (1, b"def"), (1, b"ghi")], end=5),
        capture_output=True,
        env=ENVIRON,
        timeout=50,
    )
    assert done.stdout == b"abcde"


def test_a_pipe_that_is_read_slowly_gets_everything() -> None:
    pieces = "[(1, bytes([65 + number % 26]) * 65536) for number in range(40)]"
    process = subprocess.Popen(command(pieces), stdout=subprocess.PIPE, env=ENVIRON)
    assert process.stdout is not None
    got = b""
    while chunk := process.stdout.read(1000):
        got += chunk
    process.stdout.close()
    assert process.wait(20) == 0
    assert got == b"".join(bytes([65 + number % 26]) * 65536 for number in range(40))


def test_nobody_reading_is_told_by_the_status() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command([(1, b"x"), (1, b"y")]),
        stdout=writer,
        stderr=subprocess.PIPE,
        env=ENVIRON,
        timeout=50,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_named() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command([(1, b"x" * 65536)]),
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRON,
            timeout=50,
        )
    assert done.returncode == 1
    assert b"output could not be written: No space left on device" in done.stderr


WATCH = """
import asyncio, os, sys
from psync.cli.logs import Screen

async def watch():
    gone = asyncio.Event()
    screen = Screen()
    screen.watch(gone.set)
    os.write(1, b"watching")
    await gone.wait()
    screen.close()
    return screen.result()

sys.exit(asyncio.run(watch()))
"""


def test_a_reader_that_leaves_is_noticed_without_a_write() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRON,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(8) == b"watching"
    process.stdout.close()
    wait_until(lambda: process.poll() is not None)
    assert (process.returncode, process.stderr.read()) == (141, b"")
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-n", "-1"], "is not a number of lines"),
        (["-n", "many"], "is not a number of lines"),
        (["--since", "soon"], "neither a duration (10m) nor a time"),
        (["--stream", "stdin"], "invalid choice"),
        (["one", "two"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line(words: list[str], said: str) -> None:
    with Field(sshd=False) as field:
        done = field.psync("logs", *words)
        assert (done.returncode, done.stdout) == (2, b"")
        assert said in done.stderr.decode()


def test_where_there_are_no_runs_no_daemon_is_started() -> None:
    with Field(sshd=False) as field:
        done = field.psync("logs")
        said = b"psync: there are no runs on local; psync run PROGRAM starts one\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, b"", said)
        assert not field.local_home.exists()
