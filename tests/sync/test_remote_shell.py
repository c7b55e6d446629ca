"""The script that rsync starts in place of ssh: what it hands over, and how it ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from psync.sync import remote_shell

SCRIPT = Path(remote_shell.__file__)
PYTHON = (sys.executable, "-I", "-S", "-E")
TIMEOUT = 30.0


class Started:
    """The script, with the test in the places of rsync and psync."""

    def __init__(self, *words: str | bytes) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.settimeout(TIMEOUT)
        with theirs:
            self.process = subprocess.Popen(
                [*PYTHON, str(SCRIPT), str(theirs.fileno()), *words],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        self.handed: list[int] = []

    def meet(self) -> bytes:
        """Take what it hands over; return its words."""
        words, self.handed, _, _ = socket.recv_fds(self.ours, 4096, 8)
        return words

    def close(self) -> None:
        self.ours.close()
        for fd in self.handed:
            os.close(fd)
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)


@pytest.fixture
def started() -> Iterator[Started]:
    one = Started("host", "rsync", "--server", b"\xff ", ".")
    yield one
    one.close()


def test_its_words_and_its_descriptors_arrive(started: Started) -> None:
    assert started.meet() == b"host\0rsync\0--server\0\xff \0.\0\0"
    stdin, stdout, _ = started.handed
    assert started.process.stdin is not None
    assert started.process.stdout is not None
    started.process.stdin.write(b"in")
    started.process.stdin.flush()
    assert os.read(stdin, 10) == b"in"
    os.write(stdout, b"out")
    assert os.read(started.process.stdout.fileno(), 10) == b"out"


@pytest.mark.parametrize("status", [0, 23, 255])
def test_it_ends_with_the_status_that_it_is_given(started: Started, status: int) -> None:
    started.meet()
    with socket.socket(fileno=started.handed.pop()) as answer:
        answer.send(bytes([status]))
        assert started.process.wait(TIMEOUT) == status


def test_rsync_sees_the_end_when_psync_closes(started: Started) -> None:
    """It keeps nothing open itself: else rsync would wait for ever."""
    started.meet()
    assert started.process.stdout is not None
    os.close(started.handed.pop(1))
    assert started.process.stdout.read() == b""
    assert started.process.poll() is None


def test_without_a_word_it_ends_like_a_broken_connection(started: Started) -> None:
    started.meet()
    os.close(started.handed.pop())
    assert started.process.wait(TIMEOUT) == 255


def test_psync_learns_when_it_is_killed(started: Started) -> None:
    started.meet()
    with socket.socket(fileno=started.handed.pop()) as answer:
        answer.settimeout(TIMEOUT)
        started.process.kill()
        assert answer.recv(1) == b""


def test_without_psync() -> None:
    one = Started("host")
    one.ours.close()
    assert one.process.wait(TIMEOUT) == 255  # whether it could still say something or not
    one.close()


def test_it_imports_next_to_nothing() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        done = subprocess.run(
            [*PYTHON, "-X", "importtime", str(SCRIPT), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
        )
    imported = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"_socket" in imported
    assert not imported & {b"psync", b"socket", b"site", b"re", b"enum", b"typing", b"selectors"}
