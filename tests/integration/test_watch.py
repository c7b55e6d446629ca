"""``psync watch`` from end to end: real files, a real daemon, real rsync, real programs."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field, read_until
from tests.support.waiting import alive, wait_until

from psync.sync.lock import ProjectLock

PROGRAM = """
import os, signal, sys
def end(*_):
    os.write(1, b"ends {version}\\n")  # print may be what was interrupted
    os._exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
data = open("data/level").read() if os.path.exists("data/level") else "none"
print("pid", os.getpid(), flush=True)
print("begins {version} with", data, flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def field() -> Iterator[Field]:
    """A client with a project, and the target local."""
    with Field(sshd=False) as field:
        (field.project / "data").mkdir()
        (field.project / "data/level").write_text("1")
        yield field


class Watching:
    """A ``psync watch``, its stderr among its stdout."""

    def __init__(self, field: Field, *words: str, stdin: int | None = subprocess.PIPE) -> None:
        self.field = field
        self.all = b""
        self._left = b""
        self.process = field.start("watch", *words, stdin=stdin, stderr=subprocess.STDOUT)

    def read(self, text: str) -> str:
        """Read up to a text; return what came since the last one."""
        wanted = text.encode()
        while wanted not in self._left:
            got = read_until(self.process, b"\n")
            self.all += got
            self._left += got
        found, _, self._left = self._left.partition(wanted)
        return (found + wanted).decode()

    def pid(self) -> int:
        """Read up to what a run says of itself; return its process ID."""
        self.read("pid ")
        return int(self.read("\n"))

    def begun(self, version: str, data: str = "none") -> int:
        """Read up to the beginning of a run; return its process ID."""
        pid = self.pid()
        self.read(f"begins {version} with {data}\n")
        return pid

    def runs(self) -> int:
        """How many runs there were."""
        return self.all.count(b"\nbegins ") + self.all.startswith(b"begins ")

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Read to the end; return the exit status."""
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        self.all += rest
        self._left += rest
        return self.process.wait(30)


def build(field: Field, version: str, text: str = PROGRAM) -> None:
    """Write the program as a linker does: beside the old one, and rename."""
    field.python("game.new", text.replace("{version}", version)).rename(field.project / "game")


def change(field: Field, level: str, name: str = "level") -> None:
    """Change an asset as an editor does."""
    beside = field.project / f"data/.{name}.swp"
    beside.write_text(level)
    beside.rename(field.project / "data" / name)


def test_what_the_configuration_says_now_is_told_not_to_count_yet(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    watching.begun("one")
    (field.project / "psync.toml").write_text("[run\n")
    assert "psync.toml has changed" in watching.read("is started again\n")
    build(field, "two")
    watching.begun("two")
    watching.interrupt()
    assert watching.end() == 130


# -- again ----------------------------------------------------------------------------------------


def test_the_new_build_runs_once_the_old_one_has_ended_and_said_its_last_words(
    field: Field,
) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    watching.begun("one")
    build(field, "two")
    said = watching.read("begins two with none\n").splitlines()
    assert said[0] == "ends one"
    assert said[1].startswith("psync: game changed")
    assert "; running again after 0." in said[1]
    assert said[2].startswith("pid ")
    assert len(said) == 4
    watching.interrupt()
    assert watching.end() == 130


def test_a_program_that_is_written_over_in_place(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    watching.begun("one")
    program = field.project / "game"
    program.write_text(program.read_text().replace("s one", "s two"))  # as big as before
    watching.begun("two")


def test_an_asset_changes(field: Field) -> None:
    (field.project / "data/other").touch()  # what is empty all of a sudden deletes nothing
    build(field, "one")
    watching = Watching(field, "-A", "data", "./game")
    watching.begun("one", "1")
    change(field, "2")
    said = watching.read("with 2\n")
    assert "psync: data/level changed" in said
    (field.project / "data/level").unlink()
    watching.begun("one", "none")
    change(field, "3")
    watching.begun("one", "3")


def test_a_directory_moves_in_and_out(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "-A", ".", "./game")
    watching.begun("one", "1")
    (field.project / "data").rename(field.directory / "away")
    watching.begun("one", "none")
    (field.directory / "away").rename(field.project / "data")
    watching.begun("one", "1")


def test_a_thousand_quick_changes_are_few_runs(field: Field) -> None:
    field.python("game", "import os\nprint('files', len(os.listdir('data')), flush=True)\n")
    watching = Watching(field, "-A", "data", "./game")
    watching.read("files 1\n")
    for number in range(1000):
        (field.project / f"data/{number}").touch()
    watching.read("files 1001\n")
    assert watching.all.count(b"running again") < 20


def test_a_change_while_files_are_sent_is_not_lost(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "-A", "data", "./game")
    watching.begun("one", "1")
    (mirror,) = (field.local_home / "data/projects").iterdir()
    lock = ProjectLock(str(field.home / ".local/state/psync"), mirror.name, "a test")
    lock.acquire(10, lambda _holder: None, lambda: False)
    change(field, "2")
    watching.read("waiting for another sync of this project")
    change(field, "3")
    change(field, "9", "other")
    lock.release()
    watching.read("with 3\n")
    wait_until(lambda: (mirror / "tree/data/other").exists())


def test_a_change_while_the_old_run_is_stopped_is_not_lost(field: Field) -> None:
    slow = PROGRAM.replace(
        "os._exit(0)", "[None for _ in iter(lambda: os.path.exists('go'), True)]; os._exit(0)"
    )
    build(field, "one", slow)
    watching = Watching(field, "-A", "data", "--grace", "30s", "./game")
    watching.begun("one", "1")
    (mirror,) = (field.local_home / "data/projects").iterdir()
    change(field, "2")
    watching.read("ends one\n")
    change(field, "3")
    (mirror / "tree/go").touch()
    watching.read("with 3\n")


def test_the_output_of_each_run_is_whole(field: Field) -> None:
    text = "import sys\nsys.stdout.write('{version}' * 500_000)\nprint('.', flush=True)\n"
    build(field, "a", text)
    watching = Watching(field, "./game")
    watching.read("status 0; waiting for changes\n")
    build(field, "b", text)
    watching.read("status 0; waiting for changes\n")
    assert (watching.all.count(b"a" * 500_000), watching.all.count(b"b" * 500_000)) == (1, 1)


# -- nothing to do --------------------------------------------------------------------------------


def test_what_is_left_out_starts_nothing(field: Field) -> None:
    (field.project / ".psyncignore").write_text("*.o\n/cache\n")
    (field.project / "cache").mkdir()
    (field.project / "data/x.o").touch()
    build(field, "one")
    watching = Watching(field, "-A", ".", "./game")
    watching.begun("one", "1")
    for number in range(20):
        (field.project / "data/x.o").write_text(str(number))
        (field.project / f"cache/{number}").write_text(str(number))
    (field.project / ".psyncignore").write_text("/cache\n")
    assert "ends one" in watching.read("begins one with 1\n")
    (mirror,) = (field.local_home / "data/projects").iterdir()
    assert (mirror / "tree/data/x.o").exists()
    assert not (mirror / "tree/cache").exists()
    assert watching.runs() == 2


def test_a_file_in_a_directory_that_held_nothing_but_what_is_ignored(field: Field) -> None:
    subprocess.run(["git", "init", "-q", field.project], check=True, timeout=30)
    (field.project / ".gitignore").write_text("*.o\n")
    build(field, "one")
    watching = Watching(field, "-A", ".", "./game")
    watching.begun("one", "1")
    (field.project / "data/made").mkdir()
    (field.project / "data/made/x.o").touch()
    change(field, "2")
    watching.begun("one", "2")
    (field.project / "data/made/real").touch()
    watching.begun("one", "2")
    (mirror,) = (field.local_home / "data/projects").iterdir()
    wait_until(lambda: (mirror / "tree/data/made/real").exists())


# -- what fails -----------------------------------------------------------------------------------


def test_a_sync_that_fails_leaves_the_old_run_alone(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "-A", "data", "./game")
    pid = watching.begun("one", "1")
    (field.project / "data").rename(field.project / "away")
    said = watching.read("the old run goes on\n")
    assert "data does not exist" in said
    assert alive(pid)
    (field.project / "away").rename(field.project / "data")
    change(field, "2")
    said = watching.read("begins one with 2\n")
    assert "ends one" in said
    assert not alive(pid)


def test_a_program_that_is_not_there_for_a_while_leaves_the_old_run_alone(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    pid = watching.begun("one")
    (field.project / "game").unlink()
    assert "./game does not exist" in watching.read("the old run goes on\n")
    assert alive(pid)
    build(field, "two")
    assert "ends one" in watching.read("begins two with none\n")


def test_a_build_that_cannot_be_executed_is_waited_for(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    watching.begun("one")
    field.script("game.new", "", interpreter="/nonexistent/sh").rename(field.project / "game")
    watching.read("running again after ")
    assert "/nonexistent/sh" in watching.read("waiting for changes\n")
    build(field, "two")
    watching.begun("two")


def test_a_run_that_ends_is_told_and_started_again_by_a_change(field: Field) -> None:
    build(field, "one", "import sys\nsys.exit(3)\n")
    watching = Watching(field, "./game")
    watching.read("psync: the run ended with status 3; waiting for changes\n")
    build(field, "two")
    watching.begun("two")


def test_a_program_that_ignores_sigterm_is_killed(field: Field) -> None:
    stubborn = PROGRAM.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    build(field, "one", stubborn)
    watching = Watching(field, "--grace", "200ms", "./game")
    pid = watching.begun("one")
    build(field, "two")
    watching.begun("two")
    assert not alive(pid)


def test_a_daemon_that_was_killed_is_started_again(field: Field) -> None:
    build(field, "one")
    watching = Watching(field, "-A", "data", "./game")
    pid = watching.begun("one", "1")
    field.kill_daemon(home=field.local_home)
    change(field, "2")
    assert "ends one" in watching.read("begins one with 2\n")
    wait_until(lambda: not alive(pid))


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_a_signal_ends_the_run_and_psync(field: Field, number: signal.Signals, status: int) -> None:
    build(field, "one")
    watching = Watching(field, "./game")
    pid = watching.begun("one")
    watching.interrupt(number)
    assert watching.end() == status
    assert watching.all.endswith(b"ends one\n")
    assert not alive(pid)


def test_ctrl_c_while_nothing_runs(field: Field) -> None:
    build(field, "one", "")
    watching = Watching(field, "./game")
    watching.read("waiting for changes\n")
    watching.interrupt()
    assert watching.end() == 130


def test_more_ctrl_c_end_a_program_that_takes_no_notice(field: Field) -> None:
    deaf = PROGRAM.replace(", end)", ", signal.SIG_IGN)")
    build(field, "one", deaf)
    watching = Watching(field, "./game")
    pid = watching.begun("one")
    watching.interrupt()
    watching.read("Ctrl-C again stops the whole run\n")
    watching.interrupt()
    watching.read("Ctrl-C again kills it\n")
    watching.interrupt()
    assert watching.end() == 130
    assert not alive(pid)


def test_after_ctrl_c_nothing_is_started_any_more(field: Field) -> None:
    slow = PROGRAM.replace(
        "os._exit(0)", "[None for _ in iter(lambda: os.path.exists('go'), True)]; os._exit(0)"
    )
    build(field, "one", slow)
    watching = Watching(field, "-A", "data", "./game")
    pid = watching.begun("one", "1")
    (mirror,) = (field.local_home / "data/projects").iterdir()
    watching.interrupt()
    watching.read("ends one\n")
    change(field, "2")
    watching.read("Ctrl-C again stops the whole run\n")  # seconds later
    (mirror / "tree/go").touch()
    assert watching.end() == 130
    assert not alive(pid)
    assert watching.all.count(b"begins") == 1
    assert b"game" not in field.psync("ps").stdout


def test_ctrl_c_while_the_old_run_is_stopped(field: Field) -> None:
    deaf = PROGRAM.replace("os._exit(0)", "")
    build(field, "one", deaf)
    watching = Watching(field, "-A", "data", "--grace", "60s", "./game")
    pid = watching.begun("one", "1")
    change(field, "2")
    watching.read("ends one\n")  # as it says; but it goes on
    watching.interrupt()
    watching.read("ends one\n")
    watching.interrupt()
    watching.read("Ctrl-C again kills it\n")
    watching.interrupt()
    assert watching.end() == 130
    assert not alive(pid)
    assert watching.all.count(b"begins") == 1


def test_it_ends_with_the_run_when_nobody_reads_the_output_any_more(field: Field) -> None:
    field.script("game", "while echo one; do sleep 0.05; done\n")
    process = field.start("watch", "./game")
    assert process.stdout is not None
    read_until(process, b"one\n")
    process.stdout.close()
    assert process.wait(30) == 128 + signal.SIGPIPE


# -- stdin ----------------------------------------------------------------------------------------


def test_a_pipe_is_not_passed_on(field: Field) -> None:
    field.script("game", "cat\necho all read\n")
    watching = Watching(field, "./game")
    watching.read("all read\n")


def test_a_terminal_is_the_stdin_of_the_run_that_goes_on(field: Field) -> None:
    field.script("game", "echo one\nread x\necho got $x\nread x\n")
    keyboard, terminal = pty.openpty()
    try:
        watching = Watching(field, "./game", stdin=terminal)
        watching.read("one\n")
        os.write(keyboard, b"a line\n")
        watching.read("got a line\n")
        field.script("new", "echo two\nread x\necho got $x\n").rename(field.project / "game")
        watching.read("two\n")
        os.write(keyboard, b"another\n")
        watching.read("got another\n")
        watching.interrupt()
        assert watching.end() == 130
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_ctrl_d_of_escape_keys_detaches_and_ends_the_watch(field: Field) -> None:
    build(field, "one")
    keyboard, terminal = pty.openpty()
    try:
        watching = Watching(field, "./game", stdin=terminal)
        pid = watching.begun("one")
        os.write(keyboard, b"~d\n")
        watching.read("detached")
        assert watching.end() == 0
        assert alive(pid)
    finally:
        os.close(keyboard)
        os.close(terminal)


def test_nothing_to_run_is_a_mistake(field: Field) -> None:
    assert field.psync("watch").returncode == 2
    done = field.psync("watch", "./missing")
    assert (done.returncode, b"missing" in done.stderr) == (127, True)


def test_on_another_host(tmp_path: Path) -> None:
    with Field() as field:
        field.pair()
        build(field, "one")
        watching = Watching(field, "./game")
        watching.begun("one")
        build(field, "two")
        watching.begun("two")
        watching.interrupt()
        assert watching.end() == 130
