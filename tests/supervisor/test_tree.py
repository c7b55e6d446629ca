"""No survivor: daemons, double forks, stubborn trees, fork storms."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.supervisor.support import Runs, python
from tests.support.waiting import wait_until

from psync.supervisor import tree, wire
from psync.supervisor.record import process_start_time

IGNORE = "import signal\nfor n in (1, 2, 3, 15, 18): signal.signal(n, signal.SIG_IGN)\n"

DAEMON = """
import os, sys
def daemonize():
    if os.fork(): return
    os.setsid()
    if os.fork(): os._exit(0)
    os.execv('/bin/sleep', ['sleep', '1000'])
"""

TREES = {
    "children": "import subprocess\nfor _ in range(5): subprocess.Popen(['sleep', '1000'])\n",
    "sessions": (
        "import subprocess\n"
        "for _ in range(5): subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
    ),
    "double forks": DAEMON + "for _ in range(5): daemonize()\n",
    "ignored signals": IGNORE + DAEMON + "for _ in range(5): daemonize()\n",
    "deep": "import os\nfor _ in range(30):\n    if os.fork(): break\n    os.setsid()\n",
    "stopped": (
        "import os, signal, subprocess\n"
        "for _ in range(3): os.kill(subprocess.Popen(['sleep', '1000']).pid, signal.SIGSTOP)\n"
    ),
}


def marked(mark: str) -> list[int]:
    """All processes with that entry in their environment, zombies excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment.split(b"\0"):
                found.append(int(entry.name))
    return found


@pytest.fixture
def mark() -> str:
    return f"PSYNC_TEST={os.getpid()}-{time.monotonic_ns()}"


def environment(mark: str) -> list[tuple[bytes, bytes]]:
    name, _, value = mark.encode().partition(b"=")
    return [(b"PATH", os.environb[b"PATH"]), (name, value)]


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("way", ["kill", "program ends"])
def test_nobody_survives(runs: Runs, mark: str, name: str, way: str) -> None:
    code = TREES[name] + "import os\nos.write(1, b'up\\n')\nos.read(0, 1)\n"
    run = runs.start(python(code), env=environment(mark))
    connection = run.connect()
    run.wait_output(connection, b"up\n")
    wait_until(lambda: len(marked(mark)) > 1)
    connection.send(wire.Kill() if way == "kill" else wire.StdinEof(0))
    connection.expect(wire.Exited)
    assert marked(mark) == []
    result = run.wait_over()
    assert result.survivors == 0
    assert (result.signal == "SIGKILL") == (way == "kill")


STORM = """
import os, sys, time
end = time.monotonic() + 20
os.write(1, b'up\\n')
def storm(depth):
    # Every process forks one that goes on in a session of its own, and ends: whoever is looked at
    # is gone already. Bounded: by time, and by the number of such lines; more than these two use
    # up the host's process IDs, and other tests fail for want of them.
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        os.setsid()
for line in range(2):
    if os.fork() == 0:
        storm(0)
        os._exit(0)
while time.monotonic() < end:
    time.sleep(1)
"""


@pytest.mark.parametrize("way", ["kill", "stop", "program killed"])
def test_a_fork_storm_is_outrun(runs: Runs, mark: str, way: str) -> None:
    run = runs.start(python(STORM), env=environment(mark))
    connection = run.connect()
    run.wait_output(connection, b"up\n" * 1)
    wait_until(lambda: len(marked(mark)) >= 2)
    if way == "program killed":
        os.kill(connection.hello.pid, signal.SIGKILL)
    else:
        connection.send(wire.Kill() if way == "kill" else wire.Stop(15, 0))
    connection.expect(wire.Exited)
    assert marked(mark) == []
    assert run.wait_over().survivors == 0


def test_descendants_are_listed_parents_first() -> None:
    code = (
        "import os, subprocess, sys\n"
        "c = subprocess.Popen(['sh', '-c', 'sleep 1000 & echo $!; wait'], stdout=subprocess.PIPE)\n"
        "print(c.pid, c.stdout.readline().decode().strip(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        child, grandchild = map(int, process.stdout.readline().split())
        assert tree.descendants(process.pid) == [child, grandchild]
        assert tree.descendants(grandchild) == []
        os.killpg(process.pid, signal.SIGKILL)


def test_what_is_left_of_a_lost_run_is_found_by_mark_session_and_descent(mark: str) -> None:
    name, _, value = mark.partition("=")
    code = (
        "import os, subprocess\n"
        # The mark, without session or parent.
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        # The session, without the mark.
        "subprocess.Popen(['sleep', '1001'], env={})\n"
        # Neither, but below one that has it.
        "subprocess.Popen(['sh', '-c', 'env -i setsid sleep 1002 & wait'])\n"
        "os.write(1, b'up')\n"
    )
    leader = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        env={"PATH": os.environ["PATH"], name: value},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    start_time = process_start_time(leader.pid)
    assert leader.stdout is not None
    with leader.stdout:
        assert leader.stdout.read(2) == b"up"
    leader.wait()

    def sleepers() -> int:
        listing = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, check=True)
        return len([x for x in listing.stdout.split(b"\n") if b"sleep 100" in x and x[:1] != b"Z"])

    assert sleepers() >= 3
    found = tree.sweep_lost(leader.pid, start_time, mark.encode())
    assert found >= 4
    wait_until(lambda: not tree.sweep_lost(leader.pid, start_time, mark.encode()))
    assert marked(mark) == []


def test_a_stranger_with_the_programs_old_id_is_left_alone(mark: str) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        start_time = process_start_time(stranger.pid)
        assert tree.sweep_lost(stranger.pid, start_time + 1, mark.encode()) == 0
        assert tree.sweep_lost(stranger.pid, 0, mark.encode()) == 0
        assert tree.sweep_lost(0, 0, mark.encode()) == 0
        assert stranger.poll() is None
        assert tree.sweep_lost(stranger.pid, start_time, mark.encode()) == 1
        assert stranger.wait() == -signal.SIGKILL
