"""stdin through a real pipe of a real program."""

from __future__ import annotations

import hashlib
import random

import pytest
from tests.supervisor.support import Connection, Run, Runs, python

from psync.supervisor import wire
from psync.supervisor.wire import MAX_STDIN, STDIN_WINDOW


def feed(connection: Connection, data: bytes, offset: int = 0) -> None:
    """Send ``data`` as a daemon does: never more than the window."""
    taken = sent = offset
    while taken < offset + len(data):
        while sent < offset + len(data) and sent - taken + MAX_STDIN <= STDIN_WINDOW:
            chunk = data[sent - offset : sent - offset + MAX_STDIN]
            connection.send(wire.Stdin(sent, chunk))
            sent += len(chunk)
        frame = connection.expect(wire.StdinTaken)
        assert isinstance(frame, wire.StdinTaken)
        assert taken < frame.offset <= sent
        taken = frame.offset


def finish(run: Run, connection: Connection) -> bytes:
    b"".join(data for _, data in run.follow(connection, floor=False))
    assert run.wait_over().code == 0
    return run.output()


def test_megabytes_arrive_as_they_are(runs: Runs) -> None:
    run = runs.start([b"sha256sum"])
    connection = run.connect()
    data = random.Random(7).randbytes(5_000_000)
    feed(connection, data)
    connection.send(wire.StdinEof(len(data)))
    assert finish(run, connection).split()[0] == hashlib.sha256(data).hexdigest().encode()
    assert run.reader.stdin_taken == len(data)


def test_the_end_alone_is_an_end(runs: Runs) -> None:
    run = runs.start([b"cat"])
    connection = run.connect()
    connection.send(wire.StdinEof(0), wire.StdinEof(0))
    assert finish(run, connection) == b""


def test_what_is_sent_again_is_not_given_again(runs: Runs) -> None:
    run = runs.start([b"cat"])
    first = run.connect()
    first.send(wire.Stdin(0, b"hello "))
    first.expect_stdin_taken(6)
    first.close()
    second = run.connect()
    assert second.hello.stdin_taken == 6
    second.send(wire.Stdin(0, b"hello "), wire.Stdin(3, b"lo world"))
    second.expect_stdin_taken(11)
    second.send(wire.StdinEof(11))
    second.close()
    run.wait_over()
    assert run.output() == b"hello world"


@pytest.mark.parametrize(
    "frames",
    [
        [wire.Stdin(1, b"a hole")],
        [wire.StdinEof(1)],
        [wire.StdinEof(0), wire.Stdin(0, b"behind the end")],
        [wire.Stdin(n * MAX_STDIN, bytes(MAX_STDIN)) for n in range(STDIN_WINDOW // MAX_STDIN * 2)],
    ],
)
def test_a_daemon_that_breaks_the_rules_is_disconnected_and_may_come_back(
    runs: Runs, frames: list[wire.Frame]
) -> None:
    # It reads nothing, so that the pipe fills.
    run = runs.start(python("import signal; signal.pause()"))
    connection = run.connect()
    connection.send(*frames)
    connection.expect_closed()
    again = run.connect()
    again.send(wire.Kill())
    again.expect(wire.Exited)


def test_a_program_that_does_not_read_holds_up_the_stdin_and_nothing_else(runs: Runs) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {2})\n"
        "os.write(1, b'ready\\n')\n"
        "signal.sigwait({2})\n"
        "print(len(sys.stdin.buffer.read()))"
    )
    run = runs.start(python(code))
    connection = run.connect()
    for number in range(STDIN_WINDOW // MAX_STDIN):
        connection.send(wire.Stdin(number * MAX_STDIN, bytes(MAX_STDIN)))
    connection.send(wire.StdinEof(STDIN_WINDOW))
    run.wait_output(connection, b"ready\n")
    assert run.reader.stdin_taken < STDIN_WINDOW
    connection.send(wire.Signal(2))
    connection.expect(wire.Exited)
    assert run.wait_over().code == 0
    assert run.output() == f"ready\n{STDIN_WINDOW}\n".encode()


def test_a_program_that_closes_its_stdin_is_told_of_at_once(runs: Runs) -> None:
    run = runs.start(python("import os, signal; os.close(0); signal.pause()"))
    connection = run.connect()
    if not connection.hello.flags & wire.Hello.STDIN_CLOSED:
        connection.expect(wire.StdinClosed)
    again = run.connect()
    assert again.hello.flags & wire.Hello.STDIN_CLOSED
    # What still comes is swallowed, and acknowledged, so that nobody waits for it.
    feed(again, bytes(1_000_000))
    again.send(wire.StdinEof(1_000_000), wire.Kill())
    again.expect(wire.Exited)


def test_a_program_that_ends_without_reading(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"read line; echo $line"])
    connection = run.connect()
    for number in range(STDIN_WINDOW // MAX_STDIN):
        connection.send(wire.Stdin(number * MAX_STDIN, b"one\n" * (MAX_STDIN // 4)))
    connection.send(wire.StdinEof(STDIN_WINDOW))
    assert finish(run, connection) == b"one\n"
