"""One run from start to exit record: statuses, signals, the ladder, the disconnect policy."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.supervisor.support import Connection, Run, Runs, python
from tests.support.waiting import alive, wait_until

from psync.supervisor import wire
from psync.supervisor.log import tidy
from psync.supervisor.record import read_exit, read_owner
from psync.supervisor.supervise import signal_name
from psync.supervisor.tree import sweep_lost

STUBBORN = """
import os, signal, sys, time
for number in (1, 2, 15): signal.signal(number, lambda n, f: os.write(1, b'got %d\\n' % n))
os.write(1, b'ready\\n')
while True: signal.pause()
"""


def ready(run: Run) -> Connection:
    connection = run.connect()
    run.wait_output(connection, b"ready\n")
    return connection


@pytest.mark.parametrize("status", [0, 1, 3, 125, 126, 127, 255])
def test_the_programs_own_status(runs: Runs, status: int) -> None:
    result = runs.start([b"sh", b"-c", b"exit %d" % status]).wait_over()
    assert (result.code, result.signal, result.exec_error) == (status, None, None)
    assert result.reason == "exited"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGHUP", "SIGUSR1"])
def test_the_signal_that_ended_it(runs: Runs, name: str) -> None:
    result = runs.start([b"sh", b"-c", b"kill -%s $$" % name[3:].encode()]).wait_over()
    assert (result.code, result.signal, result.reason) == (None, name, "exited")


def test_every_signal_has_a_name() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(int(signal.SIGRTMIN) + 3) == "SIGRTMIN+3"


def test_signals_reach_the_group_and_not_the_sessions_beyond(runs: Runs) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "for number in (1, 2): signal.signal(number, lambda *a: None)\n"
        "for apart in (False, True):\n"
        f"    argv = [sys.executable, '-I', '-S', '-c', {STUBBORN!r}]\n"
        "    subprocess.Popen(argv, start_new_session=apart)\n"
        "while True: signal.pause()"
    )
    run = runs.start(python(code))
    connection = run.connect()
    run.wait_output(connection, b"ready\nready\n")
    for number in (2, 1):  # by the second one the first has had its time to go astray
        connection.send(wire.Signal(number))
        run.wait_output(connection, b"got %d\n" % number)
    assert run.output(1) == b"ready\nready\ngot 2\ngot 1\n"
    connection.send(wire.Kill())
    connection.expect(wire.Exited)
    assert run.wait_over().reason == "stopped"


def test_the_ladder_goes_up_to_the_kill(runs: Runs) -> None:
    run = runs.start(python(STUBBORN))
    connection = ready(run)
    connection.send(wire.Stop(int(signal.SIGINT), 10))
    connection.expect(wire.Exited)
    result = run.wait_over()
    assert (result.signal, result.reason) == ("SIGKILL", "stopped")
    assert run.output() == b"ready\ngot 2\ngot 15\n"


def test_the_ladder_goes_on_without_a_daemon(runs: Runs) -> None:
    run = runs.start(python(STUBBORN))
    connection = ready(run)
    connection.send(wire.Stop(int(signal.SIGHUP), 10))
    connection.close()
    assert run.wait_over().signal == "SIGKILL"


def test_a_program_that_obeys_ends_the_ladder_at_its_first_step(runs: Runs) -> None:
    code = (
        "import signal, sys\n"
        "try:\n    print('ready', flush=True)\n    signal.pause()\n"
        "except KeyboardInterrupt: sys.exit(7)"
    )
    run = runs.start(python(code))
    connection = ready(run)
    connection.send(wire.Stop(int(signal.SIGINT), 3_600_000))
    connection.expect(wire.Exited)
    result = run.wait_over()
    assert (result.code, result.reason) == (7, "stopped")


def test_a_second_stop_may_hasten_and_never_delays(runs: Runs) -> None:
    run = runs.start(python(STUBBORN))
    connection = ready(run)
    connection.send(wire.Stop(2, 3_600_000), wire.Stop(1, 10), wire.Stop(2, 3_600_000))
    connection.expect(wire.Exited)
    assert run.wait_over().signal == "SIGKILL"


def test_stopped_programs_are_woken_to_hear_it(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"echo ready; kill -STOP $$; exit 3"])
    connection = ready(run)
    connection.send(wire.Stop(int(signal.SIGTERM), 3_600_000))
    connection.expect(wire.Exited)
    assert run.wait_over().signal == "SIGTERM"


def test_terminate_reaches_every_descendant(runs: Runs) -> None:
    code = (
        "import signal, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', '-c', {STUBBORN!r}],"
        " start_new_session=True)\n"
        "signal.signal(15, lambda *a: None)\n"
        "while True: signal.pause()"
    )
    run = runs.start(python(code))
    connection = ready(run)
    connection.send(wire.Terminate())
    run.wait_output(connection, b"got 15\n")
    connection.send(wire.Kill())
    connection.expect(wire.Exited)
    assert run.wait_over().reason == "stopped"


def test_the_run_is_over_when_its_program_is(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"sleep 1000 & sleep 1000 & echo $!; exit 4"])
    assert run.wait_over().code == 4
    assert not alive(int(run.output()))


def test_a_daemonized_descendant_that_holds_no_pipe_is_ended_too(runs: Runs) -> None:
    run = runs.start([b"sh", b"-c", b"setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"])
    assert run.wait_over().code == 0
    assert not alive(int(run.output()))


def test_a_stranger_that_holds_the_pipe_does_not_hold_the_run(runs: Runs) -> None:
    # The program's stdout is opened by this process, which no sweep will ever kill.
    run = runs.start([b"sh", b"-c", b"echo before; read line; echo after"])
    connection = run.connect()
    run.wait_output(connection, b"before\n")
    fd = os.open(f"/proc/{connection.hello.pid}/fd/1", os.O_WRONLY)
    try:
        connection.send(wire.Stdin(0, b"\n"))
        assert run.wait_over().code == 0
    finally:
        os.close(fd)
    assert run.output() == b"before\nafter\n"


def test_nobody_ever_attached(runs: Runs) -> None:
    run = runs.start([b"sleep", b"1000"], disconnect_grace=0.1)
    result = run.wait_over()
    assert (result.signal, result.reason) == ("SIGHUP", "disconnected")


def test_the_last_viewer_has_gone(runs: Runs) -> None:
    run = runs.start([b"sleep", b"1000"], disconnect_grace=0.3)
    connection = run.connect()
    connection.send(wire.Viewers(2))
    connection.send(wire.Viewers(0))
    connection.expect(wire.Exited)
    assert run.wait_over().reason == "disconnected"


def test_the_daemon_has_gone_with_all_viewers(runs: Runs) -> None:
    run = runs.start([b"cat"], disconnect_grace=0.5)
    connection = run.connect()
    connection.send(wire.Viewers(1), wire.Stdin(0, b"x"))
    connection.expect_stdin_taken(1)
    connection.close()
    assert run.wait_over().reason == "disconnected"


def test_a_viewer_keeps_the_run_alive_and_so_does_the_policy_for_ever(runs: Runs) -> None:
    seen = runs.start([b"cat"], disconnect_grace=0.3)
    kept = runs.start([b"cat"], disconnect_grace=None)
    connection = seen.connect()
    connection.send(wire.Viewers(1), wire.Stdin(0, b"x"))
    connection.expect_stdin_taken(1)
    witness = runs.start([b"sleep", b"1000"], disconnect_grace=0.6)
    witness.wait_over()  # longer than the grace of the first
    assert seen.alive
    assert kept.alive
    connection.send(wire.StdinEof(1))
    assert seen.wait_over().reason == "exited"


def test_a_run_that_is_to_be_kept_needs_no_client_any_more(runs: Runs) -> None:
    run = runs.start([b"cat"], disconnect_grace=0.3)
    connection = run.connect()
    connection.send(wire.Viewers(1), wire.Keep(), wire.Stdin(0, b"x"))
    connection.expect_stdin_taken(1)
    connection.close()
    runs.start([b"sleep", b"1000"], disconnect_grace=0.6).wait_over()
    again = run.connect()
    assert again.hello.flags & wire.Hello.KEPT
    again.send(wire.StdinEof(1))
    assert run.wait_over().reason == "exited"


def test_a_full_log_that_nobody_will_ever_read_does_not_keep_the_run(runs: Runs) -> None:
    run = runs.start([b"yes"], log_limit=100_000, disconnect_grace=0.2)
    result = run.wait_over()
    assert (result.signal, result.reason) == ("SIGHUP", "disconnected")
    run = runs.start(
        python("import os; os.write(1, bytes(60000))"), log_limit=20_000, disconnect_grace=1.0
    )
    assert run.wait_over().output_end == 20_000


def test_sigterm_for_the_supervisor_stops_the_run(runs: Runs) -> None:
    run = runs.start([b"sleep", b"1000"])
    run.connect()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        os.kill(run.pid, number)  # nothing to it
    os.kill(run.pid, signal.SIGTERM)
    result = run.wait_over()
    assert (result.signal, result.reason) == ("SIGTERM", "stopped")


def test_a_killed_supervisor_leaves_an_exact_log_and_no_record(runs: Runs) -> None:
    code = (
        "import os, signal, subprocess, sys\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "i = 0\n"
        "while True:\n"
        "    os.write(1, b'%07d\\n' % i)\n"
        "    i += 1\n"
    )
    env = [(b"PATH", os.environb[b"PATH"]), (b"PSYNC_RUN", str(time.time_ns()).encode())]
    run = runs.start(python(code), env=env, log_limit=1 << 20, log_keep=0)
    connection = run.connect()
    offset = 0
    for _, data in run.follow(connection):
        offset += len(data)
        if offset > 3_000_000:
            break
    owner = read_owner(str(run.dir))
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not run.alive)
    with pytest.raises(FileNotFoundError):
        read_exit(str(run.dir))
    tidy(str(run.dir))
    assert not owner.alive
    # The program dies with its supervisor; the rest is found by its mark.
    wait_until(lambda: not alive(owner.program_pid))
    mark = b"=".join(env[1])
    wait_until(lambda: not sweep_lost(owner.program_pid, owner.program_start_time, mark))
    oldest = run.reader.oldest
    text = b"".join(b"%07d\n" % number for number in range(run.reader.end // 8 + 1))
    assert run.output() == text[oldest : run.reader.end]
    files = b"".join(file.read_bytes() for file in sorted(run.dir.glob("output-*")))
    assert files == text[oldest : run.reader.end]
