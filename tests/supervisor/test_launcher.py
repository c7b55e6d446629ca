"""The launcher: what it answers, what it leaves alone, and what outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.supervisor.support import WAIT, Launcher, Runs, python
from tests.support.waiting import wait_until

from psync.supervisor import record, wire


def test_a_supervisor_is_ready_when_it_is_announced(runs: Runs) -> None:
    run = runs.start([b"cat"])
    owner = record.read_owner(str(run.dir))
    assert owner.pid == run.pid
    assert owner.alive
    assert record.is_process(owner.program_pid, owner.program_start_time)
    assert run.reader.end == 0
    assert (run.dir / "ctl").stat().st_mode & 0o777 == 0o600
    connection = run.connect()
    assert connection.hello.pid == owner.program_pid
    connection.send(wire.StdinEof(0))
    assert run.wait_over().code == 0
    assert not (run.dir / "ctl").exists()


def test_a_launch_that_cannot_be_is_answered_and_the_next_one_works(
    runs: Runs, tmp_path: Path
) -> None:
    missing = runs.launcher.launch(tmp_path / "nowhere")
    assert isinstance(missing, wire.LaunchFailed)
    assert missing.errno == 2
    assert "nowhere" in missing.message

    damaged = runs.make([b"true"])
    (damaged / "spec.json").write_bytes(b"{}")
    answer = runs.launcher.launch(damaged)
    assert isinstance(answer, wire.LaunchFailed)
    assert "spec.json" in answer.message

    taken = runs.make([b"true"])
    (taken / "ctl").touch()
    assert isinstance(runs.launcher.launch(taken), wire.LaunchFailed)

    assert runs.start([b"true"]).wait_over().code == 0


def test_runs_outlive_launcher_and_daemon(tmp_path: Path) -> None:
    launcher = Launcher()
    runs = Runs(tmp_path, launcher)
    run = runs.start([b"cat"])
    launcher.close()
    assert launcher.process.returncode == 0
    connection = run.connect()
    connection.send(wire.Stdin(0, b"still here"), wire.StdinEof(10))
    assert run.wait_over().code == 0
    assert run.output() == b"still here"
    runs.close()


def test_the_launcher_ignores_ctrl_c_and_ends_on_garbage(tmp_path: Path) -> None:
    launcher = Launcher()
    runs = Runs(tmp_path, launcher)
    runs.start([b"true"]).wait_over()  # it has come as far as serving
    launcher.process.send_signal(signal.SIGINT)
    assert runs.start([b"true"]).wait_over().code == 0
    launcher.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert launcher.process.wait(WAIT) == 0
    launcher.close()


def test_it_can_be_started_as_a_module(tmp_path: Path) -> None:
    source = str(Path(record.__file__).parents[2])
    env = ["/usr/bin/env", f"PYTHONPATH={source}"]
    launcher = Launcher(lambda fd: [*env, sys.executable, "-m", "psync.supervisor", str(fd)])
    runs = Runs(tmp_path, launcher)
    assert runs.start([b"true"]).wait_over().code == 0
    launcher.close()


def test_the_program_inherits_three_descriptors_and_nothing_else(runs: Runs) -> None:
    run = runs.start(python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"))
    run.wait_over()
    assert run.output() == b"[0, 1, 2, 3]\n"  # 3 is the directory being listed


def test_the_program_has_default_signals_a_session_and_the_daemons_umask(runs: Runs) -> None:
    # Not asked of a Python, which ignores SIGPIPE and SIGXFSZ itself.
    run = runs.start([b"grep", b"-E", b"^Sig(Blk|Ign)", b"/proc/self/status"])
    run.wait_over()
    # 32 and 33 are glibc's own: its posix_spawn (GNU make) ignores them, and nobody can undo that.
    masks = [int(line.split()[1], 16) & ~(0b11 << 31) for line in run.output().splitlines()]
    assert masks == [0, 0]
    mask = os.umask(0)
    os.umask(mask)
    code = "import os; print(os.getpid() == os.getpgrp() == os.getsid(0), oct(os.umask(0)))"
    run = runs.start(python(code))
    run.wait_over()
    assert run.output() == f"True {oct(mask)}\n".encode()


def test_supervisors_hold_nothing_of_the_daemons(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    launcher = Launcher(close_fds=False)
    os.close(write)
    runs = Runs(tmp_path, launcher)
    run = runs.start([b"cat"])
    assert os.read(read, 1) == b""  # nobody holds the other end any more
    os.close(read)
    for fd in (0, 1, 2):
        assert os.readlink(f"/proc/{run.pid}/fd/{fd}") == "/dev/null"
    assert os.readlink(f"/proc/{run.pid}/cwd") == "/"
    assert os.getsid(run.pid) == run.pid
    runs.close()
    launcher.close()


def test_a_supervisor_that_failed_leaves_no_process(runs: Runs) -> None:
    # supervisor.json cannot be written, which is found out when the program is forked already.
    run_dir = runs.make(python("import time; time.sleep(1000)", "a-mark-of-its-own"))
    (run_dir / "supervisor.json").mkdir()
    assert isinstance(runs.launcher.launch(run_dir), wire.LaunchFailed)

    def marked() -> bool:
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True)
        return b"a-mark-of-its-own" in listing.stdout

    wait_until(lambda: not marked())


@pytest.mark.long
def test_a_thousand_runs_one_after_another(runs: Runs) -> None:
    for number in range(1000):
        run = runs.start([b"sh", b"-c", f"exit {number % 250}".encode()])
        assert run.wait_over().code == number % 250


def test_importing_the_parts_for_the_daemon_costs_nothing_heavy() -> None:
    code = (
        "import sys; from psync.supervisor import launcher, log, record, tree, wire;"
        "print([m for m in ('asyncio', 'ctypes', 'dataclasses', 'subprocess', 'typing', 'inspect')"
        " if m in sys.modules], [m for m in sys.modules if m.startswith('psync.')"
        " and not m.startswith('psync.supervisor')])"
    )
    source = str(Path(record.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"[] []\n"
