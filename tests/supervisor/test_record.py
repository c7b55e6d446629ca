"""The JSON files of a run directory."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from psync.supervisor import record

SPEC = record.Spec(
    argv=[b"\xff\x00 prog", b"", b"a=b\n"],
    env=[(b"A", b"\xfe"), (b"B", b"")],
    cwd=b"/tmp/\xff",
    executable=b"/bin/\xfd",
    run_id="r1",
    name="ein Läufer",
    disconnect_grace=1.5,
    overflow="drop",
    log_limit=5,
    log_keep=0,
)


def test_a_spec_survives_byte_for_byte(tmp_path: Path) -> None:
    record.write_spec(str(tmp_path), SPEC)
    assert record.read_spec(str(tmp_path)) == SPEC


def test_a_spec_of_defaults_survives(tmp_path: Path) -> None:
    spec = record.Spec(argv=[b"x"], env=[], cwd=b"/")
    record.write_spec(str(tmp_path), spec)
    assert record.read_spec(str(tmp_path)) == spec
    assert "argv=[b'x']" in repr(spec)


@pytest.mark.parametrize(
    "bad", [{"argv": []}, {"overflow": "both"}, {"log_limit": 0}, {"log_keep": -1}]
)
def test_an_impossible_spec_is_refused(bad: dict[str, object]) -> None:
    good: dict[str, object] = {"argv": [b"x"], "env": [], "cwd": b"/"}
    with pytest.raises(ValueError, match=r"\w"):
        record.Spec(**{**good, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["argv", "env", "cwd", "log_keep", "overflow"])
@pytest.mark.parametrize("value", [None, 7.5, "*", [1], [["a"]]])
def test_a_damaged_spec_is_called_so(tmp_path: Path, field: str, value: object) -> None:
    record.write_spec(str(tmp_path), SPEC)
    file = tmp_path / "spec.json"
    content = json.loads(file.read_bytes())
    content[field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(record.RecordError, match=r"spec\.json"):
        record.read_spec(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\n" * 4096, b"[]", b"\xff", b'{"format": 2}', b"{}"])
def test_a_damaged_exit_record_is_called_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exit.json").write_bytes(content)
    with pytest.raises(record.RecordError, match=r"exit\.json"):
        record.read_exit(str(tmp_path))


def test_no_bit_of_an_exit_record_changes_unseen(tmp_path: Path) -> None:
    truth = record.Exit(code=3, reason="exited", started=12.5, ended=99.25, output_end=4711)
    record.write_exit(str(tmp_path), truth)
    path = tmp_path / record.EXIT
    text = path.read_bytes()
    assert json.loads(text)["code"] == 3  # what follows is white space
    assert vars(record.read_exit(str(tmp_path))) == vars(truth)
    for bit in range(len(text) * 8):
        changed = bytearray(text)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(record.RecordError):
            record.read_exit(str(tmp_path))
    path.write_bytes(text[: text.index(b"\n") + 1])  # as versions before this one wrote it
    assert record.read_exit(str(tmp_path)).output_end == 4711


def test_no_record_is_no_record(tmp_path: Path) -> None:
    for read in (record.read_spec, record.read_owner, record.read_exit):
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path))


def test_an_exit_record_takes_the_place_of_its_reservation(tmp_path: Path) -> None:
    record.reserve_exit(str(tmp_path))
    (reserved,) = tmp_path.iterdir()
    inode, blocks = reserved.stat().st_ino, reserved.stat().st_size
    assert blocks == record.EXIT_RESERVED
    # Every byte of the message is one that JSON writes with six.
    failure = record.ExecFailure("not-found", 2, "\x01" * 5000)
    record.write_exit(
        str(tmp_path),
        record.Exit(code=127, exec_error=failure, reason="exec-failed", output_end=2**63),
    )
    record.sync_exit(str(tmp_path))
    (written,) = tmp_path.iterdir()
    assert (written.name, written.stat().st_ino) == ("exit.json", inode)
    assert written.stat().st_size <= record.EXIT_RESERVED
    result = record.read_exit(str(tmp_path))
    assert result.exec_error is not None
    assert (result.code, result.exec_error.code, result.output_end) == (127, 127, 2**63)


def test_an_exit_is_a_code_or_a_signal() -> None:
    for code, name in ((None, None), (0, "SIGKILL")):
        with pytest.raises(ValueError, match="code or with a signal"):
            record.Exit(code=code, signal=name)


def test_an_owner_is_alive_until_it_is_another_process(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os.read(os.open(os.devnull, os.O_RDONLY), 1)
        os._exit(0)
    owner = record.Owner(os.getpid(), record.process_start_time(os.getpid()), 5, 6)
    record.write_owner(str(tmp_path), owner)
    again = record.read_owner(str(tmp_path))
    assert vars(again) == vars(owner)
    assert again.alive
    assert not record.Owner(os.getpid(), owner.start_time + 1).alive
    child = record.Owner(pid, record.process_start_time(pid))
    wait_until(lambda: not child.alive)
    assert child.start_time == record.process_start_time(pid) != 0
    os.waitpid(pid, 0)
    assert record.process_start_time(pid) == 0
    assert not record.Owner(pid, 0).alive


@pytest.mark.parametrize("depth", [0, 12])
def test_ctl_can_be_reached_however_deep_it_lies(tmp_path: Path, depth: int) -> None:
    run_dir = tmp_path.joinpath(*["directory-number-x"] * depth)
    run_dir.mkdir(parents=True, exist_ok=True)
    path, fd = record.connect_path(str(run_dir))
    try:
        assert (fd is not None) == (len(os.fsencode(run_dir)) + len("/ctl") >= 100)
        assert depth == 0 or fd is not None
        assert len(path) < 108
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.bind(path)
            listener.listen()
            client.connect(path)
        assert (run_dir / "ctl").is_socket()
    finally:
        if fd is not None:
            os.close(fd)
