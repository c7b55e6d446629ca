"""Marks of unfinished syncs, notes of finished ones, across daemons."""

import os
import shutil
import time
from pathlib import Path

import pytest

from psync.daemon import seals
from psync.daemon.projects import Projects
from psync.daemon.seals import MARK, NOTE, Seals, unfinished
from psync.errors import DestinationError, Refused


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    directory = tmp_path / "p-1"
    for name in ("tree/a", "tree/d/b", "outside/c"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
        os.utime(path, (1e9 + 0.5, 1e9 + 0.5))
    return directory


async def synced(directory: Path, known: Seals) -> str:
    known.begin(str(directory))
    known.finish(str(directory))
    return await known.end(str(directory), "", ())


async def changed(directory: Path, known: Seals, seal: str) -> set[bytes] | None:
    found = await known.check(str(directory), seal)
    return set(found.changed) if found.known else None


async def test_a_note_tells_what_changed_also_to_the_next_daemon(mirror: Path) -> None:
    known = Seals()
    seal = await synced(mirror, known)
    assert await changed(mirror, known, seal) == set()
    await known.written()
    (mirror / "tree/a").write_text("other")
    for one in (known, Seals()):
        assert await changed(mirror, one, seal) == {b"tree/a"}
        assert await changed(mirror, one, "another") is None
        assert await changed(mirror, one, "") is None


async def test_no_run_starts_between_begin_and_finish(mirror: Path) -> None:
    known, projects = Seals(), Projects(str(mirror.parent))
    projects.check_whole(str(mirror))
    seal = await synced(mirror, known)
    for _ in range(2):  # beginning twice is no more
        known.begin(str(mirror))
    with pytest.raises(Refused, match=r"has not ended.*psync sync"):
        projects.check_whole(str(mirror))
    assert await changed(mirror, known, seal) is None
    assert unfinished(str(mirror))  # also for a daemon that comes later
    known.finish(str(mirror))
    projects.check_whole(str(mirror))
    known.finish(str(mirror))  # an answer was lost, and it is asked for again


async def test_a_note_is_carried_on(mirror: Path) -> None:
    known = Seals()
    first = await synced(mirror, known)
    known.begin(str(mirror))
    sent, foreign = mirror / "tree/a", mirror / "tree/d/b"
    for path in (sent, foreign):
        path.write_text("longer than before")
    os.utime(sent, (1e9 + 1.5, 1e9 + 1.5))
    known.finish(str(mirror))
    second = await known.end(str(mirror), first, [b"tree/a"])
    assert second != first
    assert await changed(mirror, known, first) is None
    assert await changed(mirror, known, second) == {b"tree/d/b"}


async def test_a_base_that_nobody_knows_has_all_looked_at(mirror: Path) -> None:
    known = Seals()
    await synced(mirror, known)
    known.begin(str(mirror))
    (mirror / "tree/d/b").write_text("sent")
    os.utime(mirror / "tree/d/b", (1e9 + 1.5, 1e9 + 1.5))
    known.finish(str(mirror))
    seal = await known.end(str(mirror), "another", [b"tree/a"])
    assert await changed(mirror, known, seal) == set()


async def test_what_somebody_writes_during_a_sync_is_not_trusted(mirror: Path) -> None:
    known = Seals()
    known.begin(str(mirror))
    (mirror / "tree/a").write_text("the program wrote this")
    known.finish(str(mirror))
    seal = await known.end(str(mirror), "", ())
    assert await changed(mirror, known, seal) == {b"tree/a"}


async def test_an_end_whose_beginning_nobody_saw_trusts_nothing(mirror: Path) -> None:
    known = Seals()
    known.finish(str(mirror))
    seal = await known.end(str(mirror), "", ())
    assert await changed(mirror, known, seal) == {b"tree/a", b"tree/d/b", b"outside/c"}


async def test_a_restored_backup_is_another_mirror(mirror: Path) -> None:
    known = Seals()
    seal = await synced(mirror, known)
    await known.written()
    backup = mirror.parent / "backup"
    shutil.copytree(mirror, backup, symlinks=True)
    shutil.rmtree(mirror)
    backup.rename(mirror)
    assert await changed(mirror, Seals(), seal) is None
    assert await changed(mirror, known, seal) is None


async def test_files_restored_into_the_mirror_are_told(mirror: Path) -> None:
    known = Seals()
    seal = await synced(mirror, known)
    path = mirror / "tree/a"
    status = path.stat()
    path.unlink()
    path.write_text("CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert await changed(mirror, known, seal) == {b"tree/a"}


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\0" * 100, b'{"format":99}\n'])
async def test_a_damaged_note_is_none(mirror: Path, damage: bytes) -> None:
    known = Seals()
    seal = await synced(mirror, known)
    await known.written()
    (mirror / NOTE).write_bytes(damage)
    assert await changed(mirror, Seals(), seal) is None
    again = Seals()
    assert await changed(mirror, again, await synced(mirror, again)) == set()


async def test_much_that_changed_is_not_listed(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Seals()
    for number in range(20):
        path = mirror / f"tree/{number}"
        path.write_text("x")
        os.utime(path, (1e9 + 0.5, 1e9 + 0.5))
    seal = await synced(mirror, known)
    for number in range(20):
        (mirror / f"tree/{number}").unlink()
    monkeypatch.setattr(seals, "MOST_NAMES", 5)
    found = await known.check(str(mirror), seal)
    assert found.more
    assert len(found.changed) == 5
    monkeypatch.setattr(seals, "MOST_NAMES", 1000)
    monkeypatch.setattr(seals, "NAMES_BYTES", 50)
    found = await known.check(str(mirror), seal)
    assert found.more
    assert sum(map(len, found.changed)) <= 50


async def test_a_mark_that_cannot_be_made_is_named(mirror: Path) -> None:
    shutil.rmtree(mirror)
    with pytest.raises(DestinationError, match=rf"{MARK} cannot be made.*make room"):
        Seals().begin(str(mirror))


async def test_a_note_that_cannot_be_written_serves_this_daemon(mirror: Path) -> None:
    known = Seals()
    (mirror / NOTE).mkdir()
    (mirror / NOTE / "in the way").touch()
    seal = await synced(mirror, known)
    await known.written()
    assert await changed(mirror, known, seal) == set()
    assert await changed(mirror, Seals(), seal) is None


async def test_the_note_in_memory_goes_after_a_while(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "KEPT", 0.0)
    known = Seals()
    seal = await synced(mirror, known)
    await known.written()
    (mirror / NOTE).unlink()
    deadline = time.monotonic() + 10
    while await changed(mirror, known, seal) is not None:
        assert time.monotonic() < deadline


async def test_a_link_in_place_of_the_mark_is_not_followed(mirror: Path) -> None:
    target = mirror.parent / "target"
    (mirror / MARK).symlink_to(target)
    with pytest.raises(DestinationError):
        Seals().begin(str(mirror))
    assert not target.exists()
