"""Marks of unfinished syncs, notes of finished ones, across daemons."""

import asyncio
import os
import shutil
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from psync.daemon import mark, seals
from psync.daemon.look import NotToBeNoted
from psync.daemon.mark import MARK, unfinished
from psync.daemon.projects import Projects
from psync.daemon.seals import NOTE, Seals
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


async def test_what_goes_on_from_a_note_that_is_gone_gets_none(mirror: Path) -> None:
    """What it did not send may have been changed since by anybody, and would look all right."""
    known = Seals()
    first = await synced(mirror, known)
    (mirror / "tree/d/b").write_text("by somebody else")
    os.utime(mirror / "tree/d/b", (1e9 + 1.5, 1e9 + 1.5))
    known.begin(str(mirror))
    known.finish(str(mirror))
    assert await known.end(str(mirror), "another", [b"tree/a"]) == ""
    assert await changed(mirror, known, first) is None
    assert await changed(mirror, known, await synced(mirror, known)) == set()


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
    assert await known.end(str(mirror), "", ()) == ""


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
    told = set(found.changed)
    while found.more:
        found = await known.check(str(mirror), seal, len(told))
        told |= set(found.changed)
    assert told == {b"tree/%d" % number for number in range(20)}
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
    Seals().begin(str(mirror))
    assert not target.exists()
    assert not (mirror / MARK).is_symlink()


# -- what nobody can tell ------------------------------------------------------------------


async def test_a_change_right_after_the_end_is_told(mirror: Path) -> None:
    """It may fall into the step of the clock in which the file was sent, and hide its time."""
    known = Seals()
    path = mirror / "tree/a"
    for round_ in range(20):
        known.begin(str(mirror))
        path.write_text(f"sent {round_:03}")
        os.utime(path, (1e9 + 0.5, 1e9 + 0.5))
        known.finish(str(mirror))
        seal = await known.end(str(mirror), "", ())
        path.write_text(f"else {round_:03}")
        os.utime(path, (1e9 + 0.5, 1e9 + 0.5))
        assert await changed(mirror, known, seal) == {b"tree/a"}


async def test_what_was_sent_and_removed_before_anybody_looked_is_told(mirror: Path) -> None:
    known = Seals()
    base = await synced(mirror, known)
    known.begin(str(mirror))
    (mirror / "tree/a").unlink()  # a run that goes on does this
    known.finish(str(mirror))
    for names in ([b"tree/a"], ()):
        seal = await known.end(str(mirror), base if names else "", names)
        assert await changed(mirror, known, seal) == {b"tree/a"}


@pytest.mark.parametrize("by_name", [True, False])
async def test_many_that_are_gone_leave_no_note(
    mirror: Path, by_name: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "MOST_DOUBTS", 5)
    known = Seals()
    for number in range(6):
        (mirror / f"tree/{number}").touch()
        os.utime(mirror / f"tree/{number}", (1e9 + 0.5, 1e9 + 0.5))
    base = await synced(mirror, known)
    known.begin(str(mirror))
    for number in range(6):
        (mirror / f"tree/{number}").unlink()
    known.finish(str(mirror))
    names = [b"tree/%d" % number for number in range(6)]
    end = (base, names) if by_name else ("", ())
    assert await known.end(str(mirror), *end) == ""
    assert await changed(mirror, known, base) is None
    assert await changed(mirror, known, await synced(mirror, known)) == set()


async def test_a_clock_that_is_behind_the_clients_leaves_no_note(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "MOST_DOUBTS", 2)
    ahead = time.time() + 3600
    for name in ("tree/a", "tree/d/b", "outside/c"):
        os.utime(mirror / name, (ahead, ahead))
    assert await synced(mirror, Seals()) == ""


async def test_a_clock_that_was_set_during_a_sync_leaves_no_note(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Seals()
    base = await synced(mirror, known)
    known.begin(str(mirror))
    offset = mark._offset
    monkeypatch.setattr(mark, "_offset", lambda: offset() - 10**10)
    known.finish(str(mirror))
    assert await known.end(str(mirror), base, [b"tree/a"]) == ""
    assert await changed(mirror, known, base) is None


async def test_a_name_that_leaves_the_mirror_leaves_no_note(mirror: Path) -> None:
    known = Seals()
    base = await synced(mirror, known)
    known.begin(str(mirror))
    known.finish(str(mirror))
    assert await known.end(str(mirror), base, [b"tree/../../../etc/passwd"]) == ""


# -- at the same time ----------------------------------------------------------------------


async def test_an_end_that_is_asked_for_again_has_the_same_answer(mirror: Path) -> None:
    known = Seals()
    base = await synced(mirror, known)
    known.begin(str(mirror))
    (mirror / "tree/a").write_text("sent, and longer")
    os.utime(mirror / "tree/a", (1e9 + 1.5, 1e9 + 1.5))
    known.finish(str(mirror))
    first, second = await asyncio.gather(
        known.end(str(mirror), base, [b"tree/a"]), known.end(str(mirror), base, [b"tree/a"])
    )
    assert first == second
    assert await changed(mirror, known, second) == set()
    await known.written()
    assert await changed(mirror, Seals(), second) == set()


async def test_a_sync_that_begins_meanwhile_makes_a_note_void(mirror: Path) -> None:
    known = Seals()
    known.begin(str(mirror))
    known.finish(str(mirror))
    async with known._use(str(mirror)):  # somebody else's request goes on
        ending = asyncio.create_task(known.end(str(mirror), "", ()))
        await asyncio.sleep(0)
        known.begin(str(mirror))
    assert await ending == ""
    known.finish(str(mirror))
    seal = await known.end(str(mirror), "", ())
    async with known._use(str(mirror)):
        checking = asyncio.create_task(known.check(str(mirror), seal))
        await asyncio.sleep(0)
        known.begin(str(mirror))
        known.finish(str(mirror))
    assert not (await checking).known


async def test_who_has_gone_is_not_worked_for(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    looking = asyncio.Event()

    def endless(_top: int, _trust: object, stop: threading.Event) -> NoReturn:
        loop.call_soon_threadsafe(looking.set)
        stop.wait(30)
        raise NotToBeNoted("given up")

    known = Seals()
    with monkeypatch.context() as patched:
        patched.setattr(seals, "look", endless)
        ending = asyncio.create_task(synced(mirror, known))
        await asyncio.wait_for(looking.wait(), 10)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(ending, 10)
    seal = await asyncio.wait_for(synced(mirror, known), 10)
    assert await changed(mirror, known, seal) == set()
    await known.close()


async def test_few_notes_are_kept_in_memory(mirror: Path) -> None:
    known = Seals()
    mirrors = [mirror, *(mirror.parent / f"p-{number}" for number in range(2, 6))]
    for other in mirrors[1:]:
        shutil.copytree(mirror, other)
    for one in mirrors:
        assert await synced(one, known)
    await known.written()
    assert len(known._projects) == seals.MOST_KEPT
    assert all(not project.users for project in known._projects.values())
    await known.close()


async def test_what_a_broken_sync_left_is_removed_by_the_end_of_the_next(mirror: Path) -> None:
    known = Seals()
    known.begin(str(mirror))
    (mirror / "tree/d/.psync-partial").mkdir()
    (mirror / "tree/d/.psync-partial/half").touch()
    (mirror / "tree/d/.b.ab12CD").touch(0o600)
    (mirror / "outside/.psync-partial").touch()  # what an rsync may leave that is told to end
    known = Seals()
    known.begin(str(mirror))
    assert (mirror / "tree/d/.psync-partial/half").exists()  # the next one may go on with it
    known.finish(str(mirror))
    seal = await known.end(str(mirror), "", ())
    assert not [*mirror.rglob(".psync-partial"), *mirror.rglob(".b.*")]
    assert await changed(mirror, known, seal) == set()
    assert (mirror / "tree/d/b").exists()


async def test_nobody_looks_for_what_no_sync_has_left(mirror: Path) -> None:
    known = Seals()
    await synced(mirror, known)
    (mirror / "tree/.psync-partial").mkdir()
    await synced(mirror, known)
    assert (mirror / "tree/.psync-partial").exists()
