"""Executing programs, and the ways it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.supervisor.support import Runs, python

from psync.supervisor import record, wire


def script(path: Path, content: bytes, mode: int = 0o755) -> bytes:
    path.write_bytes(content)
    path.chmod(mode)
    return os.fsencode(path)


def failure(runs: Runs, argv: list[bytes], **options: object) -> tuple[str, int, str]:
    """Kind, exit status and message of a run that cannot be executed."""
    run = runs.start(argv, **options)
    record = run.wait_over()
    assert record.reason == "exec-failed"
    assert record.exec_error is not None
    assert record.signal is None
    assert record.code is not None
    assert run.output() == b""
    return record.exec_error.kind, record.code, record.exec_error.message


def test_arguments_and_environment_are_exact(runs: Runs) -> None:
    arguments = [b"", b" ", b"a b", b"'\"", b"\n", b"A=B", b"$HOME", b"*", b"\xff\xfe", b"-x"]
    env = [(b"EMPTY", b""), (b"ODD", b"a=b\n'\xff"), (b"PATH", os.environb[b"PATH"])]
    code = (
        "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]]);"
        "print(sorted(os.environb.items()))"
    )
    run = runs.start(python(code, *arguments), env=env)
    assert run.wait_over().code == 0
    got_arguments, got_env = run.output().decode().splitlines()
    assert got_arguments == repr(arguments)
    got = {pair for pair in eval(got_env) if pair[0] != b"LC_CTYPE"}  # Python's own addition
    assert got == set(env)


def test_argv0_is_the_programs_own_affair(runs: Runs) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    run = runs.start([b"anything", b"-c", b"echo $0"], executable=os.fsencode(shell))
    assert run.wait_over().code == 0
    assert run.output() == b"anything\n"


def test_the_working_directory_and_paths_relative_to_it(runs: Runs, tmp_path: Path) -> None:
    odd = tmp_path / "d\udcff"
    odd.mkdir()
    script(odd / "prog", b"#!/bin/sh\npwd\n")
    run = runs.start([b"./prog"], cwd=os.fsencode(odd))
    assert run.wait_over().code == 0
    assert run.output() == os.fsencode(odd) + b"\n"


def test_path_is_the_runs_own_and_searched_in_order(runs: Runs, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    script(first / "prog", b"#!/bin/sh\necho first\n", 0o644)  # passed over, as execvp does
    script(second / "prog", b"#!/bin/sh\necho second\n")
    path = os.fsencode(first) + b":/nowhere:" + os.fsencode(second)
    run = runs.start([b"prog"], env=[(b"PATH", path)])
    assert run.wait_over().code == 0
    assert run.output() == b"second\n"
    kind, code, _ = failure(runs, [b"prog"], env=[(b"PATH", os.fsencode(first))])
    assert (kind, code) == ("not-executable", 126)


def test_without_a_path_there_is_the_systems_own(runs: Runs) -> None:
    assert runs.start([b"true"], env=[]).wait_over().code == 0


def test_an_empty_element_of_path_is_the_working_directory(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path / "prog", b"#!/bin/sh\n")
    assert runs.start([b"prog"], env=[(b"PATH", b"/nowhere:")]).wait_over().code == 0


def test_what_is_not_there(runs: Runs, tmp_path: Path) -> None:
    kind, code, message = failure(runs, [b"no-such-prog\xff"])
    assert (kind, code) == ("not-found", 127)
    assert message == "no-such-prog\\xff: no such program on PATH"
    kind, code, message = failure(runs, [b"./x"], executable=b"/no/such/x")
    assert (kind, code, message) == ("not-found", 127, "/no/such/x: no such program")
    kind, code, _ = failure(runs, [b""])
    assert (kind, code) == ("not-found", 127)
    kind, code, _ = failure(runs, [script(tmp_path / "file", b"") + b"/prog"])
    assert (kind, code) == ("not-found", 127)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
def test_a_directory_on_path_that_may_not_be_searched(runs: Runs, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    kind, code, _ = failure(runs, [b"prog"], env=[(b"PATH", os.fsencode(closed))])
    assert (kind, code) == ("not-found", 127)


def test_what_cannot_be_executed(runs: Runs, tmp_path: Path) -> None:
    plain = script(tmp_path / "plain", b"#!/bin/sh\n", 0o644)
    kind, code, message = failure(runs, [plain])
    assert (kind, code) == ("not-executable", 126)
    assert str(tmp_path / "plain") in message
    kind, code, message = failure(runs, [os.fsencode(tmp_path)])
    assert (kind, code) == ("is-directory", 126)
    assert message.endswith("is a directory")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"#!/no/such/interpreter -x\n", "/no/such/interpreter does not exist"),
        (b"#!/bin/sh\r\necho\r\n", "carriage return"),
    ],
)
def test_an_interpreter_that_is_missing(
    runs: Runs, tmp_path: Path, content: bytes, says: str
) -> None:
    kind, code, message = failure(runs, [script(tmp_path / "prog", content)])
    assert (kind, code) == ("bad-interpreter", 126)
    assert "prog" in message
    assert says in message


def test_an_interpreter_on_path_is_told_from_a_missing_program(runs: Runs, tmp_path: Path) -> None:
    script(tmp_path / "prog", b"#!/no/such\n")
    path = os.fsencode(tmp_path) + b":/nowhere"
    kind, _, message = failure(runs, [b"prog"], env=[(b"PATH", path)])
    assert kind == "bad-interpreter"
    assert "/no/such" in message


def test_an_interpreter_that_is_not_executable(runs: Runs, tmp_path: Path) -> None:
    interpreter = script(tmp_path / "interpreter", b"", 0o644)
    kind, code, message = failure(runs, [script(tmp_path / "prog", b"#!" + interpreter + b"\n")])
    assert (kind, code) == ("bad-interpreter", 126)
    assert "interpreter" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"echo no first line\n", "#!"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "not built for this machine"),
    ],
)
def test_a_format_that_this_machine_does_not_execute(
    runs: Runs, tmp_path: Path, content: bytes, says: str
) -> None:
    kind, code, message = failure(runs, [script(tmp_path / "prog", content)])
    assert (kind, code) == ("bad-format", 126)
    assert says in message


def test_a_working_directory_that_is_not_there(runs: Runs, tmp_path: Path) -> None:
    for cwd in (tmp_path / "gone", Path(script(tmp_path / "file", b"").decode())):
        kind, code, message = failure(runs, [b"true"], cwd=os.fsencode(cwd))
        assert (kind, code) == ("cwd", 126)
        assert str(cwd) in message


def test_arguments_that_are_too_long(runs: Runs) -> None:
    kind, code, _ = failure(runs, [b"true", bytes([120]) * 200_000])  # MAX_ARG_STRLEN is 128 KiB
    assert (kind, code) == ("too-long", 126)


@pytest.mark.parametrize("bad", [{"argv": [b"true", b"a\0b"]}, {"env": [(b"A=B", b"")]}])
def test_what_no_program_can_be_given(runs: Runs, bad: dict[str, object]) -> None:
    options: dict[str, object] = {"argv": [b"true"], **bad}
    argv = options.pop("argv")
    assert isinstance(argv, list)
    kind, code, _ = failure(runs, argv, **options)
    assert (kind, code) == ("other", 126)


def test_a_program_that_is_still_open_for_writing_is_tried_again(
    runs: Runs, tmp_path: Path
) -> None:
    true = shutil.which("true")
    assert true is not None
    prog = tmp_path / "prog"
    shutil.copy(true, prog)
    with prog.open("r+b"):
        run = runs.start([os.fsencode(prog)])
        connection = run.connect()  # the supervisor serves while it tries
        assert not connection.hello.flags & wire.Hello.STARTED
    connection.expect(wire.Started)
    assert run.wait_over().code == 0


def test_a_program_that_stays_open_is_busy(runs: Runs, tmp_path: Path) -> None:
    true = shutil.which("true")
    assert true is not None
    prog = tmp_path / "prog"
    shutil.copy(true, prog)
    with prog.open("r+b"):
        kind, code, message = failure(runs, [os.fsencode(prog)])
    assert (kind, code) == ("busy", 126)
    assert "written to" in message


def test_exec_failures_are_told_from_the_same_statuses(runs: Runs) -> None:
    result = runs.start([b"sh", b"-c", b"exit 127"]).wait_over()
    assert (result.code, result.exec_error, result.reason) == (127, None, "exited")
    assert isinstance(result, record.Exit)
