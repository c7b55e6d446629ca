"""Many syncs of one process, with the daemon played by the test and real rsyncs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.waiting import wait_until
from tests.sync.world import World, processes_naming

from psync.client.syncer import Syncer
from psync.client.syncing import SyncReports
from psync.errors import ConnectionLost, SyncError
from psync.paths import ClientPaths
from psync.sync.engine import Sync
from psync.sync.keeper import Checked, NoKeeper


class Keeping(NoKeeper):
    """Believes that nobody else touches the mirror."""

    def __init__(self) -> None:
        self.seals = 0

    def check(self, seal: str) -> Checked:
        return Checked(known=seal == f"seal-{self.seals}")

    def end(self, base: str | None, names: tuple[bytes, ...]) -> str:
        self.seals += 1
        return f"seal-{self.seals}"


class Syncing:
    def __init__(self, world: World) -> None:
        self.world = world
        self.keeper = Keeping()
        self.broken = False
        self.aimed = 0
        paths = ClientPaths.from_environ({"HOME": str(world.directory / "home")})
        self.syncer = Syncer(world.plan(), paths, SyncReports(), self._aim)
        self.again = Syncer(world.plan(), paths, SyncReports(), self._aim)

    async def _aim(self, sync: Sync) -> None:
        self.aimed += 1
        if self.broken:
            raise ConnectionLost("cut by the test")
        sync.to(self.world.endpoint, self.keeper)

    def path(self, name: str) -> bytes:
        return os.fsencode(self.world.root / name)


@pytest.fixture
def syncing(tmp_path: Path) -> Syncing:
    world = World(tmp_path)
    for name in ("a", "b"):
        world.file(name)
        os.utime(world.root / name, (1e9, 1e9))
    os.utime(world.root / "psync.toml", (1e9, 1e9))
    return Syncing(world)


async def test_what_changed_is_sent_and_nothing_else_looked_at(
    syncing: Syncing, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await syncing.syncer.sync()).files == 3
    monkeypatch.setattr("psync.sync.source.Source.look", None)
    syncing.world.file("a", b"changed")
    assert (await syncing.syncer.sync([syncing.path("a")])).files == 1
    assert (await syncing.syncer.sync([syncing.path("a")])).files == 0
    assert syncing.world.mirrored()["tree/a"] == b"changed"


async def test_what_was_noted_serves_others(syncing: Syncing) -> None:
    await syncing.syncer.sync()
    await syncing.syncer.note()
    await syncing.syncer.note()  # there is nothing more to note
    # the files are younger than any step of a clock by their time of change, so they are compared
    assert (await syncing.again.sync()).files == 0
    assert syncing.keeper.seals == 2


async def test_a_failure_has_everything_looked_at_next(syncing: Syncing) -> None:
    await syncing.syncer.sync()
    syncing.world.file("a", b"changed")
    blocked = syncing.world.mirror / "tree/a"
    blocked.unlink()
    (blocked / "held").mkdir(parents=True)
    with pytest.raises(SyncError):
        await syncing.syncer.sync([syncing.path("a")])
    (blocked / "held").rmdir()
    assert (await syncing.syncer.sync([])).files == 1


async def test_getting_ready_starts_an_rsync_that_the_sync_uses(syncing: Syncing) -> None:
    await syncing.syncer.sync()
    syncing.world.file("a", b"changed")
    await syncing.syncer.get_ready([syncing.path("a")])
    aimed = syncing.aimed
    await syncing.syncer.get_ready([syncing.path("a")])  # once is enough
    assert processes_naming(str(syncing.world.directory))
    assert (await syncing.syncer.sync([syncing.path("a")])).files == 1
    assert syncing.aimed == aimed
    wait_until(lambda: not processes_naming(str(syncing.world.directory)))


async def test_getting_ready_for_nothing_leaves_nothing(syncing: Syncing) -> None:
    await syncing.syncer.sync()
    await syncing.syncer.get_ready([syncing.path("a")])
    await syncing.syncer.close()
    wait_until(lambda: not processes_naming(str(syncing.world.directory)))
    await syncing.syncer.close()


async def test_getting_ready_without_a_connection_is_no_failure(syncing: Syncing) -> None:
    await syncing.syncer.sync()
    syncing.world.file("a", b"changed")
    syncing.broken = True
    await syncing.syncer.get_ready([syncing.path("a")])
    with pytest.raises(ConnectionLost):
        await syncing.syncer.sync([syncing.path("a")])
    syncing.broken = False
    assert (await syncing.syncer.sync([])).files == 1
