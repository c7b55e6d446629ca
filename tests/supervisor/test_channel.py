"""Daemons that come, go, and do not read."""

from __future__ import annotations

import contextlib
import os
import socket
import time

import pytest
from tests.supervisor.support import Runs, python

from psync.supervisor import record, wire

FLOOD = python("import os\nwhile True: os.write(1, b'x' * 65536)")


def test_the_newest_connection_is_the_one_that_counts(runs: Runs) -> None:
    run = runs.start([b"cat"])
    first = run.connect()
    second = run.connect()
    first.expect_closed()
    second.send(wire.Stdin(0, b"x"))
    second.expect_stdin_taken(1)
    run.wait_output(second, b"x")
    second.send(wire.StdinEof(1))
    second.expect(wire.Exited)
    second.expect_closed()
    assert run.wait_over().code == 0


def test_the_last_words_of_a_daemon_that_died_are_heard(runs: Runs) -> None:
    run = runs.start([b"sleep", b"1000"])
    first = run.connect()
    first.send(wire.Signal(15))
    first.close()
    with contextlib.suppress(OSError, AssertionError):  # the run may be over before that
        run.connect()
    assert run.wait_over().signal == "SIGTERM"


def test_started_is_said_once(runs: Runs) -> None:
    run = runs.start([b"cat"])
    connection = run.connect()
    if not connection.hello.flags & wire.Hello.STARTED:
        connection.expect(wire.Started)
    again = run.connect()
    assert again.hello.flags & wire.Hello.STARTED
    again.send(wire.StdinEof(0))
    again.expect_closed()
    assert wire.Started() not in again.frames
    assert again.frames[-1] == wire.Exited()


def test_a_daemon_that_does_not_read_delays_nothing(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"for i in $(seq 20000); do echo $i; done"])
    connection = run.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    result = run.wait_over()  # without having read anything
    assert run.output() == b"".join(b"%d\n" % number for number in range(1, 20001))
    assert result.output_end == run.reader.end
    connection.expect_closed()


def test_news_that_did_not_fit_come_when_they_do(runs: Runs) -> None:
    run = runs.start([b"cat"])
    connection = run.connect()
    # More answers than a socket holds, and none of them is read meanwhile.
    count = 30_000
    for number in range(count):
        connection.send(wire.Stdin(number, b"."))
    connection.expect_stdin_taken(count)
    while run.reader.end < count:
        connection.expect(wire.Grew)
    connection.send(wire.StdinEof(count))
    assert run.wait_over().output_end == count


def test_garbage_closes_the_connection_and_nothing_else(runs: Runs) -> None:
    run = runs.start([b"cat"])
    connection = run.connect()
    connection.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    connection.expect_closed()
    again = run.connect()
    again.send(wire.Stdin(0, b"fine"), wire.StdinEof(4))
    assert run.wait_over().code == 0
    assert run.output() == b"fine"


def test_a_daemon_that_is_killed_in_mid_run_costs_nothing(runs: Runs) -> None:
    code = "import os, sys\nfor i in range(50000): os.write(1 + i % 2, b'%07d\\n' % i)\n"
    run = runs.start(python(code))
    for _ in range(20):
        try:
            connection = run.connect()
        except (OSError, AssertionError):  # it is over
            break
        connection.receive()
        connection.close()
    result = run.wait_over()
    assert (result.code, result.output_end) == (0, 400_000)
    assert run.output(1) == b"".join(b"%07d\n" % number for number in range(0, 50000, 2))
    assert run.output(2) == b"".join(b"%07d\n" % number for number in range(1, 50000, 2))


def test_commands_are_answered_while_output_floods(runs: Runs) -> None:
    run = runs.start(FLOOD, overflow="drop", log_limit=4 << 20, log_keep=0)
    connection = run.connect()
    connection.expect(wire.Grew)
    connection.send(wire.Signal(2))
    connection.expect(wire.Exited)
    assert run.wait_over().signal == "SIGINT"


def test_ctl_in_a_deep_directory(runs: Runs) -> None:
    deep = runs.root.joinpath(*["a-directory-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    runs.root = deep
    run = runs.start([b"cat"])
    connection = run.connect()
    connection.send(wire.StdinEof(0))
    connection.expect(wire.Exited)
    assert run.wait_over().code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may bind to where others may not connect")
def test_ctl_is_for_its_owner_alone(runs: Runs) -> None:
    run = runs.start([b"cat"])
    runs.root.chmod(0o755)
    run.dir.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.seteuid(65534)
            with socket.socket(socket.AF_UNIX) as client:
                os.chdir(run.dir)
                client.connect(record.CTL)
        except PermissionError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_time_of_a_run_is_written_down(runs: Runs) -> None:
    before = time.time()
    result = runs.start([b"true"]).wait_over()
    assert before - 1 <= result.started <= result.ended + 1 <= time.time() + 2
    assert result.duration >= 0
