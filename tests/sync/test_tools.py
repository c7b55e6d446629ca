import os
from pathlib import Path

import pytest

from psync.errors import ToolMissing
from psync.model import Tool
from psync.sync.tools import check_rsync, find_rsync


def fake(directory: Path, first_line: str) -> Path:
    """An rsync that says ``first_line``, and leaves a mark each time it is asked."""
    directory.mkdir(exist_ok=True)
    path = directory / "rsync"
    path.write_text(f"#!/bin/sh\necho x >> {directory}/asked\necho '{first_line}'\n")
    path.chmod(0o755)
    return path


def asked(directory: Path) -> int:
    return len((directory / "asked").read_text().split())


def find(directory: Path) -> Tool:
    return find_rsync(str(directory / "state"), {"PATH": f"/nowhere:{directory / 'bin'}"})


def test_the_real_one_is_found(tmp_path: Path) -> None:
    tool = find_rsync(str(tmp_path / "state"), os.environ)
    assert os.access(tool.path, os.X_OK)
    check_rsync(tool, "here")


def test_it_is_asked_once_and_again_when_it_changed(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "rsync  version 3.2.7  protocol version 31")
    assert find(tmp_path).version == find(tmp_path).version == "3.2.7"
    assert asked(tmp_path / "bin") == 1
    path = fake(tmp_path / "bin", "rsync  version v3.4.1dev  protocol version 32")
    os.utime(path, ns=(1, 1))
    assert find(tmp_path).version == "3.4.1dev"
    assert asked(tmp_path / "bin") == 2


def test_a_damaged_note_is_written_again(tmp_path: Path) -> None:
    fake(tmp_path / "bin", "rsync  version 3.2.7  protocol version 31")
    find(tmp_path)
    (tmp_path / "state/rsync.json").write_bytes(b"\xff{")
    assert find(tmp_path).version == "3.2.7"
    find(tmp_path)
    assert asked(tmp_path / "bin") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rsync  version 2.6.9  protocol version 29", "2.6.9\\) is too old"),
        ("rsync  version 3.1.2  protocol version 31", "3.1.2\\) is too old"),
        ("openrsync: protocol version 29", "openrsync.* is not an rsync that psync can use"),
        ("", "no version\\) is not an rsync"),
    ],
)
def test_one_that_cannot_do_it_is_refused_with_path_and_version(
    tmp_path: Path, line: str, words: str
) -> None:
    path = fake(tmp_path / "bin", line)
    for _ in range(2):  # found out, and remembered
        with pytest.raises(ToolMissing, match=words) as caught:
            find(tmp_path)
        assert str(path) in caught.value.message
        assert "3.1.3 or newer" in caught.value.hint


def test_one_that_does_not_work(tmp_path: Path) -> None:
    path = fake(tmp_path / "bin", "")
    path.write_bytes(b"#!/no/such/interpreter\n")
    with pytest.raises(ToolMissing, match="does not work"):
        find(tmp_path)


def test_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rsync").mkdir()
    with pytest.raises(ToolMissing, match="not installed on this machine"):
        find(tmp_path)
    with pytest.raises(ToolMissing, match="not installed on laptop") as caught:
        check_rsync(None, "on laptop")
    assert "on laptop" in caught.value.hint
