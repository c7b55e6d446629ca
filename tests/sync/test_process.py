import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from tests.support.waiting import wait_until

from psync.sync.process import Child, Tail


def ignore(data: bytes) -> None:
    pass


def python(code: str, feed: bytes = b"", detached: bool = True) -> Child:
    return Child([sys.executable, "-c", code], feed=feed, detached=detached)


def test_both_outputs_and_the_status_come_back() -> None:
    out, err = bytearray(), bytearray()
    child = python("import os; os.write(1, b'out'); os.write(2, b'err'); os._exit(7)")
    assert child.wait(out.extend, err.extend) == 7
    assert (bytes(out), bytes(err)) == (b"out", b"err")
    assert child.ended


def test_stdin_of_any_length_arrives_while_output_flows() -> None:
    data = os.urandom(1_000_000)
    out = bytearray()
    child = Child(["cat"], feed=data, detached=True)
    assert child.wait(out.extend, ignore) == 0
    assert out == data


def test_stdin_ends_without_anybody_waiting() -> None:
    # A transfer must get going between ``start`` and ``wait``.
    child = python("import sys, os; sys.stdin.read(); os.close(1); os.close(2)", feed=b"x")
    wait_until(child._ended)
    assert child.wait(ignore, ignore) == 0


def test_a_process_that_reads_nothing_is_no_error() -> None:
    assert python("pass", feed=b"x" * 1_000_000).wait(ignore, ignore) == 0


def test_the_signal_that_ended_it() -> None:
    assert python("import os; os.kill(os.getpid(), 9)").wait(ignore, ignore) == -9


def test_descriptors_that_it_inherits() -> None:
    read, write = os.pipe()
    try:
        code = f"import os; os.write({write}, b'here'); os._exit(0)"
        child = Child([sys.executable, "-c", code], detached=True, pass_fds=[write])
        assert child.wait(ignore, ignore) == 0
        assert os.read(read, 10) == b"here"
    finally:
        os.close(read)
        os.close(write)


def test_a_missing_command_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        Child(["no-such-command"], detached=True)


def test_cancel_ends_one_that_ignores_sigterm() -> None:
    ready = threading.Event()
    child = python(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(flush=True); time.sleep(600)"
    )
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(child.wait, lambda data: ready.set(), ignore)
        assert ready.wait(30)
        child.cancel()
        assert status.result(30) == -signal.SIGKILL


def test_a_timeout_ends_it() -> None:
    child = python("import time; time.sleep(600)")
    with pytest.raises(TimeoutError):
        child.wait(ignore, ignore, timeout=0.05)
    assert child.ended


def test_an_exception_in_a_callback_ends_it() -> None:
    child = python("import time; print(flush=True); time.sleep(600)")

    def fail(data: bytes) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        child.wait(fail, ignore)
    assert child.ended


def test_a_child_that_keeps_the_pipe_is_not_waited_for_and_does_not_survive() -> None:
    out = bytearray()
    child = python(
        "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True)"
    )
    assert child.wait(out.extend, ignore) == 0
    pid = int(out)

    def gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_until(gone)


def test_the_reason_of_a_failure_may_come_late(tmp_path: Path) -> None:
    # From a child that lives on, as ssh does when rsync ends.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    err = bytearray()
    child = python(
        "import os\n"
        "if os.fork():\n"
        "    os._exit(12)\n"
        f"open({str(gate)!r}).read()\n"
        "os.write(2, b'the reason')\n"
    )

    def open_gate() -> None:
        wait_until(child._ended)
        with gate.open("w"):
            pass

    thread = threading.Thread(target=open_gate, daemon=True)
    thread.start()
    assert child.wait(ignore, err.extend) == 12
    thread.join()
    assert err == b"the reason"


def test_a_detached_one_has_no_terminal_and_a_group_of_its_own() -> None:
    out = bytearray()
    child = python("import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))")
    child.wait(out.extend, ignore)
    assert out == b"True\n"
    out.clear()
    child = python("import os; print(os.getpgid(0))", detached=False)
    child.wait(out.extend, ignore)
    assert int(out) == os.getpgid(0)


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_a_tail_keeps_both_ends(chunks: list[bytes], limit: int) -> None:
    tail = Tail(limit)
    for chunk in chunks:
        tail.feed(chunk)
    data = b"".join(chunks)
    if len(data) <= 2 * limit:
        assert tail.value() == data
    else:
        assert tail.value() == data[:limit] + b"\n" + data[-limit:]
