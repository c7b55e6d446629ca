"""What becomes of a psync run when the daemon at its other end ends, moves or is interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess

from tests.support.field import Field, lines, read_until
from tests.support.waiting import alive, wait_until

COUNT = "echo on; read x; seq 100000; echo end >&2; exit 12\n"
COUNTED = b"".join(b"%d\n" % i for i in range(1, 100001))


def test_a_killed_daemon_is_followed_by_another_and_nothing_is_missing(field: Field) -> None:
    field.pair()
    field.script("count", COUNT)
    run = field.start("run", "./count")
    read_until(run, b"on\n")
    field.kill_daemon(signal.SIGKILL)
    # psync itself starts the next daemon over ssh
    wait_until(lambda: field.daemon() is not None)
    output, errors = run.communicate(b"go\n", 50)
    assert (output == COUNTED, run.returncode) == (True, 12)
    assert b"end\n" in errors
    assert not any("Traceback" in line for line in lines(errors))


def test_ctrl_c_on_the_daemon_ends_the_run_with_its_own_status(field: Field) -> None:
    field.pair()
    field.script("game", "trap 'echo saved; exit 21' INT; echo on; while :; do sleep 0.05; done\n")
    run = field.start("run", "./game")
    read_until(run, b"on\n")
    known = field.daemon()
    assert known is not None
    os.kill(known["pid"], signal.SIGINT)
    output, _ = run.communicate(timeout=50)
    assert (output, run.returncode) == (b"saved\n", 21)
    wait_until(lambda: not alive(known["pid"]))
    assert field.psync("run", "--no-sync", "true").returncode == 0  # the next one is started


def test_a_port_that_somebody_else_has_by_now(field: Field) -> None:
    field.pair()
    known = field.daemon()
    assert known is not None
    field.kill_daemon(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", known["port"])):
        done = field.psync("run", "--no-sync", "echo", "hello")
        assert (done.stdout, done.returncode) == (b"hello\n", 0)
        moved = field.daemon()
        assert moved is not None
        assert moved["port"] != known["port"]
        assert field.psync("run", "--no-sync", "true").returncode == 0


def test_no_process_is_left_when_a_supervisor_dies(field: Field) -> None:
    field.pair()
    field.script("tree", "setsid sleep 4711 & sleep 4712 & echo on; wait\n")
    run = field.start("run", "./tree")
    read_until(run, b"on\n")
    (owner,) = (field.server_home / "state/runs").glob("*/supervisor.json")
    os.kill(json.loads(owner.read_bytes())["pid"], signal.SIGKILL)
    assert run.wait(20) == 255
    wait_until(lambda: not _sleepers())
    assert field.daemon() is not None


def _sleepers() -> list[str]:
    said = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in said.splitlines() if line in ("sleep 4711", "sleep 4712")]
