"""Files over the websocket: a real rsync, a real daemon, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.support.daemon import Client, Home, shell
from tests.support.rsync import Channel, Shell, servers
from tests.support.waiting import wait_until

from psync.daemon.rsyncserver import MOST_ERRORS
from psync.daemon.transfers import MOST_OF_CLIENT, MOST_OF_CONNECTION
from psync.errors import ProtocolError
from psync.model import Stream
from psync.protocol import messages as m

PUSH = ("-rlpt", "--safe-links", "--modify-window=-1", "--partial-dir=.psync-partial")
PULL = ("-rlpt", "--safe-links", "--partial-dir=.psync-partial")
TAKES = (b"/usr/bin/rsync", b"--server", b"-slOtprRze.iLsfxCIvu")
GIVES = (b"rsync", b"--server", b"--sender", b"-sltpre.iLsfxCIvu")
MIB = 1 << 20


async def project(client: Client, name: str) -> Path:
    """Have a mirror made; return where it is."""
    opened = await client.ask(m.OpenProject(request=1, project=name, source=b"/src", host="desk"))
    assert isinstance(opened, m.ProjectOpened), opened
    return Path(os.fsdecode(opened.path))


@asynccontextmanager
async def connected(
    home: Home, name: str, *, acks: bool = True
) -> AsyncIterator[tuple[Shell, Path]]:
    async with home.client() as client, Shell(client, acks=acks) as rsh:
        yield rsh, await project(client, name)


def contents(directory: Path) -> dict[bytes, bytes | None]:
    """What a directory holds: files with what is in them, directories with None."""
    top = bytes(directory)
    found: dict[bytes, bytes | None] = {}
    for at, directories, files in os.walk(top):
        inner = os.path.relpath(at, top)
        found.update((os.path.join(inner, name), None) for name in directories)
        for name in files:
            path = os.path.join(at, name)
            link = os.path.islink(path)
            found[os.path.join(inner, name)] = (
                os.readlink(path) if link else Path(os.fsdecode(path)).read_bytes()
            )
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files of all kinds."""
    directory = tmp_path / "source"
    (directory / "sub/deep").mkdir(parents=True)
    chance = random.Random(1)
    (directory / "big").write_bytes(chance.randbytes(3 * MIB + 17))
    (directory / "holes").write_bytes(bytes(MIB) + b"x" + bytes(MIB))
    (directory / "sub/empty").touch()
    for number, name in enumerate(
        [b"-rf", b"a b", b"new\nline", b"\xff\xfe", b"a[b]*?", b"back\\slash"]
    ):
        Path(os.fsdecode(bytes(directory / "sub") + b"/" + name)).write_bytes(b"%d\n" % number)
    (directory / "sub/link").symlink_to("deep")
    return directory


def args(mirror: Path, name: bytes = b"tree/") -> bytes:
    return b"rsync\0.\0" + bytes(mirror) + b"/" + name + b"\0\0"


async def gone(home: Home) -> None:
    """Wait until no process of a transfer is left."""
    await asyncio.to_thread(wait_until, lambda: not servers(home))


# -- both ways -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-z", "--compress-level=1"),
        ("-c",),
        ("-W",),
        ("-I",),
        ("-S",),
        ("-zcWIS",),
        ("--delay-updates", "--timeout=60"),
        ("--old-compress",),
        ("-O", "--info=NAME,STATS2"),
    ],
    ids=" ".join,
)
async def test_files_go_there_and_come_back(
    shared: Home, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name = "both-" + "".join(filter(str.isalnum, "".join(options))).lower()
    back = [one for one in options if one not in ("-O", "--delay-updates")]
    async with connected(shared, name) as (rsh, mirror):
        there = await rsh.rsync(*PUSH, *options, f"{source}/", f"there:{mirror}/tree/")
        assert (there.status, there.err) == (0, b"")
        assert contents(mirror / "tree") == contents(source)
        here = await rsh.rsync(*PULL, *back, f"there:{mirror}/tree/", f"{tmp_path}/back/")
        assert (here.status, here.err) == (0, b"")
        assert contents(tmp_path / "back") == contents(source)
        assert [channel.ended for channel in rsh.channels] == [0, 0]
    assert "Traceback" not in shared.log


async def test_what_is_there_already_is_not_sent_again(shared: Home, source: Path) -> None:
    async with connected(shared, "again") as (rsh, mirror):
        for _ in range(2):
            done = await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}/tree/")
            assert done.status == 0
        first, second = rsh.channels
        assert first.sent > 3 * MIB
        assert second.sent < 2000
        (source / "big").write_bytes(b"!" + (source / "big").read_bytes()[1:])
        assert (await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}/tree/")).status == 0
        assert rsh.channels[2].sent < MIB / 10
        assert contents(mirror / "tree") == contents(source)


async def test_names_are_removed(shared: Home, source: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing/sub").mkdir(parents=True)
    names = tmp_path / "names"
    names.write_bytes(b"./big\0./sub/-rf\0")
    async with connected(shared, "removal") as (rsh, mirror):
        assert (await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}/tree/")).status == 0
        done = await rsh.rsync(
            *("--dirs", "--existing", "--omit-dir-times", "--delete-missing-args", "--from0"),
            *(f"--files-from={names}", "--info=del1,stats2", f"{tmp_path}/nothing/"),
            f"there:{mirror}/tree/",
        )
        assert done.status == 0, done.err
        left = contents(source)
        del left[b"./big"], left[b"sub/-rf"]
        assert contents(mirror / "tree") == left


async def test_what_lies_outside_the_project(shared: Home, source: Path) -> None:
    async with connected(shared, "outside") as (rsh, mirror):
        done = await rsh.rsync(*PUSH, "-R", f"{source}/./sub", f"there:{mirror}/outside/")
        assert done.status == 0, done.err
        assert contents(mirror / "outside/sub") == contents(source / "sub")
        assert contents(mirror / "tree") == {}


async def test_some_names_of_a_mirror_come_back(shared: Home, source: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    async with connected(shared, "some") as (rsh, mirror):
        assert (await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}/tree/")).status == 0
        tree = f"{mirror}/tree"
        names = [f"there:{tree}/big", rf"there:{tree}/sub/a\[b\]\*\?", f"there:{tree}/sub/-rf"]
        done = await rsh.rsync(*PULL, *names, f"{back}/")
        assert (done.status, done.err) == (0, b"")
        assert set(contents(back)) == {b"./big", b"./a[b]*?", b"./-rf"}
        shutil.rmtree(back)
        names = [f"there:{tree}/./sub/-rf", f"there:{tree}/sub/./link", f"there:{tree}/./sub/deep/"]
        done = await rsh.rsync(*PULL, "-R", "--no-implied-dirs", *names, f"{back}/")
        assert (done.status, done.err) == (0, b"")
        assert set(contents(back)) == {b"./sub", b"sub/-rf", b"sub/deep", b"./link"}
        done = await rsh.rsync(*PULL, f"there:{tree}/none", f"{back}/")
        assert done.status == 23
        assert b"No such file" in done.err


async def test_a_mirror_is_listed(shared: Home, source: Path) -> None:
    async with connected(shared, "listed") as (rsh, mirror):
        assert (await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}/tree/")).status == 0
        done = await rsh.rsync("--list-only", "-r", f"there:{mirror}/tree/sub/")
        assert done.status == 0, done.err
        assert b"-rf" in done.out
        assert b"big" not in done.out
        one = await rsh.rsync("--list-only", f"there:{mirror}/tree/big")
        assert one.out.endswith(b" big\n")


async def test_transfers_and_runs_share_a_connection(shared: Home, source: Path) -> None:
    async with connected(shared, "mixed") as (rsh, mirror):
        run = rsh.client.start(*shell("read x; echo $x; kill -INT $$"))
        await run.running()
        pushes = [
            rsh.rsync(*PUSH, "-I", f"{source}/", f"there:{mirror}/{part}/")
            for part in ("tree", "outside", "tree")
        ]
        done = await asyncio.gather(*pushes)
        run.send(b"hello\n")
        assert (await run.ended()).status.signal == "SIGINT"
        assert run.output == b"hello\n"
        assert [one.status for one in done] == [0, 0, 0]
        assert contents(mirror / "tree") == contents(mirror / "outside") == contents(source)


async def test_a_mirror_that_nobody_made_is_missed(shared: Home, source: Path) -> None:
    async with connected(shared, "made") as (rsh, mirror):
        done = await rsh.rsync(*PUSH, f"{source}/", f"there:{mirror}-not/tree/")
        assert done.status != 0
        assert b'mkdir "%s-not" failed: No such file or directory (2)' % bytes(mirror) in done.err
        assert rsh.channels[0].ended == 11
        assert not (mirror.parent / f"{mirror.name}-not").exists()


async def test_a_whole_transfer_leaves_nothing_behind(home: Home, source: Path) -> None:
    home.start()
    assert home.daemon is not None
    descriptors = Path(f"/proc/{home.daemon.pid}/fd")
    async with connected(home, "tidy") as (rsh, mirror):
        counts = set()
        for _ in range(4):
            done = await rsh.rsync(*PUSH, "-I", f"{source}/", f"there:{mirror}/tree/")
            assert done.status == 0
            assert servers(home) == []
            counts.add(len(list(descriptors.iterdir())))
        assert len(counts) == 1
    log = home.paths.audit
    lines = [line for line in Path(log).read_text().splitlines() if '"transferred"' in line]
    assert len(lines) == 4
    assert '"project":"tidy"' in lines[0]
    assert "into the mirror" in lines[0]


# -- windows ---------------------------------------------------------------------------------


async def frozen(home: Home, client: Client, mirror: Path) -> Channel:
    """Open a transfer whose rsync reads nothing."""
    channel = Channel(client)
    channel.open(TAKES, args(mirror))
    # rsync says which protocol it speaks before anything else
    await client.wait(lambda: channel.received or channel.over)
    for pid in servers(home):
        os.kill(pid, signal.SIGSTOP)
    return channel


async def test_stdin_is_acknowledged_as_rsync_takes_it(
    home: Home,
) -> None:
    home.start()
    async with home.client() as client:
        channel = await frozen(home, client, await project(client, "frozen"))
        assert client.link.peer.limits.data == m.MAX_PIECE
        channel.send(bytes(m.WINDOW_TRANSFER))
        # its pipe takes some, and that is all
        await client.wait(lambda: channel.acked)
        assert (await client.start("true").ended()).status.code == 0
        assert 0 < channel.acked < m.WINDOW_TRANSFER
        channel.send(bytes(channel.acked))
        assert (await client.start("true").ended()).status.code == 0
        channel.send(b"!")
        error = await client.expect_closed()
        assert isinstance(error, ProtocolError)
        assert f"{m.WINDOW_TRANSFER} are allowed" in error.message
        await gone(home)
    assert "Traceback" not in home.log


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (lambda channel: m.Data(channel, Stream.STDIN, 1, b"x"), "goes on at 0"),
        (lambda channel: m.Data(channel, Stream.STDIN, 1 << 63, b"x"), "goes on at 0"),
        (lambda channel: m.Data(channel, Stream.STDOUT, 0, b"x"), "flows the other way"),
        (lambda channel: m.Ack(channel, 1 << 62), "acknowledged, only"),
        (lambda channel: m.StdinEnd(channel, 5), "ends at 0, not 5"),
        (lambda channel: m.OpenTransfer(channel=channel, command=TAKES, arguments=b""), "in use"),
        (lambda channel: m.Attach(channel=channel, run="abc", offset=0), "in use"),
    ],
)
async def test_breaches(shared: Home, message: object, words: str) -> None:
    assert callable(message)
    async with shared.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "breach")))
        await client.wait(lambda: channel.received)
        client.link.send(message(channel.channel))
        error = await client.expect_closed()
        assert isinstance(error, ProtocolError)
        assert words in error.message
        await gone(shared)


async def test_data_behind_the_end_of_stdin_is_a_breach(shared: Home) -> None:
    async with shared.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "breach")))
        await client.wait(lambda: channel.received)
        channel.end()
        channel.send(b"x")
        error = await client.expect_closed()
        # rsync may have ended for want of stdin before that was noticed
        assert error is None or isinstance(error, ProtocolError) or channel.over


async def test_what_rsync_writes_waits_for_the_client(home: Home, tmp_path: Path) -> None:
    home.start()
    assert home.daemon is not None
    (tmp_path / "source").mkdir()
    (tmp_path / "source/big").write_bytes(random.Random(2).randbytes(12 * MIB))
    async with connected(home, "slow", acks=False) as (rsh, mirror):
        shutil.copy(tmp_path / "source/big", mirror / "tree/big")
        pull = asyncio.create_task(
            rsh.rsync(*PULL, "-W", f"there:{mirror}/tree/", f"{tmp_path}/back/")
        )
        await rsh.client.wait(
            lambda: rsh.channels and rsh.channels[0].received > m.WINDOW_TRANSFER - 70_000
        )
        # what else there is goes on meanwhile
        assert (await rsh.client.start("true").ended()).status.code == 0
        channel = rsh.channels[0]
        assert channel.received <= m.WINDOW_TRANSFER
        assert not channel.over
        channel.acks = True
        channel.ack()
        assert (await pull).status == 0
        assert contents(tmp_path / "back") == contents(tmp_path / "source")


# -- ends ------------------------------------------------------------------------------------


async def test_a_transfer_that_is_cancelled_keeps_what_it_has(home: Home, tmp_path: Path) -> None:
    home.start()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/big").write_bytes(random.Random(3).randbytes(24 * MIB))
    async with connected(home, "cancelled") as (rsh, mirror):
        push = asyncio.create_task(
            rsh.rsync(*PUSH, "-W", f"{tmp_path}/source/", f"there:{mirror}/tree/")
        )
        await rsh.client.wait(lambda: rsh.channels and rsh.channels[0].acked > 8 * MIB)
        rsh.channels[0].cancel()
        assert (await push).status != 0
        assert rsh.channels[0].ended not in (0, None)
        assert servers(home) == []
        assert not (mirror / "tree/big").exists()
        assert (mirror / "tree/.psync-partial/big").stat().st_size > MIB
        done = await rsh.rsync(*PUSH, "--no-W", f"{tmp_path}/source/", f"there:{mirror}/tree/")
        assert done.status == 0
        assert rsh.channels[1].sent < 24 * MIB  # it went on with what there was
        assert contents(mirror / "tree") == contents(tmp_path / "source")


async def test_cancelling_twice_or_late_is_nothing(shared: Home) -> None:
    async with shared.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "twice")))
        for _ in range(3):
            channel.cancel()
        assert await channel.status() != 0
        channel.cancel()
        channel.send(b"x")
        channel.end()
        client.link.send(m.Ack(channel.channel, 1 << 40))
        assert (await client.start("true").ended()).status.code == 0
        assert servers(shared) == []


@pytest.mark.parametrize("how", ["closed", "cut"])
async def test_a_transfer_ends_with_its_connection(shared: Home, how: str) -> None:
    async with shared.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "lost")))
        await client.wait(lambda: channel.received)
        assert servers(shared)
        if how == "cut":
            transport = client.link._transport
            assert transport is not None
            transport.underlying_transport.abort()
        else:
            client.link.close()
        await gone(shared)
    assert "Traceback" not in shared.log


async def test_an_rsync_that_does_not_listen_is_killed(home: Home) -> None:
    home.start()
    async with home.client() as client:
        channel = await frozen(home, client, await project(client, "deaf"))
        channel.cancel()
        assert await channel.status() == -signal.SIGKILL
        assert servers(home) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_no_transfer_outlives_the_daemon(home: Home, number: int) -> None:
    home.start()
    async with home.client() as client:
        mirror = await project(client, "left")
        channels = [Channel(client) for _ in range(3)]
        for channel in channels:
            channel.open(TAKES, args(mirror))
        await client.wait(lambda: all(channel.received for channel in channels))
        assert len(servers(home)) >= 3
        await asyncio.to_thread(home.leave, number)
        if number == signal.SIGKILL:
            await gone(home)
        assert servers(home) == []
    assert "Traceback" not in home.log


async def test_losing_rights_ends_transfers(home: Home) -> None:
    home.start()
    home.pair("guest")
    async with home.client("guest") as guest:
        channel = Channel(guest)
        channel.open(TAKES, args(await project(guest, "theirs")))
        await guest.wait(lambda: channel.received)
        assert home.server("limit", "guest", "--project", "their*").returncode == 0
        other = Channel(guest)
        while other.refused is None:  # the mirror is not there; that is said until the list is read
            other = Channel(guest)
            other.open(TAKES, args(Path(home.paths.projects) / "mine"))
            await guest.wait(partial(getattr, other, "over"))
        assert other.refused.code == "refused"
        assert "may not use the project" in other.refused.message
        assert not channel.over
        assert home.server("limit", "guest", "--view").returncode == 0
        assert "any more" in (await channel.refusal()).message
        await gone(home)
        for command in (TAKES, GIVES):
            again = Channel(guest)
            again.open(command, args(Path(home.paths.projects) / "theirs"))
            assert "may only look" in (await again.refusal()).message
        assert not guest.closed
        assert home.server("revoke", "guest").returncode == 0
        await guest.expect_closed()


# -- limits ----------------------------------------------------------------------------------


async def test_transfers_are_limited(home: Home) -> None:
    home.start()
    async with home.client() as client, home.client() as second, home.client() as third:
        mirror = await project(client, "many")

        async def opened(client: Client) -> Channel:
            channel = Channel(client)
            channel.open(TAKES, args(mirror))
            await client.wait(lambda: channel.received or channel.over)
            return channel

        first = [await opened(client) for _ in range(MOST_OF_CONNECTION)]
        refused = (await opened(client)).refused
        assert refused is not None
        assert str(MOST_OF_CONNECTION) in refused.message
        for _ in range(MOST_OF_CLIENT - MOST_OF_CONNECTION):
            assert not (await opened(second)).over
        refused = (await opened(third)).refused
        assert refused is not None
        assert str(MOST_OF_CLIENT) in refused.message
        async with home.client("laptop") as laptop:
            channel = Channel(laptop)
            channel.open(TAKES, args(await project(laptop, "other")))
            await laptop.wait(lambda: channel.received)
        first[0].cancel()
        await first[0].status()
        assert not (await opened(third)).over
    await gone(home)


async def test_no_rsync_on_the_daemon_host(home: Home, tmp_path: Path) -> None:
    home.env["PATH"] = str(tmp_path)
    home.start()
    async with home.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "bare")))
        refused = await channel.refusal()
        assert refused.code == "tool-missing"
        assert "rsync" in refused.message
        assert "install" in refused.hint


def wrapped(home: Home, directory: Path, text: str) -> None:
    """Have the daemon find an rsync that does something else as a server."""
    real = shutil.which("rsync")
    directory.mkdir()
    script = directory / "rsync"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} "$@"\n{text}\n')
    script.chmod(0o755)
    home.env["PATH"] = f"{directory}:{home.env['PATH']}"


async def test_of_many_errors_the_first_are_told(home: Home, tmp_path: Path) -> None:
    wrapped(home, tmp_path / "bin", "yes trouble | head -c 3000000 >&2; echo out; exit 7")
    home.start()
    async with home.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "loud")))
        assert await channel.status() == 7
        assert channel.out == b"out\n"
        assert channel.err == (b"trouble\n" * MOST_ERRORS)[:MOST_ERRORS]


async def test_what_rsync_leaves_behind_is_ended_too(home: Home, tmp_path: Path) -> None:
    wrapped(home, tmp_path / "bin", "(trap '' TERM; exec sleep 1234567) & exit 3")
    home.start()
    async with home.client() as client:
        channel = Channel(client)
        channel.open(TAKES, args(await project(client, "stray")))
        assert await channel.status() == 3
    await asyncio.to_thread(wait_until, lambda: not running(b"sleep\0001234567\0"))


def running(command: bytes) -> bool:
    """Whether any process has this command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == command:
                return True
        except OSError:
            pass  # it has just ended
    return False


async def test_an_rsync_that_cannot_be_executed_is_named(home: Home, tmp_path: Path) -> None:
    wrapped(home, tmp_path / "bin", "")
    home.start()
    async with home.client() as client:
        mirror = await project(client, "broken")
        (tmp_path / "bin/rsync").write_text("#!/no/such/interpreter\n")
        channel = Channel(client)
        channel.open(TAKES, args(mirror))
        await client.wait(lambda: channel.over)
        assert channel.ended == 126 or channel.refused is not None
