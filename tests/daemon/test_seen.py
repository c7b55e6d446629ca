"""When each client was seen last."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from psync.daemon.seen import Seen, Sighting, read_sightings


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "seen.json")


def test_it_counts_connections_and_keeps_the_last_time(path: str) -> None:
    now = 100.0
    seen = Seen(path, clock=lambda: now)
    seen.came("a", "192.0.2.7")
    seen.came("a", "192.0.2.8")
    seen.came("b", "::1")
    now = 200.0
    seen.left("a")
    seen.left("b")
    seen.left("nobody")
    seen.write()
    known = read_sightings(path)
    assert known.daemon == os.getpid()
    assert known.clients == {"a": Sighting(200.0, "192.0.2.8", 1), "b": Sighting(200.0, "::1", 0)}


def test_the_next_daemon_knows_it_and_has_no_connections(path: str) -> None:
    seen = Seen(path, clock=lambda: 100.0)
    seen.came("a", "192.0.2.7")
    seen.write()
    Seen(path).write()
    assert read_sightings(path).clients == {"a": Sighting(100.0, "192.0.2.7", 0)}


def test_clients_that_are_gone_are_forgotten(path: str) -> None:
    seen = Seen(path)
    for name in "abc":
        seen.came(name, "")
    seen.left("a")
    seen.left("b")
    seen.forget_others({"a"})
    seen.write()
    assert set(read_sightings(path).clients) == {"a", "c"}  # c is still connected


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"[" * 100_000, b'{"clients": {"a": 1}}'])
def test_damage_is_ignored_and_told_once(
    path: str, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    Path(path).write_bytes(text)
    seen = Seen(path)
    (record,) = caplog.records
    assert "is ignored" in record.message
    seen.came("a", "")
    seen.write()
    assert set(read_sightings(path).clients) == {"a"}


def test_a_disk_that_takes_nothing_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(str(tmp_path / "nowhere" / "seen.json"))
    seen.write()
    seen.write()
    (record,) = caplog.records
    assert "cannot write" in record.message


async def test_it_is_written_after_a_change(path: str) -> None:
    seen = Seen(path, interval=0.01)
    task = asyncio.create_task(seen.keep_writing())
    try:
        seen.came("a", "")
        await asyncio.to_thread(wait_until, lambda: "a" in read_sightings(path).clients)
        seen.came("b", "")
        await asyncio.to_thread(wait_until, lambda: "b" in read_sightings(path).clients)
    finally:
        task.cancel()
