"""Cleaning up after a supervisor that was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.supervisor.support import Runs, python
from tests.support.waiting import alive, wait_until

from psync.daemon.strays import clean_up
from psync.supervisor import record
from psync.supervisor.log import LogReader

FAMILY = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(1, b"%d\\n" % os.getpid())
            time.sleep(1000)
        os._exit(0)
time.sleep(1000)
"""


def test_nobody_is_left_and_the_log_is_cut(runs: Runs) -> None:
    run = runs.start(python(FAMILY), env=[(b"PSYNC_RUN", b"abc123")])
    connection = run.connect()
    while run.output().count(b"\n") < 3:
        connection.receive()
        connection.frames.clear()
    pids = [int(word) for word in run.output().split()]
    program = record.read_owner(str(run.dir)).program_pid
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not run.alive)
    bystander = runs.start(
        python("import time; time.sleep(1000)"), env=[(b"PSYNC_RUN", b"abc1234")]
    )
    clean_up("abc123", str(run.dir))
    wait_until(lambda: all(not alive(pid) for pid in [*pids, program]))
    assert bystander.alive
    assert alive(record.read_owner(str(bystander.dir)).program_pid)
    reader = LogReader(str(run.dir))
    (output,) = run.dir.glob("output-*")
    assert output.stat().st_size == reader.end
    reader.close()
    connection.close()
    assert clean_up("abc123", str(run.dir)) == 0


def test_a_directory_with_nothing_in_it(tmp_path: Path) -> None:
    assert clean_up("abc123", str(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []
