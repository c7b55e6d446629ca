"""A paired client that wants rsync to do something else, or the daemon to drown in it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attacks.raw import RawClient, connected, peak_memory
from tests.attacks.test_paths import seen
from tests.daemon.test_landlock import CONFINED
from tests.support.daemon import Client, Home
from tests.support.rsync import Channel, Shell, servers
from tests.support.waiting import wait_until

from psync.daemon.transfers import MOST_OF_CONNECTION
from psync.model import Stream
from psync.protocol import messages as m
from psync.protocol.codec import encode

TAKES = (b"rsync", b"--server", b"-slOtprRze.iLsfxCIvu")
GIVES = (b"rsync", b"--server", b"--sender", b"-slrptRe.iLsfxCIvu")
PUSH = ("-rlpt", "--safe-links", "--partial-dir=.psync-partial")
SECRET = b"a secret that is nobody's business"
MIB = 1 << 20

ROOM = 64 * MIB
"""Bytes by which the daemon may grow. What it holds for a client is at most a window for each of
its transfers; a defect that keeps what comes would take hundreds of them."""


@pytest.fixture(scope="module")
def served() -> Iterator[Home]:
    """A daemon whose tests leave it as it was, with a mirror of ``desk`` and one of ``thief``."""
    with Home() as home:
        home.start()
        for name in ("desk", "thief"):
            home.pair(name)
        yield home


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """What lies outside."""
    directory = tmp_path / "victim"
    (directory / "deep").mkdir(parents=True)
    for name in ("secret", "deep/secret"):
        (directory / name).write_bytes(SECRET)
    return directory


async def project(client: Client, name: str = "mine") -> Path:
    opened = await client.ask(m.OpenProject(request=1, project=name, source=b"/src", host="x"))
    assert isinstance(opened, m.ProjectOpened), opened
    return Path(os.fsdecode(opened.path))


def args(*words: bytes | str | Path) -> bytes:
    return b"\0".join((b"rsync", *(os.fsencode(word) for word in words))) + b"\0\0"


async def attempt(client: Client, command: tuple[bytes, ...], arguments: bytes) -> Channel:
    """Open a transfer, end its stdin and wait for the end of it."""
    channel = Channel(client)
    channel.open(command, arguments)
    channel.end()
    await client.wait(lambda: channel.over or client.closed)
    assert channel.over, client.error
    return channel


def gone(home: Home) -> None:
    wait_until(lambda: not servers(home))


def untouched(victim: Path) -> bool:
    names = sorted(str(path.relative_to(victim)) for path in victim.rglob("*"))
    return (
        names == ["deep", "deep/secret", "secret"]
        and (victim / "secret").read_bytes() == SECRET
        and (victim / "deep/secret").read_bytes() == SECRET
    )


# -- what it is asked for ---------------------------------------------------------------------


COMMANDS = [
    (),
    (b"",),
    (b"rsync",),
    (b"sh", b"-c", b"id"),
    (b"rsync", b"--daemon", b"--config=/dev/stdin"),
    (b"rsync", b"--server", b"--daemon", b"."),
    (b"rsync", b"--server", b"-lre.iLs", b".", b"/etc"),
    (b"rsync", b"--server", b"-slre.iLs", b".", b"/etc"),
    (b"rsync", b"--server", b"-slre.iLs", b"--log-file=/tmp/x"),
    (b"rsync", b"--server", b"-slKre.iLs"),
    (b"rsync", b"--server", b"--sender", b"-slLre.iLs"),
    (b"rsync", b"--server", b"--sender", b"-slre/bin/sh"),
    (b"rsync", b"--server", b"-slre.iLs\0--rsh=id"),
    (b"rsync", b"--server", b"-s" + b"l" * 100_000),
    (b"rsync;id", b"--server", b"-slre.iLs"),
    (b"psync-server", b"relay"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: repr(b" ".join(command)[:40]))
async def test_other_commands(served: Home, command: tuple[bytes, ...]) -> None:
    async with served.client() as client:
        mirror = await project(client)
        before = seen(served)
        channel = Channel(client)
        refused = await channel.refusal_of(command, args(".", f"{mirror}/tree/"))
        assert refused.code == "refused"
        assert len(refused.message) < 500
        assert not channel.out
        assert servers(served) == []
        assert seen(served) == before
        assert not client.closed


OPTIONS = [
    *("--log-file=/tmp/psync-evil", "--log-file /tmp/psync-evil", "--temp-dir=/tmp", "-T /tmp"),
    *("--backup-dir=/tmp", "--backup-dir /tmp", "--partial-dir=/tmp", "--partial-dir ../../x"),
    *("--compare-dest=/etc", "--copy-dest=/etc", "--link-dest=/etc", "--link-dest /etc"),
    *("-e id", "--rsh=id", "--rsh id", "--rsync-path=id", "--files-from=/etc/passwd"),
    *("--files-from /etc/passwd", "--files-from=-", "--exclude-from=/etc/passwd", "--daemon"),
    *("--filter=merge_/etc/passwd", "--config=/etc/passwd", "--password-file=/etc/passwd"),
    *("--early-input=/etc/passwd", "--write-batch=x", "--read-batch=/etc/passwd", "--fake-super"),
    *("--remove-source-files", "--copy-links", "--copy-unsafe-links", "--copy-devices", "-L"),
    *("--keep-dirlinks", "-K", "--write-devices", "--inplace", "--append", "--devices", "-D"),
    *("--no-safe-links", "--super", "--owner", "--chown=root", "--chmod=u+s", "--iconv=x"),
    *("--delete", "--delete-excluded", "--max-delete=9", "--force", "--sender", "--server"),
    *("--log-format=%o", "--out-format=%n", "--debug=ALL", "--stderr=all", "--", "-", "x"),
]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("command", [TAKES, GIVES], ids=["takes", "gives"])
async def test_other_options(served: Home, option: str, command: tuple[bytes, ...]) -> None:
    async with served.client() as client:
        mirror = await project(client)
        before = seen(served)
        (mirror / "tree/x").write_bytes(b"x")
        where = f"{mirror}/tree/" if command == TAKES else f"{mirror}/tree/./x"
        for words in (option.split(), ["--safe-links", *option.split()]):
            channel = Channel(client)
            refused = await channel.refusal_of(command, args(*words, ".", where))
            assert refused.code == "refused"
        (mirror / "tree/x").unlink()
        assert seen(served) == before
        assert not Path("/tmp/psync-evil").exists()


PATHS = [
    *("", ".", "..", "/", "/etc/", "/etc/passwd", "~", "tree/", "{root}", "{root}/", "{mirror}"),
    *("{mirror}/", "{mirror}/project.json", "{mirror}/tree", "{mirror}/trees/", "{mirror}/tree/.."),
    *("{mirror}/tree/../", "{mirror}/tree/../outside/", "{mirror}/../mine/tree/"),
    *("{mirror}//tree/", "{mirror}/./tree/", "{root}/../projects/mine/tree/", "{root}//mine/tree/"),
    *("{root}/./mine/tree/", "{mirror}/tree/a/../../../x", "{mirror}/tree/\\\\../x/.."),
    *("{root}/mi*/tree/", "{root}/MINE/tree/"),
    *("{mirror}\n/tree/", " {mirror}/tree/", "{mirror}/tree/\0/etc/passwd", "--rsh=id", "-e"),
    "{mirror}/tree/" + "a/" * 2500,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:40]))
@pytest.mark.parametrize("command", [TAKES, GIVES], ids=["takes", "gives"])
async def test_other_paths(served: Home, path: str, command: tuple[bytes, ...]) -> None:
    async with served.client() as client:
        mirror = await project(client)
        before = seen(served)
        channel = Channel(client)
        place = path.format(mirror=mirror, root=mirror.parent)
        refused = await channel.refusal_of(command, args(".", place))
        assert refused.code == "refused"
        assert seen(served) == before
        assert servers(served) == []


async def test_arguments_of_any_bytes(served: Home) -> None:
    chance = random.Random(7)
    pieces = [b"rsync", b"\0", b"\0\0", b".", b"/", b"-", b"tree/", b"..", b"--", b"\xff", b"\n"]
    async with served.client() as client:
        mirror = bytes(await project(client))
        before = seen(served)
        for _ in range(500):
            words = chance.choices([*pieces, mirror, mirror + b"/tree/"], k=chance.randrange(12))
            channel = await attempt(client, chance.choice([TAKES, GIVES]), b"".join(words))
            assert channel.refused is not None or channel.ended
        assert seen(served) == before
        await asyncio.to_thread(gone, served)
    assert "Traceback" not in served.log


async def test_another_clients_project(served: Home) -> None:
    async with served.client() as client, served.client("thief") as thief:
        mirror = await project(client)
        (mirror / "tree/x").write_bytes(SECRET)
        for command, path in ((TAKES, "tree/"), (GIVES, "tree/./x"), (GIVES, "tree/./")):
            refused = await Channel(thief).refusal_of(command, args(".", f"{mirror}/{path}"))
            assert "belongs to another client" in refused.message
        (mirror / "tree/x").unlink()


# -- links ------------------------------------------------------------------------------------


async def test_nothing_is_written_through_links(served: Home, victim: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "door/deep").mkdir(parents=True)
    for name in ("door/secret", "door/deep/secret", "door/new", "file", "part"):
        (source / name).write_bytes(b"evil\n" * 1000)
    async with served.client() as client, Shell(client) as shell:
        tree = await project(client, "doors") / "tree"
        for options in ((), ("-R",), ("--delay-updates",), ("-S",), ("-c", "-I"), ("-O", "-W")):
            (tree / "door").symlink_to(victim)
            (tree / "file").symlink_to(victim / "secret")
            (tree / ".psync-partial").symlink_to(victim / "deep")
            (tree / "part").mkdir()
            (tree / "part/.psync-partial").symlink_to(victim)
            await shell.rsync(*PUSH, *options, f"{source}/./", f"there:{tree}/")
            assert untouched(victim)
            shutil.rmtree(tree)
            tree.mkdir()
    assert "Traceback" not in served.log


async def test_nothing_is_read_through_links(served: Home, victim: Path, tmp_path: Path) -> None:
    async with served.client() as client, Shell(client) as shell:
        tree = await project(client, "windows") / "tree"
        (tree / "door").symlink_to(victim)
        (tree / "up").symlink_to("../../../..")
        (tree / "file").symlink_to(victim / "secret")
        (tree / "inner").symlink_to("door")
        for name in ("door/", "door/.", "door/secret", "inner/secret", "up/", "./door/secret"):
            options = ("-R",) if name.startswith("./") else ()
            done = await shell.rsync("-rpt", *options, f"there:{tree}/{name}", f"{tmp_path}/loot/")
            assert done.status != 0, name
            refused = shell.channels[-1].refused
            assert refused is not None
            assert "through a link" in refused.message
        # all of the tree: links come as links, or not at all
        for flags in ("-rlpt", "-rpt", "-rptR", "-rptc"):
            await shell.rsync(flags, f"there:{tree}/./", f"{tmp_path}/loot/")
            done = await shell.rsync("--list-only", flags, f"there:{tree}/./")
            assert b"secret" not in done.out.replace(bytes(victim / "secret"), b"")
        found = [path for path in (tmp_path / "loot").rglob("*") if not path.is_symlink()]
        assert found == []


def confined() -> bool:
    """Whether this kernel holds an rsync back that goes through a link."""
    words = [sys.executable, "-c", CONFINED, "/", "/bin/sh", "true"]
    return subprocess.run(words, timeout=30).returncode == 0


@pytest.mark.parametrize("path", ["door/", "door/secret", "./door/deep/secret", "door/deep/"])
async def test_a_link_that_comes_between_look_and_leap(
    served: Home, victim: Path, tmp_path: Path, path: str
) -> None:
    """rsync was let start, and then there is a link: the kernel stands in between."""
    if not confined():
        pytest.skip("this kernel has no Landlock")
    async with served.client() as client, Shell(client, holds=True) as shell:
        tree = await project(client, "race") / "tree"
        shutil.rmtree(tree)
        (tree / "door/deep").mkdir(parents=True)
        for name in ("door/secret", "door/deep/secret"):
            (tree / name).write_bytes(b"harmless")
        options = ("-R",) if path.startswith("./") else ()
        pull = asyncio.create_task(
            shell.rsync("-rpt", *options, f"there:{tree}/{path}", f"{tmp_path}/loot/")
        )
        await client.wait(lambda: shell.channels and shell.channels[0].received)
        (tree / "door").rename(tree / "moved")
        (tree / "door").symlink_to(victim)
        shell.channels[0].go()
        assert (await pull).status != 0
        found = [path for path in (tmp_path / "loot").rglob("*") if path.is_file()]
        assert found == []


# -- too much ---------------------------------------------------------------------------------


async def test_thousands_of_transfers(served: Home) -> None:
    assert served.daemon is not None
    async with served.client("thief") as thief:
        mirror = await project(thief, "many")
        channels = [Channel(thief) for _ in range(4000)]
        for channel in channels:
            channel.open(TAKES, args(".", f"{mirror}/tree/"))
        await thief.wait(
            lambda: all(channel.over for channel in channels[MOST_OF_CONNECTION:]) or thief.closed
        )
        assert len(servers(served)) <= 2 * MOST_OF_CONNECTION  # a transfer may have two processes
        assert sum(channel.refused is not None for channel in channels) == 4000 - MOST_OF_CONNECTION
        async with served.client() as client:
            assert (await client.start("true").ended()).status.code == 0
        for channel in channels:
            channel.cancel()
        await thief.wait(lambda: all(channel.over for channel in channels))
        assert servers(served) == []
    assert "Traceback" not in served.log


async def test_opening_and_cancelling_as_fast_as_it_goes(served: Home) -> None:
    async with served.client("thief") as thief:
        mirror = await project(thief, "many")
        for _ in range(30):
            channels = [Channel(thief) for _ in range(MOST_OF_CONNECTION)]
            for channel in channels:
                channel.open(TAKES, args(".", f"{mirror}/tree/"))
                channel.cancel()
            for channel in channels:
                await channel.status()
            assert all(channel.ended for channel in channels)
        assert servers(served) == []
    assert "Traceback" not in served.log


async def test_channels_that_are_none(served: Home) -> None:
    async with connected(served) as client:
        for channel in (1, 7, 65535):
            for message in (
                m.Data(channel, Stream.STDIN, 0, b"x" * 1000),
                m.Data(channel, Stream.STDIN, 1 << 63, b"x"),
                m.Ack(channel, 1 << 63),
                m.StdinEnd(channel, 9),
                m.CancelTransfer(channel=channel),
            ):
                client.send(encode(message))
        assert await client.survives(1) is None


@pytest.mark.parametrize("seed", range(6))
async def test_garbage_in_place_of_rsyncs_protocol(served: Home, seed: int) -> None:
    chance = random.Random(seed)
    async with served.client("thief") as thief:
        mirror = await project(thief, "garbage")
        before = seen(served)
        start = [b"", b"\x1f\0\0\0", b"\x20\0\0\0", b"\x20\0\0\0\x0cxxh128 xxh3\0"][seed % 4]
        for command, path in ((TAKES, "tree/"), (GIVES, "tree/./")):
            channel = Channel(thief)
            channel.open(command, args(".", f"{mirror}/{path}"))
            channel.send(start + chance.randbytes(MIB))
            channel.end()
            assert await channel.status() != 0
            assert len(channel.err) <= 64 * 1024
        assert seen(served) == before
        assert servers(served) == []
        assert not thief.closed


async def test_more_than_a_window(served: Home) -> None:
    """Whatever rsync makes of it, the daemon does not keep it."""
    assert served.daemon is not None
    before = peak_memory(served.daemon.pid)
    async with served.client("thief") as client:
        mirror = await project(client, "garbage")
    channels = range(1, MOST_OF_CONNECTION + 1)
    async with connected(served, "thief") as thief:
        for channel in channels:
            arguments = args(".", f"{mirror}/tree/")
            message = m.OpenTransfer(channel=channel, command=TAKES, arguments=arguments)
            thief.send(encode(message))
        try:
            for offset in range(0, 4 * m.WINDOW_TRANSFER, m.MAX_DATA):
                for channel in channels:
                    data = bytes(m.MAX_DATA)
                    thief.send(encode(m.Data(channel, Stream.STDIN, offset, data)))
                await thief.writer.drain()
        except OSError:
            pass  # the daemon has had enough
    await asyncio.to_thread(gone, served)
    assert peak_memory(served.daemon.pid) - before < ROOM
    async with served.client() as client:
        assert (await client.start("true").ended()).status.code == 0


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[Home]:
    """A daemon whose rsync never stops to write."""
    with Home() as home:
        directory = tmp_path / "bin"
        directory.mkdir()
        (directory / "rsync").write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exec {shutil.which("rsync")} "$@"\n'
            f"exec yes {'x' * 1000}\n"
        )
        (directory / "rsync").chmod(0o755)
        home.env["PATH"] = f"{directory}:{home.env['PATH']}"
        home.start()
        yield home


async def test_who_never_reads(flooded: Home) -> None:
    assert flooded.daemon is not None
    async with flooded.client("thief") as client:
        mirror = await project(client, "flood")
    before = peak_memory(flooded.daemon.pid)
    async with connected(flooded, "thief") as thief:
        for channel in range(1, MOST_OF_CONNECTION + 1):
            arguments = args(".", f"{mirror}/tree/")
            message = m.OpenTransfer(channel=channel, command=TAKES, arguments=arguments)
            thief.send(encode(message))
        await asyncio.to_thread(wait_until, lambda: writers(flooded) == MOST_OF_CONNECTION)
        async with flooded.client() as client:
            for _ in range(20):
                assert (await client.start("true").ended()).status.code == 0
        thief.send(encode(m.Ack(1, 1 << 40)))
        assert isinstance(await drained(thief), m.Error)
        await asyncio.to_thread(wait_until, lambda: writers(flooded) == 0)
    assert peak_memory(flooded.daemon.pid) - before < ROOM


def writers(home: Home) -> int:
    """How many processes the daemon has that write without end."""
    assert home.daemon is not None
    children = Path(f"/proc/{home.daemon.pid}/task/{home.daemon.pid}/children").read_text().split()
    found = 0
    for pid in children:
        try:
            found += Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"yes\0")
        except OSError:
            pass  # it has just ended
    return found


async def drained(client: RawClient) -> m.Message | None:
    """Read what is there, up to the error that ends the connection."""
    sent: dict[int, int] = {}
    while not isinstance(message := await client.hear(), m.Error | None):
        client.said.clear()
        if isinstance(message, m.Data):
            assert message.offset == sent.get(message.channel, 0)
            sent[message.channel] = message.offset + len(message.data)
            assert sent[message.channel] <= m.WINDOW_TRANSFER
    return message


# -- cancelled --------------------------------------------------------------------------------


async def reached(shell: Shell, number: int, edge: int) -> None:
    """Wait until the transfer with this number has sent so much, or is over."""

    def is_there() -> bool:
        channels = shell.channels[number : number + 1]
        return any(channel.sent >= edge or channel.over for channel in channels)

    await shell.client.wait(is_there)


async def cancelled_at_random(home: Home, tmp_path: Path, times: int) -> None:
    chance = random.Random(times)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / f"file-{number}").write_bytes(chance.randbytes(2 * MIB))
    whole = {path.name: path.read_bytes() for path in source.iterdir()}
    async with home.client() as client, Shell(client) as shell:
        mirror = await project(client, f"random-{times}")
        for number in range(times):
            for path in source.iterdir():
                content = bytearray(whole[path.name])
                content[chance.randrange(len(content))] ^= 0xFF
                path.write_bytes(content)
            old = {path.name: path.read_bytes() for path in (mirror / "tree").glob("file*")}
            new = {path.name: path.read_bytes() for path in source.iterdir()}
            push = asyncio.create_task(
                shell.rsync(*PUSH, "-I", "-W", f"{source}/", f"there:{mirror}/tree/")
            )
            edge = chance.randrange(13 * MIB) if number % 4 else chance.randrange(2000)
            await reached(shell, number, edge)
            channel = shell.channels[number]
            if not channel.over:
                channel.cancel()
            await channel.status()
            assert servers(home) == []
            await push
            for path in (mirror / "tree").glob("file*"):
                assert path.read_bytes() in (old.get(path.name), new[path.name])
        done = await shell.rsync(*PUSH, "-I", f"{source}/", f"there:{mirror}/tree/")
        assert done.status == 0
        for path in source.iterdir():
            assert (mirror / "tree" / path.name).read_bytes() == path.read_bytes()
        assert not client.closed
    assert "Traceback" not in home.log


async def test_cancelled_at_random_bytes(served: Home, tmp_path: Path) -> None:
    await cancelled_at_random(served, tmp_path, 8)


@pytest.mark.long
async def test_cancelled_at_random_bytes_50_times(served: Home, tmp_path: Path) -> None:
    await cancelled_at_random(served, tmp_path, 50)
