"""The directory of a run: whole or not at all, and what is made of one that is found."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import msgspec
import pytest
from tests.supervisor.support import Runs, python

from psync.daemon import rundir
from psync.daemon.rundir import Ticket, create, inspect, is_leftover, never_began
from psync.model import Overflow
from psync.supervisor import record
from psync.supervisor.cursor import Cursor

SPEC = record.Spec(argv=[b"true"], env=[], cwd=b"/")
TICKET = Ticket(
    format=rundir.FORMAT,
    client="c" * 32,
    request="r" * 32,
    project="p",
    name="n",
    argv=(b"true", b"\xff"),
    created=1.5,
    client_name="desk",
    revision="v1",
    disconnect_grace=5.0,
    overflow=Overflow.DROP,
    boot=rundir.boot(),
)

# As version 0.1.0 wrote it.
BEFORE = (
    b'{"format":1,"client":"aa","request":"bb","project":"p","name":"n","argv":["dHJ1ZQ=="],'
    b'"created":1.5}'
)


@pytest.fixture
def run(runs: Runs) -> Path:
    """The directory of a run that has ended, with a ticket."""
    started = runs.start(python("print('hello')"))
    started.wait_over()
    (started.dir / "run.json").write_bytes(BEFORE)
    return started.dir.rename(started.dir.with_name("run0"))


def found(run: Path, name: str | None = None) -> Ticket | None:
    return inspect(name or run.name, str(run))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    create(str(tmp_path / "abc"), TICKET, SPEC)
    assert os.listdir(tmp_path) == ["abc"]
    assert found(tmp_path / "abc") == TICKET
    assert record.read_spec(str(tmp_path / "abc")) == SPEC


def test_nobody_else_reads_what_is_written(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(str(tmp_path / "abc"), TICKET, SPEC)
    finally:
        os.umask(before)
    made = [tmp_path / "abc", *(tmp_path / "abc").iterdir()]
    assert len(made) > 2
    assert not [path for path in made if path.stat().st_mode & 0o077]


@pytest.mark.parametrize("fails", ["mkdir", "rename"])
def test_a_directory_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def broken(*_arguments: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(os, fails, broken)
    with pytest.raises(OSError, match="full"):
        create(str(tmp_path / "abc"), TICKET, SPEC)
    assert all(map(is_leftover, os.listdir(tmp_path)))


def test_what_the_version_before_wrote_is_read(run: Path) -> None:
    ticket = found(run)
    assert ticket is not None
    assert (ticket.client, ticket.request, ticket.argv) == ("aa", "bb", (b"true",))
    assert (ticket.client_name, ticket.overflow, ticket.boot) == ("", Overflow.BLOCK, "")


def test_the_version_before_reads_what_is_written(tmp_path: Path) -> None:
    """It checks neither the number nor for fields that it does not know, but needs its own."""
    create(str(tmp_path / "abc"), TICKET, SPEC)
    value = json.loads((tmp_path / "abc" / "run.json").read_bytes())
    assert value["format"] == 1
    assert json.loads(BEFORE).keys() <= value.keys()
    assert record.FORMAT == 1


def _newer(path: Path) -> None:
    if path.name == "cursor":
        data = bytearray(path.read_bytes())
        data[8] = 2
        path.write_bytes(data)
    else:
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 2, "new": []}))


@pytest.mark.parametrize("name", ["run.json", "exit.json", "supervisor.json", "cursor"])
def test_a_later_format_is_left_alone_and_named(
    run: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    _newer(run / name)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert found(run) is None
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert os.listdir(run.parent) == [run.name]
    assert "run run0 is of a later version of psync and left alone" in caplog.text
    assert f"{run / name}" in caplog.text


def test_a_later_format_of_a_run_that_goes_on_is_left_alone_too(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    run = runs.start(python("input()"))
    good = (run.dir / "supervisor.json").read_bytes()
    (run.dir / "run.json").write_bytes(BEFORE)
    _newer(run.dir / "run.json")
    assert found(run.dir, "run0") is None
    _newer(run.dir / "supervisor.json")
    (run.dir / "run.json").write_bytes(BEFORE)
    assert found(run.dir, "run0") is None
    assert caplog.text.count("left alone") == 2
    assert run.dir.exists()
    (run.dir / "supervisor.json").write_bytes(good)
    assert found(run.dir, "run0") is not None


@pytest.mark.parametrize(
    "name", ["Abc", "a-b", "ä", "a b", ".hidden", "x" * 33, "run0\n", "\udcff", "lost+found"]
)
def test_what_is_no_run_is_ignored_and_named(
    run: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = run.rename(run.with_name(name))
    assert found(other, name) is None
    assert other.exists()
    assert "is ignored" in caplog.text


def test_what_was_set_aside_is_not_mentioned_again(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("run0.damaged", "run0.damaged-2"):
        run = run.rename(run.with_name(name))
        assert found(run) is None
        assert run.exists()
    assert caplog.text == ""


def test_a_link_is_set_aside_and_not_followed(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = run.with_name("link")
    link.symlink_to(run)
    assert found(link) is None
    assert not link.is_symlink()
    assert link.with_name("link.damaged").is_symlink()
    assert (run / "exit.json").exists()
    assert "it is no directory" in caplog.text


@pytest.mark.parametrize("change", [-1, 1])
def test_a_log_that_contradicts_the_exit_record_is_damaged(
    run: Path, caplog: pytest.LogCaptureFixture, change: int
) -> None:
    path = run / "exit.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value | {"output_end": value["output_end"] + change}))
    assert found(run) is None
    assert "the log ends at 6, the exit record says" in caplog.text


@pytest.mark.parametrize("trace", ["supervisor.json", "cursor", "exit.json", "lost"])
def test_a_run_that_left_no_trace_never_began(tmp_path: Path, trace: str) -> None:
    directory = tmp_path / "abc"
    create(str(directory), TICKET, SPEC)
    assert never_began(str(directory), TICKET)
    (directory / trace).touch()
    assert not never_began(str(directory), TICKET)


@pytest.mark.parametrize("boot", ["", "another"])
def test_after_a_start_of_the_host_nobody_knows_what_began(tmp_path: Path, boot: str) -> None:
    ticket = msgspec.structs.replace(TICKET, boot=boot)
    create(str(tmp_path / "abc"), ticket, SPEC)
    assert not never_began(str(tmp_path / "abc"), ticket)


def test_a_sealed_cursor_is_checked(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    cursor = Cursor.open(str(run))
    assert cursor.end == 6
    cursor.close()
    data = bytearray((run / "cursor").read_bytes())
    data[5 * 8 + 3] ^= 1  # the oldest byte: 16 MiB on, behind the end
    (run / "cursor").write_bytes(data)
    assert found(run) is None
    assert "cursor is damaged" in caplog.text


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
