"""Syncs of which both sides know what changed since the last one."""

import os
import shutil
from pathlib import Path

import pytest
from tests.support.waiting import wait_until
from tests.sync.world import World, processes_naming

from psync.errors import SyncError
from psync.sync.engine import Sync
from psync.sync.keeper import Checked, NoKeeper
from psync.sync.listing import Stat, look_at
from psync.sync.rsync import Summary, Transfer
from psync.sync.source import Source


class Noting(NoKeeper):
    """Keeps the mirror as the daemon does: a note of what every path in it is like.

    Attributes:
        begun: a sync has begun and not ended.
        bases: what each sync's note was based on.
    """

    def __init__(self, mirror: Path) -> None:
        self._mirror = os.fsencode(mirror)
        self._notes: dict[str, dict[bytes, Stat]] = {}
        self.begun = False
        self.bases: list[str] = []

    def check(self, seal: str) -> Checked:
        note = self._notes.get(seal)
        if note is None or self.begun:
            return Checked()
        now = self._look()
        changed = tuple(sorted(name for name, one in note.items() if now.get(name) != one))
        return Checked(known=True, changed=changed[:100], many=len(changed) > 100)

    def begin(self) -> None:
        self.begun = True

    def end(self, base: str | None, names: tuple[bytes, ...]) -> str:
        now = self._look()
        if base is not None:
            assert base in self._notes
            wanted = {*names, *(name.rstrip(b"/") for name in names)}
            old = self._notes[base]
            for name, one in old.items():
                if name not in wanted and one:
                    assert one == now.get(name), f"{name!r} was changed behind psync's back"
        self.begun = False
        self.bases.append(base or "")
        seal = f"seal-{len(self.bases)}"
        # of what was not there when it was told, the daemon tells ever after
        self._notes = {seal: {**dict.fromkeys(names, ()), **now}}
        return seal

    def lose(self) -> None:
        """Know nothing any more."""
        self._notes = {}

    def _look(self) -> dict[bytes, Stat]:
        found = {}
        for directory, names, files in os.walk(self._mirror):
            for name in (*names, *files):
                path = os.path.join(directory, name)
                found[os.path.relpath(path, self._mirror)] = look_at(path)
        return found


class Kept:
    """A world with a keeper, whose files are all older than any step of a clock."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.keeper = Noting(world.mirror)
        self.started: list[list[bytes]] = []
        start = Transfer.__init__

        def counted(
            transfer: Transfer, argv: list[bytes | str], feed: bytes | None, **options: object
        ) -> None:
            self.started.append(
                [os.fsencode(word) for word in argv] + (feed or b"").split(b"\0")[:-1]
            )
            start(transfer, argv, feed, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(Transfer, "__init__", counted)
        # Not to wait for files to become old, tests live after the step.
        self.later = 0
        monkeypatch.setattr("psync.sync.source.time", self)

    def time_ns(self) -> int:
        import time

        return time.time_ns() + 10**10

    def sync(self, **options: object) -> Summary:
        self.started.clear()
        done = self.start(**options).wait()
        assert not self.keeper.begun
        return done

    def start(self, **options: object) -> Sync:
        options.setdefault("plan", self.world.plan())
        return self.world.sync(keeper=self.keeper, **options)  # type: ignore[arg-type]

    def same(self) -> None:
        """Both sides hold the same."""
        assert self.world.mirrored() == {
            f"tree/{path.relative_to(self.world.root)}": path.read_bytes()
            for path in self.world.root.rglob("*")
            if path.is_file()
        }

    def sent(self) -> set[bytes]:
        return {word[2:] for argv in self.started for word in argv if word.startswith(b"./")}


@pytest.fixture
def kept(anywhere: World, monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept(anywhere, monkeypatch)
    for name in ("a", "b", "d/c", b"odd \xff\nname"):
        anywhere.file(name)
    assert made.sync().files == 5
    return made


def test_nothing_changed_starts_no_rsync(kept: Kept) -> None:
    for _ in range(3):
        summary = kept.sync()
        assert (summary.skipped, summary.files, kept.started) == (True, 0, [])


def test_only_what_changed_is_named_to_rsync(kept: Kept) -> None:
    kept.world.file("a", b"changed")
    kept.world.file("d/new")
    assert kept.sync().files == 2
    assert len(kept.started) == 1
    assert kept.sent() == {b"a", b"d/new"}
    assert kept.keeper.bases[-1]
    kept.same()
    assert kept.sync().skipped


@pytest.mark.parametrize("kind", ["link", "special file"])
def test_what_is_never_sent_is_told_of_once_and_starts_no_more_rsync(kept: Kept, kind: str) -> None:
    path = kept.world.root / "d/e"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    told = kept.world.warnings
    assert kept.sync().files == 0
    assert len(told) == 1 and "d/e" in told[0]
    for _ in range(2):
        assert kept.sync().skipped
    assert len(told) == 1


def test_what_was_sent_and_is_never_sent_now_is_removed(kept: Kept) -> None:
    path, copy = kept.world.root / "link", kept.world.mirror / "tree/link"
    path.symlink_to("a")
    kept.sync()
    assert copy.is_symlink()
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert kept.sync().removed == 1
    assert not copy.is_symlink()
    assert kept.sync().skipped
    path.unlink()
    path.symlink_to("b")
    kept.sync()
    assert os.readlink(copy) == "b"


def test_what_is_gone_is_removed_without_asking_for_the_mark(kept: Kept) -> None:
    (kept.world.root / "a").unlink()
    shutil.rmtree(kept.world.root / "d")
    summary = kept.sync()
    assert summary.removed == 3
    kept.same()
    assert kept.sync().skipped


def test_same_size_and_time_and_other_content(kept: Kept) -> None:
    path = kept.world.root / "a"
    status = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.sync().files == 1
    kept.same()


def test_a_mirror_touched_by_somebody_else(kept: Kept) -> None:
    copy = kept.world.mirror / "tree/a"
    status = copy.stat()
    copy.write_bytes(b"CONTENT")
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    (kept.world.mirror / "tree/b").unlink()
    (kept.world.mirror / "tree/save").write_bytes(b"the program's own")
    assert kept.sync().files == 2
    assert kept.sent() == {b"a", b"b"}
    assert kept.world.mirrored().pop("tree/save") == b"the program's own"
    assert kept.sync().skipped
    (kept.world.mirror / "tree/save").write_bytes(b"written again")
    assert kept.sync().skipped


def test_a_mirror_in_which_all_is_other(kept: Kept) -> None:
    """A restored backup: names, sizes and times are right, contents need not be."""
    for number in range(150):
        kept.world.file(f"many/{number}")
    kept.sync()
    for path in (kept.world.mirror / "tree/many").iterdir():
        status = path.stat()
        path.write_bytes(b"CONTENT")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.sync().files == 150
    kept.same()
    assert kept.sync().skipped


def test_a_daemon_that_lost_its_notes(kept: Kept) -> None:
    kept.keeper.lose()
    summary = kept.sync()
    assert (summary.skipped, summary.files) == (False, 0)
    assert kept.sync().skipped


def test_a_file_as_young_as_the_sync_is_compared_by_content_next_time(kept: Kept) -> None:
    kept.time_ns = lambda: 0  # type: ignore[method-assign]  # everything is younger than that
    kept.world.file("a", b"changed")
    assert kept.sync().files == 1
    path = kept.world.root / "a"
    status = path.stat()
    path.write_bytes(b"CHANGED")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept.sync().files == 1
    assert any(b"--checksum" in argv for argv in kept.started)
    kept.same()


def test_other_commands_send_other_files(kept: Kept) -> None:
    kept.world.program()
    game = kept.world.plan("build/game")
    assert kept.sync(plan=game).files == 1
    assert kept.sync(plan=game).skipped
    assert kept.sync().files == 0  # the directory of the game is new to it
    assert kept.sync(plan=game).skipped
    assert kept.sync().skipped
    kept.world.program(content=b"#!/bin/sh\nexit\n")
    assert kept.sync().files == 1
    assert kept.sync(plan=game).skipped


def test_checksum_compares_everything(kept: Kept) -> None:
    import msgspec

    plan = msgspec.structs.replace(kept.world.plan(), checksum=True)
    summary = kept.sync(plan=plan)
    assert (summary.skipped, summary.files) == (False, 0)
    assert all(b"--checksum" in argv for argv in kept.started if b"./a" in argv)


def test_a_sync_that_fails_leaves_the_mirror_begun(kept: Kept) -> None:
    kept.world.file("a", b"changed")
    blocked = kept.world.mirror / "tree/a"
    blocked.unlink()
    (blocked / "held").mkdir(parents=True)
    with pytest.raises(SyncError):
        kept.start().wait()
    assert kept.keeper.begun
    shutil.rmtree(blocked)
    kept.sync()
    kept.same()


def test_a_dry_run_neither_begins_nor_ends(kept: Kept) -> None:
    kept.world.file("a", b"changed")
    summary = kept.sync(dry=True)
    assert summary.sent_names == (b"tree/a",)
    assert kept.sync().files == 1


def test_a_directory_that_lost_its_mode(kept: Kept) -> None:
    (kept.world.root / "d").chmod(0o700)
    kept.sync()
    assert (kept.world.mirror / "tree/d").stat().st_mode & 0o777 == 0o700
    assert kept.sync().skipped


# -- many syncs of one process ------------------------------------------------------------------


class Again:
    """One process that syncs again and again."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.source = Source(kept.world.plan(), os.environ)
        self.last: Sync | None = None
        self.sync(None)

    def sync(self, names: list[str] | None) -> Summary:
        changed = None if names is None else [os.fsencode(self.kept.world.root / n) for n in names]
        self.kept.started.clear()
        sync = self.kept.start(source=self.source, changed=changed)
        done = sync.wait()
        self.last = sync
        return done


def test_a_process_that_syncs_again_looks_at_what_changed_only(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = Again(kept)
    monkeypatch.setattr(Source, "look", None)
    kept.world.file("a", b"changed")
    kept.world.file("e/new")
    assert again.sync(["a", "e"]).files == 2
    assert len(kept.started) == 1
    assert kept.sent() == {b"a", b"e", b"e/new"}
    kept.same()
    assert again.sync(["a", "e/new", "b"]).skipped
    assert kept.started == []


def test_what_it_added_it_removes(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("e/new")
    assert again.sync(["e/new"]).files == 1
    shutil.rmtree(kept.world.root / "e")
    assert again.sync(["e/new", "e"]).removed == 2
    kept.same()
    # and so would another process
    kept.world.file("e/new")
    again.sync(["e"])
    shutil.rmtree(kept.world.root / "e")
    assert kept.sync().removed == 2
    kept.same()


def test_what_it_noted_serves_the_next_process(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("a", b"changed")
    again.sync(["a"])
    assert again.last is not None
    again.last.note()
    assert kept.sync().skipped


def test_what_it_did_not_note_is_looked_at_again(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("a", b"changed")
    again.sync(["a"])
    summary = kept.sync()
    assert (summary.skipped, summary.files) == (False, 0)


def test_after_a_failure_everything_is_looked_at(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("a", b"changed")
    blocked = kept.world.mirror / "tree/a"
    blocked.unlink()
    (blocked / "held").mkdir(parents=True)
    with pytest.raises(SyncError):
        again.sync(["a"])
    shutil.rmtree(blocked)
    assert again.sync([]).files == 1
    kept.same()


# -- an rsync that is started while changes are settling ------------------------------------------


def ahead(again: Again, *names: str) -> Sync:
    """A sync whose rsync waits to be told what to send."""
    paths = [os.fsencode(again.kept.world.root / name) for name in names]
    again.kept.started.clear()
    sync = again.kept.start(source=again.source, changed=())
    sync.get_ready(paths)
    sync.expect(paths)
    return sync


def nothing_runs(world: World) -> None:
    wait_until(lambda: not processes_naming(str(world.directory)))


def test_an_rsync_started_ahead_is_told_what_to_send(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("a", b"changed")
    sync = ahead(again, "a")
    assert len(kept.started) == 1
    assert kept.world.mirrored()["tree/a"] == b"content"
    kept.world.file("d/c", b"changed later")
    sync.expect([os.fsencode(kept.world.root / name) for name in ("a", "d/c")])
    assert sync.wait().files == 2
    assert len(kept.started) == 1
    kept.same()
    nothing_runs(kept.world)
    assert kept.sync().skipped is False  # nobody has noted it yet
    kept.same()


def test_one_that_is_of_no_use_ends(kept: Kept) -> None:
    again = Again(kept)
    sync = ahead(again, "a")
    assert len(kept.started) == 1
    assert sync.wait().skipped
    nothing_runs(kept.world)
    sync = ahead(again, "a")
    sync.close()
    nothing_runs(kept.world)


def test_one_that_does_not_fit_is_replaced(kept: Kept) -> None:
    again = Again(kept)
    path = kept.world.root / "a"
    status = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ahead(again, "a").wait().files == 1
    assert len(kept.started) == 2
    assert b"--checksum" in kept.started[-1]
    kept.same()
    nothing_runs(kept.world)


def test_nothing_is_started_ahead_for_what_nobody_knows(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("new")
    assert ahead(again, "new").wait().files == 1
    assert len(kept.started) == 1
    kept.same()


def test_a_look_at_everything_after_one_was_started_ahead(kept: Kept) -> None:
    again = Again(kept)
    kept.world.file("a", b"changed")
    (kept.world.root / "b").unlink()
    sync = ahead(again, "a")
    sync.expect(None)
    summary = sync.wait()
    assert (summary.files, summary.removed) == (1, 1)
    kept.same()
    nothing_runs(kept.world)
