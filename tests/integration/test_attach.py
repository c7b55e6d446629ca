"""Leaving runs and coming back to them: ``run --detach``, escape keys, ``attach``."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.field import Field, lines, read_until
from tests.support.waiting import wait_until

ECHO = "echo ready; while read x; do echo got $x; [ $x = end ] && exit 4; done; echo eof"
"""Answers each line; ends with status 4 when it is told to."""


@pytest.fixture(scope="module")
def home() -> Iterator[Field]:
    """A client with its own daemon; the newest run is the test's own."""
    with Field(sshd=False) as field:
        field.env["PSYNC_TARGET"] = "local"  # named, so that nothing is said about it
        yield field


def detached(field: Field, script: str, *words: str) -> str:
    """Start a run that nobody is attached to; return its ID."""
    done = field.psync("run", "-d", "--no-sync", *words, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, b"")
    (run,) = done.stdout.decode().splitlines()
    return run


def info(field: Field, run: str) -> dict[str, Any]:
    rows = json.loads(field.psync("ps", "-a", "--json").stdout)
    (row,) = [row for row in rows if row["id"] == run]
    found: dict[str, Any] = row
    return found


class Typist:
    """A psync whose stdin is a terminal."""

    def __init__(self, field: Field, *words: str) -> None:
        self.keyboard, terminal = pty.openpty()
        try:
            self.process = field.start(*words, stdin=terminal)
        finally:
            os.close(terminal)

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self.keyboard)

    def type(self, text: bytes) -> None:
        os.write(self.keyboard, text)

    def end(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; return the exit status and the rest of both outputs."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


# -- run --detach ---------------------------------------------------------------------------------


def test_a_detached_run_says_its_id_alone_and_is_kept(home: Field) -> None:
    run = detached(home, ECHO, "--name", "kept")
    row = info(home, run)
    assert (row["name"], row["state"], row["disconnect_grace"]) == ("kept", "running", None)
    done = home.psync("attach", "kept", input=b"end\n")
    assert (done.stdout, done.stderr, done.returncode) == (b"ready\ngot end\n", b"", 4)


def test_the_policy_of_a_detached_run_can_be_named(home: Field) -> None:
    run = detached(home, ECHO, "--on-disconnect", "stop:1h")
    assert info(home, run)["disconnect_grace"] == 3600.0
    assert home.psync("stop", run).returncode == 0


def test_a_program_that_cannot_be_executed_is_known_at_once(home: Field) -> None:
    done = home.psync("run", "-d", "--no-sync", "no-such-command")
    assert (done.stdout, done.returncode) == (b"", 127)
    assert b"no-such-command" in done.stderr


def test_a_detached_run_that_is_over_at_once_is_no_failure(home: Field) -> None:
    run = detached(home, "exit 3")
    done = home.psync("attach", run)
    assert (done.stdout, done.returncode) == (b"", 3)


# -- attach ---------------------------------------------------------------------------------------


def test_the_last_lines_come_first_or_all_of_them(home: Field) -> None:
    run = detached(home, "seq 100; exit 2")
    home.psync("attach", run)  # until it is over
    tail = b"".join(b"%d\n" % i for i in range(91, 101))
    everything = b"".join(b"%d\n" % i for i in range(1, 101))
    for words, output in (((), tail), (("-n", "1"), b"100\n"), (("--all",), everything)):
        done = home.psync("attach", *words, run)
        assert (done.stdout, done.stderr, done.returncode) == (output, b"", 2)


def test_minus_one_and_no_word_at_all_mean_the_newest(home: Field) -> None:
    detached(home, ECHO)
    assert home.psync("attach", "-1", input=b"end\n").returncode == 4
    assert home.psync("attach", "-1", input=b"end\n").returncode == 4  # over, and the newest still
    detached(home, ECHO)
    assert home.psync("attach", input=b"end\n").returncode == 4
    wait_until(lambda: not json.loads(home.psync("ps", "--json").stdout))
    done = home.psync("attach")
    assert done.returncode == 2
    assert b"psync ps -a" in done.stderr


def test_a_run_that_is_not_there(home: Field) -> None:
    done = home.psync("attach", "nobody")
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert "there is no run 'nobody'" in line


def test_dev_null_does_not_end_the_programs_stdin(home: Field) -> None:
    run = detached(home, ECHO)
    process = home.start("attach", run, stdin=subprocess.DEVNULL)
    read_until(process, b"ready\n")
    process.kill()
    process.wait(10)
    # whoever comes new takes stdin from a holder that is gone
    done = home.psync("attach", "--all", run, input=b"one\nend\n")
    assert (done.stdout, done.returncode) == (b"ready\ngot one\ngot end\n", 4)


def test_an_end_of_what_is_piped_in_is_passed_on(home: Field) -> None:
    run = detached(home, ECHO)
    done = home.psync("attach", run, input=b"one\n")
    assert (done.stdout, done.returncode) == (b"ready\ngot one\neof\n", 0)


def test_signals_act_on_the_run(home: Field) -> None:
    run = detached(home, "trap 'echo int; exit 9' INT; echo ready; while :; do read x; done")
    with Typist(home, "attach", run) as typist:
        read_until(typist.process, b"ready\n")
        typist.process.send_signal(signal.SIGINT)
        status, out, _ = typist.end()
    assert (out, status) == (b"int\n", 9)


def test_who_only_watches_just_leaves(home: Field) -> None:
    run = detached(home, ECHO)
    with Typist(home, "attach", "--read-only", run) as typist:
        read_until(typist.process, b"ready\n")
        typist.type(b"end\n")  # goes nowhere
        typist.process.send_signal(signal.SIGINT)
        assert typist.end()[0] == 130
    assert info(home, run)["state"] == "running"
    assert home.psync("attach", run, input=b"end\n").stdout == b"ready\ngot end\n"


def test_the_second_client_is_told_who_holds_stdin_and_gets_it_afterwards(home: Field) -> None:
    run = detached(home, ECHO)
    with Typist(home, "attach", run) as first:
        read_until(first.process, b"ready\n")
        first.type(b"one\n")
        read_until(first.process, b"got one\n")
        with Typist(home, "attach", run) as second:
            read_until(second.process, b"got one\n")
            told = read_until(second.process, b"\n", stderr=True)
            assert b"stdin of the run is held by " in told
            second.type(b"end\n")  # goes nowhere
            first.type(b"two\n")
            read_until(second.process, b"got two\n")
            first.type(b"~d\n")
            assert first.end()[0] == 0
            read_until(second.process, b"stdin of the run comes from here again\n", stderr=True)
            second.type(b"end\n")
            status, out, _ = second.end()
            assert (out, status) == (b"got end\n", 4)


def test_a_reader_that_leaves_leaves_the_run_alone(home: Field) -> None:
    run = detached(home, "echo ready; read x; while read y < /dev/tty; do :; done; " + ECHO)
    reader, writer = os.pipe()
    with Typist(home, "attach", run) as typist:
        read_until(typist.process, b"ready\n")
        other = home.start("attach", run, stdout=writer, stdin=subprocess.DEVNULL)
        os.close(writer)
        assert os.read(reader, 100) == b"ready\n"
        os.close(reader)
        typist.type(b"go\n")
        read_until(typist.process, b"ready\n")
        other.communicate(timeout=30)
        assert other.returncode == 128 + signal.SIGPIPE
        assert info(home, run)["state"] == "running"
        typist.type(b"end\n")
        assert typist.end()[0] == 4


# -- escape keys ----------------------------------------------------------------------------------


def test_detaching_and_coming_back(home: Field) -> None:
    with Typist(home, "run", "--no-sync", "sh", "-c", ECHO) as typist:
        read_until(typist.process, b"ready\n")
        typist.type(b"a~d\n~~d\n")
        read_until(typist.process, b"got a~d\ngot ~d\n")
        typist.type(b"~?\n")
        read_until(typist.process, b"~d detach", stderr=True)
        typist.type(b"~d\n")
        status, out, err = typist.end()
    assert (status, out) == (0, b"")  # nor did the newlines behind the keys arrive
    assert b"psync: detached; the run goes on there; psync attach " in err
    words = err.decode().split("; ")[-1].split()
    assert words[:2] == ["psync", "attach"]
    assert info(home, words[2])["disconnect_grace"] is None  # for as long as it takes
    done = home.psync("attach", words[2], input=b"end\n")
    assert done.stdout.endswith(b"got ~d\ngot end\n")
    assert done.returncode == 4


def test_a_policy_that_was_chosen_outlives_detaching(home: Field) -> None:
    words = ("run", "--no-sync", "--on-disconnect", "stop:1h", "sh", "-c", ECHO)
    with Typist(home, *words) as typist:
        read_until(typist.process, b"ready\n")
        typist.type(b"~d\n")
        status, _, err = typist.end()
    assert status == 0
    assert b"psync: detached; the run goes on there for up to 3600 seconds; psync attach " in err
    assert home.psync("attach", input=b"end\n").returncode == 4


def test_ending_the_connection_leaves_the_run_to_its_policy(home: Field) -> None:
    words = ("run", "--no-sync", "--name", "left", "--on-disconnect", "stop:1h", "sh", "-c", ECHO)
    with Typist(home, *words) as typist:
        read_until(typist.process, b"ready\n")
        typist.type(b"~.\n")
        status, _, err = typist.end()
    assert status == 130
    assert b"psync: left; the run goes on there for up to 3600 seconds; psync attach " in err
    assert home.psync("attach", "left", input=b"end\n").returncode == 4


def test_another_character_or_none(home: Field) -> None:
    with Typist(home, "run", "--no-sync", "-E", "none", "sh", "-c", ECHO) as typist:
        typist.type(b"~d\nend\n")
        assert typist.end()[:2] == (4, b"ready\ngot ~d\ngot end\n")
    with Typist(home, "run", "--no-sync", "--escape", "%", "sh", "-c", ECHO) as typist:
        read_until(typist.process, b"ready\n")
        typist.type(b"~d\n%.\n")
        assert typist.end()[0] == 130
    assert home.psync("stop", "-1").returncode == 0
    done = home.psync("run", "-E", "xx", "true")
    assert done.returncode == 2
    assert b"write -E CHAR" in done.stderr


def test_without_a_terminal_a_tilde_is_a_tilde(home: Field) -> None:
    done = home.psync("run", "--no-sync", "cat", input=b"~d\n~.\n")
    assert (done.stdout, done.returncode) == (b"~d\n~.\n", 0)


# -- without a connection -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["Ctrl-C", "~.", "~d"])
def test_leaving_while_there_is_no_connection(field: Field, how: str) -> None:
    field.pair(connect="direct")
    with Typist(field, "run", "--no-sync", "--name", "x", "sh", "-c", ECHO) as typist:
        read_until(typist.process, b"ready\n")
        field.kill_daemon()
        read_until(typist.process, b"reconnecting", stderr=True)
        if how == "Ctrl-C":
            typist.process.send_signal(signal.SIGINT)
        else:
            typist.type(how.encode() + b"\n")
        status, _, err = typist.end()
    assert status == 130
    assert b"the run goes on there for up to 300 seconds; psync attach " in err
    assert field.server("start").returncode == 0
    assert field.psync("attach", "x", input=b"end\n").returncode == 4


def test_output_flows_again_when_the_daemon_is_back(field: Field) -> None:
    field.pair(connect="direct")
    with Typist(field, "run", "--no-sync", "sh", "-c", ECHO) as typist:
        read_until(typist.process, b"ready\n")
        field.kill_daemon()
        read_until(typist.process, b"reconnecting", stderr=True)
        typist.type(b"one\nend\n")  # kept until somebody takes it
        assert field.server("start").returncode == 0
        status, out, err = typist.end()
    assert (out, status) == (b"got one\ngot end\n", 4)
    assert [line for line in lines(err) if "connection lost" in line] == []  # it was said once
    assert len([line for line in lines(err) if "connected again" in line]) == 1
