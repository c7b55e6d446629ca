"""What is remembered of a target."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.support.fake_link import FACTS

from psync.client.targets import FORMAT, TargetFiles, TargetRecord, TargetSpec, not_paired
from psync.errors import TrustError
from psync.paths import ClientPaths

RECORD = TargetRecord(
    FORMAT, "u@h", "h.lan", "/bin/psync-server", "d.invalid", 1234, ("127.0.0.1:1234",), FACTS
)


@pytest.fixture
def files(tmp_path: Path) -> TargetFiles:
    return TargetFiles(ClientPaths.from_environ({"HOME": str(tmp_path)}), "there")


def test_what_is_written_is_read(files: TargetFiles) -> None:
    assert files.read() is None
    files.write(RECORD)
    assert files.read() == RECORD
    assert os.stat(files.directory).st_mode & 0o777 == 0o700
    assert all(os.stat(entry).st_mode & 0o077 == 0 for entry in Path(files.directory).iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}', bytes(10)], ids=repr
)
def test_a_damaged_record_is_named(files: TargetFiles, content: bytes) -> None:
    files.write(RECORD)
    (Path(files.directory) / "target.json").write_bytes(content)
    with pytest.raises(TrustError, match=r"target\.json is damaged.*pair the target again"):
        files.read()


def test_a_record_of_another_version_is_not_guessed_at(files: TargetFiles) -> None:
    files.write(msgspec.structs.replace(RECORD, format=FORMAT + 1))
    with pytest.raises(TrustError, match="another version of psync"):
        files.read()


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (TargetSpec("deck", host="deck"), "psync pair deck"),
        (TargetSpec("deck", host="me@deck.lan"), "psync pair me@deck.lan --name deck"),
    ],
)
def test_the_advice_is_to_pair(spec: TargetSpec, command: str) -> None:
    assert str(not_paired(spec)) == f"the target deck is not paired; {command}"
