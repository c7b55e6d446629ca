"""Whole syncs over the connection to a real daemon, with a real rsync on both ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.daemon import Home
from tests.support.fake_link import FakeDaemon
from tests.support.rsync import servers
from tests.support.waiting import alive, wait_until
from tests.sync.world import processes_naming

from psync.client.keeper import MirrorKeeper
from psync.client.lifeline import Lifeline
from psync.client.pieces import Output
from psync.client.run import RemoteRun
from psync.client.threads import in_thread
from psync.client.transfers import Transfers
from psync.daemon.listening import read_presence
from psync.errors import (
    ConnectionLost,
    DestinationError,
    Interrupted,
    ProtocolError,
    Refused,
    ToolMissing,
)
from psync.model import RunSpec, Tool
from psync.protocol.messages import ListRuns, OpenTransfer, TransferEnded
from psync.sync.blame import MirrorMissing
from psync.sync.endpoint import WebsocketEndpoint
from psync.sync.engine import VANISHED_RETRIES, Sync
from psync.sync.plan import plan_sync
from psync.sync.project import Project, find_project
from psync.sync.rsync import Summary, Transfer, mark_argv
from psync.transport.connect import connect
from psync.transport.link import Link
from psync.transport.tls import client_context

MIB = 1 << 20


class Place:
    """A project here, and a daemon for it.

    Attributes:
        links: every connection that was made.
        doomed: connections are reset when files are sent over them, from the next one on.
    """

    def __init__(self, home: Home, directory: Path) -> None:
        self.home = home
        self.directory = directory
        self.root = directory / "my game"
        self.root.mkdir()
        (self.root / "psync.toml").touch()
        self.links: list[Link] = []
        self.doomed = False
        self.lifeline = Lifeline(self._dial, name="laptop")
        self.warnings: list[str] = []

    async def _dial(self) -> Link:
        directory = self.home.directory / "desk"
        presence = read_presence(self.home.paths.record)
        assert presence is not None
        link = await connect(
            ("127.0.0.1", presence.port),
            tls=client_context(
                f"{directory}/ca.pem", f"{directory}/client.pem", f"{directory}/key.pem"
            ),
            server_name=(directory / "name").read_text(),
            software="a test",
        )
        self.links.append(link)
        if self.doomed:
            link.send_piece = self._cut  # type: ignore[assignment,method-assign]
        return link

    def _cut(self, *_piece: object) -> None:
        cut(self)

    @property
    def project(self) -> Project:
        return find_project(
            start=os.fsencode(self.root), program=None, explicit=None, client_id="client"
        )

    @property
    def projects(self) -> bytes:
        assert self.lifeline.link is not None
        assert self.lifeline.link.peer.facts is not None
        return self.lifeline.link.peer.facts.projects_root

    @property
    def mirror(self) -> Path:
        return Path(self.home.paths.projects) / self.project.id

    def file(self, name: str, content: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def endpoint(self) -> WebsocketEndpoint:
        assert self.lifeline.link is not None
        assert self.lifeline.link.peer.facts is not None
        facts = self.lifeline.link.peer.facts
        return WebsocketEndpoint(
            Transfers(self.lifeline),
            projects_root=facts.projects_root,
            rsync=facts.rsync,
            host="laptop",
        )

    def begin(self) -> Sync:
        """Return a sync that knows where it goes."""
        plan = plan_sync(
            self.project,
            cwd=os.fsencode(self.root),
            program=None,
            assets=[],
            include=[],
            exclude=[],
        )
        sync = Sync(plan, state=str(self.directory / "state"), on_warning=self.warnings.append)
        sync.to(self.endpoint(), MirrorKeeper(self.lifeline, self.project))
        return sync

    async def sync(self) -> Summary:
        sync = self.begin()
        return await in_thread(sync.wait, sync.cancel)

    def mirrored(self) -> dict[str, bytes]:
        tree = self.mirror / "tree"
        return {
            str(path.relative_to(tree)): path.read_bytes()
            for path in tree.rglob("*")
            if path.is_file() and path.name != ".psync-mirror"
        }

    async def transfer(self, mirror: bytes) -> Summary:
        """Carry out one rsync into a directory of the daemon host."""
        source = self.file("mark", b"mark")
        endpoint = self.endpoint()
        remote = endpoint.remote()
        argv, feed = mark_argv(
            os.fsencode(source), b"tree", rsync="rsync", mirror=mirror, remote=remote, dry=False
        )
        transfer = Transfer(
            argv, feed, mirror=mirror, host="laptop", environ=os.environ, remote=remote
        )
        return await in_thread(transfer.wait, transfer.cancel)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    with Home() as home:
        home.start()
        home.pair()
        place = Place(home, tmp_path)
        await place.lifeline.open()
        yield place
        await place.lifeline.close()


async def frozen(place: Place) -> list[int]:
    """Wait for an rsync of the daemon, and stop all of it: it cannot end now."""
    await asyncio.to_thread(wait_until, lambda: servers(place.home))
    found: set[int] = set()
    while new := set(servers(place.home)) - found:
        signal_all(new, signal.SIGSTOP)
        found |= new
    return sorted(found)


def signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def cut(place: Place) -> None:
    """Reset the connection."""
    transport = place.links[-1]._transport
    assert transport is not None
    transport.underlying_transport.abort()


async def gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes is left."""
    await asyncio.to_thread(wait_until, lambda: not any(map(alive, pids)))


async def test_what_is_new_changed_and_gone(place: Place) -> None:
    names = ["a", "sub/b c", "sub/ümlaut"]
    for name in names:
        place.file(name, name.encode())
    big = place.file("big", os.urandom(5 * MIB))
    summary = await place.sync()
    assert summary.files == 5  # with psync.toml
    assert place.mirrored() == {
        "psync.toml": b"",
        "big": big.read_bytes(),
        **{name: name.encode() for name in names},
    }
    place.file("a", b"changed")
    (place.root / "sub/b c").unlink()
    await place.sync()
    assert place.mirrored()["a"] == b"changed"
    assert "sub/b c" not in place.mirrored()
    assert (await place.sync()).files == 0
    assert len(place.links) == 1


async def test_a_lost_connection_is_made_again(place: Place) -> None:
    content = os.urandom(16 * MIB)
    place.file("big", content)
    syncing = asyncio.create_task(place.sync())
    pids = await frozen(place)
    cut(place)
    await asyncio.to_thread(wait_until, lambda: len(place.links) == 2)
    signal_all(pids, signal.SIGCONT)
    await syncing
    assert place.mirrored()["big"] == content
    await gone(pids)


async def test_one_that_is_lost_again_and_again_is_the_error(place: Place) -> None:
    place.file("big", os.urandom(16 * MIB))
    place.doomed = True
    cut(place)
    await place.links[0].wait_closed()
    await place.lifeline.open()
    with pytest.raises(ConnectionLost, match="lost while files were sent"):
        await place.sync()
    assert len(place.links) == 1 + 1 + VANISHED_RETRIES


async def test_cancelling_leaves_nothing_running(place: Place) -> None:
    place.file("big", os.urandom(16 * MIB))
    sync = place.begin()
    syncing = asyncio.create_task(in_thread(sync.wait, sync.cancel))
    pids = await frozen(place)
    here = sync.pids
    assert here
    syncing.cancel()
    await asyncio.sleep(0)  # so that it is cancelled before they go on
    signal_all(pids, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await syncing
    await gone((*here, *pids))
    assert processes_naming(f"{place.directory}/my game") == []
    assert "big" not in place.mirrored()
    await place.sync()  # on the same connection
    assert "big" in place.mirrored()
    assert len(place.links) == 1


async def test_others_are_served_meanwhile(place: Place) -> None:
    place.file("big", os.urandom(16 * MIB))
    syncing = asyncio.create_task(place.sync())
    pids = await frozen(place)  # so that all that may be on its way is
    listed = await place.lifeline.request(lambda number: ListRuns(request=number))
    assert listed.runs == ()
    run = RemoteRun(place.lifeline, RunSpec(argv=(b"echo", b"hello")))
    run.begin()
    output = b""
    async for piece in run.output():
        assert isinstance(piece, Output)
        output += piece.data
    assert output == b"hello\n"
    assert (await run.wait()).code == 0
    assert not syncing.done()
    signal_all(pids, signal.SIGCONT)
    await syncing


async def test_a_refusal_is_told_in_the_daemons_words(place: Place) -> None:
    with pytest.raises(Refused, match="not one of psync's mirrors"):
        await place.transfer(b"/etc")


async def test_a_mirror_that_was_not_made(place: Place) -> None:
    with pytest.raises(MirrorMissing):
        await place.transfer(os.path.join(place.projects, b"game-0123456789abcdef"))


async def test_what_rsync_over_there_cannot_write_is_named(place: Place) -> None:
    place.file("sub/a", b"a")
    await place.sync()
    (place.mirror / "tree/sub/a").unlink()
    (place.mirror / "tree/sub/a").mkdir()
    (place.mirror / "tree/sub/a/full").touch()
    place.file("sub/a", b"other")
    with pytest.raises(DestinationError, match="has a directory that is not empty where sub/a"):
        await place.sync()


async def test_no_rsync_there(place: Place) -> None:
    endpoint = place.endpoint()
    endpoint.rsync = None
    with pytest.raises(ToolMissing, match="rsync is not installed on laptop"):
        endpoint.check()
    endpoint.rsync = Tool("/usr/bin/rsync", "2.6.9")
    with pytest.raises(ToolMissing, match="too old"):
        endpoint.check()


async def test_a_daemon_of_an_older_version() -> None:
    daemon = FakeDaemon()
    daemon.features = ("keep", "list")
    lifeline = Lifeline(daemon.dial, name="laptop")  # type: ignore[arg-type]
    carrier = Transfers(lifeline)
    for ask in (carrier.connect, carrier.check):
        with pytest.raises(ProtocolError) as caught:
            await asyncio.to_thread(ask)
        assert 'transport = "ssh"' in caught.value.hint
        assert "laptop" in caught.value.message
    lifeline.abandon()


async def test_giving_up_while_a_connection_is_made() -> None:
    dialling = asyncio.Event()

    async def dial() -> Link:
        dialling.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    carrier = Transfers(Lifeline(dial))
    connecting = asyncio.create_task(asyncio.to_thread(carrier.connect))
    await dialling.wait()
    carrier.cancel()
    with pytest.raises(Interrupted):
        await connecting
    with pytest.raises(Interrupted):  # also when it comes first
        await asyncio.to_thread(carrier.connect)


async def test_the_daemon_of_this_machine_is_near(place: Place) -> None:
    remote = place.endpoint().remote()
    assert remote is not None
    assert not remote.compress


async def test_unfinished_files_are_removed(place: Place) -> None:
    place.file("sub/deep/a", b"a")
    await place.sync()
    tree = place.mirror / "tree"
    unfinished = [tree / ".psync-partial", tree / "sub/deep/.psync-partial"]
    for directory in unfinished:
        directory.mkdir()
        (directory / "half").touch()
    kept = place.home.directory / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tree / "sub/.psync-partial").symlink_to(kept)
    await asyncio.to_thread(place.endpoint().discard_unfinished, bytes(place.mirror))
    assert not any(directory.exists() for directory in unfinished)
    assert (kept / "file").exists()
    assert place.mirrored()["sub/deep/a"] == b"a"
    with pytest.raises(Refused, match="not a project's ID"):
        await asyncio.to_thread(Transfers(place.lifeline).discard, "../x")


async def test_a_daemon_that_does_not_answer_what_is_unfinished() -> None:
    daemon = FakeDaemon()
    lifeline = Lifeline(daemon.dial)  # type: ignore[arg-type]
    await lifeline.open()
    asking = asyncio.create_task(asyncio.to_thread(Transfers(lifeline).discard, "game-1"))
    asked = await daemon.link.said(OpenTransfer)
    assert asked.command == (b"psync-server", b"discard", b"game-1")
    daemon.link.say(TransferEnded(channel=asked.channel, status=0))
    await asking
    asking = asyncio.create_task(asyncio.to_thread(Transfers(lifeline).discard, "game-1"))
    await daemon.link.said(OpenTransfer)
    daemon.link.cut()
    with pytest.raises(ConnectionLost):
        await asking
    lifeline.abandon()
