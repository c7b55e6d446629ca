"""psync's own words as JSON."""

from __future__ import annotations

import base64
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from psync.cli import events
from psync.cli.events import emit, use_json
from psync.cli.output import LONGEST, report, say, say_now
from psync.errors import NotPaired, PsyncError

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def read() -> Iterator[Read]:
    """Have psync speak JSON into a pipe; returns what it said so far."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    use_json(writer)
    rest = b""

    def said() -> list[dict[str, Any]]:
        nonlocal rest
        try:
            rest += os.read(reader, 1 << 20)
        except BlockingIOError:
            pass
        *lines, rest = rest.split(b"\n")
        return [json.loads(line) for line in lines]

    yield said
    events._stream.fd = None
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test has closed it


def test_without_it_there_are_no_events(capfd: pytest.CaptureFixture[str]) -> None:
    emit("run-started", run="1")
    assert capfd.readouterr() == ("", "")


def test_everything_that_psync_says_is_an_event(
    read: Read, capfd: pytest.CaptureFixture[str]
) -> None:
    say("words\n", event="warning", pid=5)
    say_now("connected again", event="connected")
    say("other words")
    assert read() == [
        {"event": "warning", "message": "words\\n", "pid": 5},
        {"event": "connected", "message": "connected again"},
        {"event": "message", "message": "other words"},
    ]
    assert capfd.readouterr() == ("", "")


def test_an_error_keeps_its_parts(read: Read) -> None:
    assert report(NotPaired("no \x1b[2J", hint="psync pair x")) == 125
    assert read() == [
        {
            "event": "error",
            "code": "not-paired",
            "message": "no \\x1b[2J",
            "hint": "psync pair x",
            "exit_status": 125,
        }
    ]


def test_nobody_elses_words_make_an_endless_line(read: Read) -> None:
    say("x" * 1_000_000)
    report(PsyncError("y" * 1_000_000, hint="z" * 1_000_000))
    first, second = read()
    assert len(first["message"]) == LONGEST + 1
    assert len(second["message"]) == len(second["hint"]) == LONGEST + 1


def test_of_a_long_line_the_beginning_and_the_end_are_said(read: Read) -> None:
    report(PsyncError("/src/" + "\n" * 10_000 + " is too long", hint="shorten it"))
    (only,) = read()
    assert only["message"].startswith("/src/\\n\\n")
    assert only["message"].endswith("\\n\\n is too long")
    assert len(only["message"]) == LONGEST + 1


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (b"assets/a b.png", {"file": "assets/a b.png"}),
        ("ü/☃".encode(), {"file": "ü/☃"}),
        (b"", {"file": None}),
        (b"a\xff", {"file": "a\\xff", "file_base64": base64.b64encode(b"a\xff").decode()}),
        (b"a\nb", {"file": "a\\nb", "file_base64": base64.b64encode(b"a\nb").decode()}),
        # the text alone would not tell it from the one before
        (b"a\\nb", {"file": "a\\nb", "file_base64": base64.b64encode(b"a\\nb").decode()}),
    ],
)
def test_a_path_is_text_and_the_path_itself_where_that_differs(
    read: Read, path: bytes, fields: dict[str, str]
) -> None:
    emit("progress", file=path)
    assert read() == [{"event": "progress", **fields}]


def test_numbers_stay_numbers(read: Read) -> None:
    emit("progress", bytes=2**60, total=None, left=1.23456, skipped=True)
    assert read() == [
        {"event": "progress", "bytes": 2**60, "total": None, "left": 1.235, "skipped": True}
    ]


def test_lines_of_two_threads_do_not_mix(read: Read) -> None:
    said: list[dict[str, Any]] = []

    def speak() -> None:
        for _ in range(50):
            emit("message", message="x" * 9000)

    threads = [threading.Thread(target=speak) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        said += read()
    said += read()
    assert len(said) == 150
    assert all(one == {"event": "message", "message": "x" * 9000} for one in said)


def test_what_would_block_the_loop_is_dropped(read: Read) -> None:
    fd = events._stream.fd
    assert fd is not None
    os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(fd, b'{"event":"x"}\n' * 100)
    os.set_blocking(fd, True)
    say_now("dropped")
    os.set_blocking(fd, False)
    with pytest.raises(BlockingIOError):  # it is as full as before
        os.write(fd, bytes(4096))


def test_that_nobody_reads_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    use_json(writer)
    try:
        emit("message", message="to nobody")
        assert events.failure() is None
    finally:
        events._stream.fd = None
        os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_remembered() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    use_json(full)
    try:
        emit("message", message="lost")
        failure = events.failure()
        assert failure is not None
        assert failure.errno == errno.ENOSPC
    finally:
        events._stream.fd = None
        os.close(full)


def test_the_page_of_the_documentation_says_the_same() -> None:
    page = (Path(__file__).parents[2] / "docs/events.md").read_text()
    said = {line.strip().replace("``", "`") for line in (events.__doc__ or "").splitlines()[2:]}
    assert said - {line.strip() for line in page.splitlines()} == set()
