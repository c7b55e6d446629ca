"""``psync ps``, ``logs`` and ``stop`` against real daemons and real programs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.field import Field, lines, read_until
from tests.support.waiting import alive, wait_until


@pytest.fixture(scope="module")
def home() -> Iterator[Field]:
    """A client with its own daemon, for tests that look at their own runs only."""
    with Field(sshd=False) as field:
        yield field


@pytest.fixture
def own() -> Iterator[Field]:
    """The same for one test."""
    with Field(sshd=False) as field:
        yield field


class Running:
    """A run that says ``ready``, waits for a word and ends.

    Args:
        field: where.
        name: of the run.
        script: what it does after ``ready`` was said and before it ends; ``gate`` waits.
    """

    def __init__(self, field: Field, name: str, script: str = "gate") -> None:
        self.field = field
        self.name = name
        self.gate = field.directory / f"gate-{name}"
        os.mkfifo(self.gate)
        # a gate may be opened by the end of the opening of the one before it
        gate = f"gate() {{ until read word < '{self.gate}'; do :; done; }}; "
        self.process = field.start(
            "run", "--no-sync", "--name", name, "sh", "-c", f"{gate} echo ready; {script}"
        )
        read_until(self.process, b"ready\n")

    @property
    def id(self) -> str:
        (row,) = [row for row in ps(self.field, "-a") if row["name"] == self.name]
        return str(row["id"])

    def open_gate(self) -> None:
        """Let it go on; waits until it is at the gate."""
        with open(self.gate, "w") as gate:
            gate.write("go\n")

    def end(self) -> int:
        """Let it end, if it has only one gate; return what psync run returned."""
        self.open_gate()
        return self.wait()

    def wait(self) -> int:
        self.process.communicate(timeout=30)
        return self.process.returncode


def ps(field: Field, *words: str) -> list[dict[str, Any]]:
    done = field.psync("ps", "--json", *words)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def finished(field: Field, name: str, script: str) -> None:
    """Have a run of that name, and its end."""
    field.psync("run", "--no-sync", "--name", name, "sh", "-c", script)


def on_a_terminal(field: Field, *words: str, columns: int = 80) -> bytes:
    """Return what a terminal that is psync's stdout and stderr gets."""
    ours, theirs = os.openpty()
    process = field.start(*words, stdout=theirs, stderr=theirs, env={"COLUMNS": str(columns)})
    os.close(theirs)
    got = b""
    while True:
        try:
            got += os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert process.wait(30) == 0, got
    return got


# -- ps -------------------------------------------------------------------------------------------


def test_a_run_is_listed_while_it_goes_on_and_afterwards_with_a(own: Field) -> None:
    run = Running(own, "evening", "gate; exit 3")
    (row,) = ps(own)
    assert (row["name"], row["state"], row["target"]) == ("evening", "running", "local")
    assert row["command"][:2] == ["sh", "-c"]
    assert (row["exit_status"], row["ended"], row["output"]) == (None, None, 6)
    assert row["viewers"] == 1
    assert own.psync("ps", "-q").stdout.decode() == f"{row['id']}\n"
    assert "running" in own.psync("ps").stdout.decode()

    assert run.end() == 3
    assert ps(own) == []
    (row,) = ps(own, "-a")
    assert (row["state"], row["exit_code"], row["exit_status"]) == ("exited", 3, 3)
    assert row["created"] <= row["started"] <= row["ended"]
    assert "exited 3" in own.psync("ps", "-a").stdout.decode()


def test_the_newest_run_comes_first(own: Field) -> None:
    for name in ("one", "two", "three"):
        finished(own, name, "true")
    assert names(ps(own, "-a")) == ["three", "two", "one"]


def test_a_table_fits_its_terminal_and_is_harmless(own: Field) -> None:
    own.psync("run", "--no-sync", "--name", "a\x1b[2Jb", "true", "\x1b]0;title\x07\u202e" * 20)
    got = on_a_terminal(own, "ps", "-a", columns=100).decode()
    assert "\x1b" not in got
    assert "\u202e" not in got
    assert all(len(line) <= 100 for line in got.splitlines())
    assert "…" in got
    whole = own.psync("ps", "-a").stdout.decode()
    assert whole.count("\\x1b]0;title\\x07\\u202e") == 20
    assert "\t" not in whole


def test_runs_of_a_daemon_that_was_killed_are_not_forgotten(own: Field) -> None:
    run = Running(own, "orphan")
    own.kill_daemon(home=own.local_home)
    assert names(ps(own)) == ["orphan"]
    assert run.end() == 0
    own.kill_daemon(home=own.local_home)
    assert ps(own) == []
    assert own.daemon(own.local_home) is None  # nothing was left to tell of
    assert names(ps(own, "-a")) == ["orphan"]


def test_all_targets_and_those_that_cannot_be_reached(field: Field) -> None:
    field.pair("there")
    finished(field, "over-there", "true")
    field.psync("run", "--on", "local", "--no-sync", "--name", "here", "true")
    rows = ps(field, "-a", "--all-targets")
    assert [(row["target"], row["name"]) for row in rows] == [
        ("local", "here"),
        ("there", "over-there"),
    ]
    shown = field.psync("ps", "-a", "--all-targets").stdout.decode()
    assert "TARGET" in shown

    assert field.sshd is not None
    field.pair("gone")
    text = field.config.read_text()
    where = text.index("[targets.gone]")
    gone = text[where:].replace(field.sshd.alias, "nowhere.invalid")
    field.config.write_text(text[:where] + gone + 'connect = "ssh"\n')
    done = field.psync("ps", "-a", "--all-targets", "--json")
    assert done.returncode == 0
    assert names(json.loads(done.stdout)) == ["here", "over-there"]
    (line,) = lines(done.stderr)
    assert line.startswith("psync: gone: ")
    assert field.psync("ps", "--on", "gone").returncode == 125


# -- logs -----------------------------------------------------------------------------------------

NUMBERS = "for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done; printf '\\033[2J\\377end'"


@pytest.fixture(scope="module")
def numbers(home: Field) -> Field:
    """A finished run called numbers, with some output."""
    finished(home, "numbers", NUMBERS)
    return home


def test_output_of_a_run_that_is_over_is_exact(numbers: Field) -> None:
    done = numbers.psync("logs", "numbers")
    assert done.returncode == 0
    assert done.stdout == b"".join(b"out %d\n" % n for n in range(1, 6)) + b"\x1b[2J\xffend"
    assert done.stderr == b"".join(b"err %d\n" % n for n in range(1, 6))
    assert numbers.psync("logs", "-f", "numbers").stdout == done.stdout


def test_one_stream_only(numbers: Field) -> None:
    done = numbers.psync("logs", "--stream", "stderr", "numbers")
    assert (done.stdout, len(done.stderr.splitlines())) == (b"", 5)
    done = numbers.psync("logs", "--stream=stdout", "-n", "2", "numbers")
    assert (done.stdout, done.stderr) == (b"out 5\n\x1b[2J\xffend", b"")


def test_the_last_lines(numbers: Field) -> None:
    done = numbers.psync("logs", "-n", "1", "numbers")  # of which stream, chance decides
    assert len((done.stdout + done.stderr).splitlines()) == 1
    assert numbers.psync("logs", "-n", "0", "numbers").stdout == b""
    done = numbers.psync("logs", "-n", "1000", "numbers")
    assert len(done.stdout.splitlines()) == 6


def test_since(numbers: Field) -> None:
    assert len(numbers.psync("logs", "--since", "1h", "numbers").stdout.splitlines()) == 6
    assert numbers.psync("logs", "--since", "2099-01-01", "numbers").stdout == b""


def test_output_since_a_moment_between_two_writes(home: Field) -> None:
    run = Running(home, "twice", "gate; echo later")
    between = time.time() + 0.2  # what is written within 100 ms may have one time
    wait_until(lambda: time.time() > between + 0.1)
    moment = datetime.fromtimestamp(between, UTC).isoformat()
    run.end()
    assert home.psync("logs", "--since", moment, "twice").stdout == b"later\n"


def test_timestamps(numbers: Field) -> None:
    began = time.time() - 3600
    done = numbers.psync("logs", "-t", "numbers", env={"TZ": "UTC"})
    stamps = [line.split(b" ")[0].decode() for line in done.stdout.splitlines()]
    assert len(stamps) == 6
    for stamp in stamps:
        assert stamp.endswith("+00:00")
        when = time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")
        assert began < time.mktime(when) - time.timezone + 1 < time.time() + 2
    assert stamps == sorted(stamps)


def test_a_terminal_gets_nothing_but_text_and_colours(numbers: Field) -> None:
    got = on_a_terminal(numbers, "logs", "numbers")
    assert b"^[[2J\\xffend" in got
    assert b"\x1b" not in got
    assert b"\x1b[2J\xffend" in on_a_terminal(numbers, "logs", "--raw", "numbers")


def test_without_follow_it_ends_where_the_output_ends_now(home: Field) -> None:
    run = Running(home, "going")
    assert home.psync("logs", "going").stdout == b"ready\n"
    assert home.psync("logs").stdout == b"ready\n"
    assert home.psync("logs", "-1").stdout == b"ready\n"
    assert run.end() == 0


def test_following_ends_with_the_run(home: Field) -> None:
    run = Running(home, "followed", "gate; echo more; gate; exit 7")
    everything = home.start("logs", "-f", "followed")
    only_new = home.start("logs", "-f", "-n", "0", "followed")
    read_until(everything, b"ready\n")
    wait_until(lambda: ps(home)[0]["viewers"] == 3)  # psync run is one of them
    run.open_gate()
    read_until(everything, b"more\n")
    assert read_until(only_new, b"more\n") == b"more\n"
    run.open_gate()
    assert run.wait() == 7
    for process in (everything, only_new):
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 0


def test_following_survives_the_daemon(own: Field) -> None:
    run = Running(own, "survivor", "gate; echo between; gate; echo last")
    logs = own.start("logs", "-f", "survivor")
    read_until(logs, b"ready\n")
    own.kill_daemon(home=own.local_home)
    run.open_gate()
    assert read_until(logs, b"between\n") == b"between\n"
    run.open_gate()
    assert run.wait() == 0
    out, err = logs.communicate(timeout=30)
    assert (out, logs.returncode) == (b"last\n", 0)
    assert any("connected again" in line for line in lines(err))


def test_ctrl_c_and_a_reader_that_leaves_end_it_quietly(home: Field) -> None:
    run = Running(home, "endless")
    logs = home.start("logs", "-f", "endless")
    read_until(logs, b"ready\n")
    logs.send_signal(signal.SIGINT)
    assert logs.communicate(timeout=30) == (b"", b"")
    assert logs.returncode == 130

    logs = home.start("logs", "-f", "endless")
    read_until(logs, b"ready\n")
    assert logs.stdout is not None
    logs.stdout.close()
    assert logs.wait(30) == 141
    assert logs.stderr is not None
    assert logs.stderr.read() == b""
    assert run.end() == 0  # which was never disturbed


# -- stop -----------------------------------------------------------------------------------------


def test_stopping_by_name_says_how_it_ended(home: Field) -> None:
    run = Running(home, "by-name")
    done = home.psync("stop", "by-name")
    assert (done.returncode, done.stdout) == (0, b"")
    assert lines(done.stderr) == [f"psync: stopped {run.id} (SIGTERM)"]
    assert run.wait() == 128 + signal.SIGTERM
    done = home.psync("stop", run.id[:6])
    assert done.returncode == 0
    assert lines(done.stderr) == [f"psync: {run.id} is over already (SIGTERM)"]


def test_a_program_that_ignores_the_signal_is_killed_with_its_children(home: Field) -> None:
    note = home.directory / "child"
    child = f"setsid sh -c 'echo $$ > {note}; exec sleep 600' &"
    run = Running(home, "stubborn", f"trap '' TERM INT; {child} while :; do gate; done")
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"))
    done = home.psync("stop", "--grace", "200ms", "--signal", "INT", "stubborn")
    assert done.returncode == 0
    assert lines(done.stderr) == [f"psync: stopped {run.id} (SIGKILL)"]
    assert not alive(int(note.read_text()))
    assert run.wait() == 128 + signal.SIGKILL


def test_a_program_may_end_in_its_own_way(home: Field) -> None:
    run = Running(home, "polite", "trap 'echo bye; exit 4' INT; while :; do gate; done")
    done = home.psync("stop", "--signal", "2", "polite")
    assert done.returncode == 0
    assert lines(done.stderr) == [f"psync: stopped {run.id} (exit status 4)"]
    assert run.wait() == 4


def test_killing_several_at_once(own: Field) -> None:
    runs = [Running(own, f"many-{number}", "trap '' TERM; gate") for number in range(3)]
    done = own.psync("stop", "--kill", "many-0", "many-1", "-1")
    assert done.returncode == 0
    assert sorted(lines(done.stderr)) == sorted(
        f"psync: stopped {run.id} (SIGKILL)" for run in runs
    )
    assert ps(own) == []
    assert own.psync("stop", "--all").stderr == b"psync: nothing is running on local\n"


def test_all_of_them(own: Field) -> None:
    runs = [Running(own, f"all-{number}") for number in range(2)]
    assert own.psync("stop", "--all").returncode == 0
    assert [run.wait() for run in runs] == [128 + signal.SIGTERM] * 2


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_a_run_that_is_not_there(home: Field, command: str) -> None:
    run = Running(home, f"untouched-{command}")
    words = ("-1", "nosuchrun") if command == "stop" else ("nosuchrun",)
    done = home.psync(command, *words)
    assert done.returncode == 2
    (line,) = lines(done.stderr)
    assert line.startswith("psync: there is no run 'nosuchrun' on local; ")
    assert "psync ps -a" in line
    assert run.end() == 0  # nothing is stopped unless all of them are there


def test_the_beginning_of_several_ids_lists_them(own: Field) -> None:
    first: dict[str, str] = {}
    for _ in range(17):  # of IDs in sixteen digits two begin alike
        finished(own, "", "true")
    for row in ps(own, "-a"):
        digit = str(row["id"])[0]
        if digit in first:
            break
        first[digit] = row["id"]
    done = own.psync("logs", digit)
    assert done.returncode == 2
    assert first[digit] in done.stderr.decode()
    assert str(row["id"]) in done.stderr.decode()


def test_an_interrupted_stop_goes_on(home: Field) -> None:
    run = Running(home, "slow", "trap 'echo asked; gate; exit 5' TERM; while :; do gate; done")
    stop = home.start("stop", "--grace", "1h", "slow")
    read_until(run.process, b"asked\n")
    stop.send_signal(signal.SIGINT)
    _, err = stop.communicate(timeout=30)
    assert stop.returncode == 130
    assert b"goes on stopping" in err
    run.open_gate()
    assert run.wait() == 5


def test_a_stop_survives_the_daemon(own: Field) -> None:
    run = Running(own, "patient", "trap 'echo asked; gate; exit 5' TERM; while :; do gate; done")
    stop = own.start("stop", "--grace", "1h", "patient")
    read_until(run.process, b"asked\n")
    own.kill_daemon(home=own.local_home)
    read_until(stop, b"connection lost", stderr=True)
    run.open_gate()
    assert run.wait() == 5
    _, err = stop.communicate(timeout=30)
    assert stop.returncode == 0
    assert lines(err)[-1] == f"psync: stopped {run.id} (exit status 5)"


def test_a_lost_run_says_so_and_when(own: Field) -> None:
    run = Running(own, "gone")
    run_id = run.id
    directory = own.local_home / "state/runs" / run_id
    os.kill(json.loads((directory / "supervisor.json").read_bytes())["pid"], signal.SIGKILL)
    assert run.process.wait(30) == 255
    (row,) = ps(own, "-a")
    assert row["state"] == "lost"
    assert row["started"] <= row["ended"]
    assert " ~" in own.psync("ps", "-a").stdout.decode()
    for words in ((), ("-n", "0"), ("-f",)):
        done = own.psync("logs", *words, run_id)
        assert (done.returncode, done.stdout) == (0, b"" if "0" in words else b"ready\n")
        assert lines(done.stderr) == ["psync: the run was lost: nobody knows how it ended"]
