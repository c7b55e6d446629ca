"""Client, daemon and connection go away in the middle of a sync, or right after it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
from tests.faults.places import MIB, TRANSPORTS, Place, signal_all
from tests.faults.proxy import Proxy
from tests.faults.world import seed_of
from tests.support.field import Field
from tests.support.waiting import wait_until

CHECK = "for file in d*/f*; do head -n 1 $file; done | sort -u\n"
"""Prints one line for each version that lies there."""

FILES = [f"d{number % 5}/f{number}" for number in range(20)]


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    with Field() as field:
        field.pair()
        yield field


@pytest.fixture(params=TRANSPORTS)
def place(request: pytest.FixtureRequest, field: Field) -> Iterator[Place]:
    place = Place(field, request.param)
    yield place
    place.close()


@pytest.fixture
def far(field: Field) -> Iterator[Place]:
    """For what the daemon alone decides."""
    place = Place(field, "websocket")
    yield place
    place.close()


def write(place: Place, version: int, size: int = 30_000) -> None:
    place.script(CHECK)
    for name in FILES:
        place.file(name, b"%d\n" % version + os.urandom(size))


def restart(place: Place) -> None:
    assert place.field.server("start", home=place.home).returncode == 0


def test_a_client_that_is_killed_in_the_middle(place: Place) -> None:
    write(place, 1)
    assert place.good("run", "./x") == b"1\n"
    write(place, 2, MIB)
    process = place.start("sync")
    pids = place.freeze()
    process.kill()
    process.wait(20)
    signal_all(pids, signal.SIGCONT)
    place.all_gone()  # nobody is left who could write there
    assert "psync sync" in place.complaint("run", "--no-sync", "./x")
    assert place.good("run", "./x") == b"2\n"
    assert place.mirrored() == place.sent()


def test_a_daemon_that_is_killed_in_the_middle(place: Place) -> None:
    write(place, 1)
    assert place.good("run", "./x") == b"1\n"
    write(place, 2, MIB)
    process = place.start("sync")
    pids = place.freeze()
    place.field.kill_daemon(home=place.home)
    signal_all(pids, signal.SIGCONT)
    _, said = process.communicate(timeout=50)
    place.all_gone()
    assert process.returncode in (0, 125), said
    if place.field.daemon(place.home) is None:
        restart(place)
    done = place.psync("run", "--no-sync", "./x")
    if process.returncode == 0:
        assert (done.returncode, done.stdout) == (0, b"2\n")
    else:
        assert said.startswith(b"psync: ")
        assert done.returncode == 125
        assert b"psync sync" in done.stderr
    assert place.good("run", "./x") == b"2\n"
    assert place.mirrored() == place.sent()


@pytest.mark.parametrize("disk", ["old", "none"])
def test_a_daemon_that_is_killed_before_it_wrote_its_note(far: Place, disk: str) -> None:
    """Then there is an older one or none, and what others did to the mirror must not pass."""
    far.file("a", b"one")
    far.file("b", b"one")
    far.good("sync")
    note = far.mirror / "note"
    wait_until(note.exists)
    kept = far.field.directory / "note"
    shutil.copy(note, kept)
    far.file("a", b"two")
    far.good("sync")
    far.field.kill_daemon(home=far.home)
    note.unlink(missing_ok=True)
    if disk == "old":
        shutil.copy(kept, note)
    restart(far)
    (far.tree / "b").write_bytes(b"bad")
    far.check()
    far.file("b", b"three")
    far.check()
    (far.root / "a").unlink()
    far.check()
    far.check()


def test_killing_the_daemon_right_after_a_sync(far: Place) -> None:
    for version in range(3):
        write(far, version, 1000)
        far.good("sync")
        far.field.kill_daemon(home=far.home)
        restart(far)
        (far.tree / FILES[version]).write_bytes(b"touched by somebody else\n")
        (far.tree / FILES[version + 5]).unlink()
        assert far.good("run", "./x") == b"%d\n" % version
        assert far.mirrored() == far.sent()


def test_times_that_no_clock_has(far: Place) -> None:
    """From a clock that was wrong, or is now: what counts is that they differ."""
    place = far
    second = 10**9
    now = time.time_ns()
    path = place.file("a", b"0")
    contents = [b"%d" % number for number in range(1, 6)]
    times = [now + 10**17, now - 10**17, 0, second // 2, 2**31 * second]
    for content, at in zip(contents, times, strict=True):
        path.write_bytes(content)
        os.utime(path, ns=(at, at))
        place.check()
        assert place.mirrored()[b"a"] == content
        assert (place.tree / "a").stat().st_mtime_ns == at
        path.write_bytes(content.swapcase() + b"!")
        os.utime(path, ns=(at, at))
        place.check()
    path.write_bytes(b"same size!")
    os.utime(path, ns=(now, now))
    place.check()
    path.write_bytes(b"other one!")
    os.utime(path, ns=(now, now))  # and the same time
    place.check()


# -- the connection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rounds", [3, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)
async def test_a_connection_that_is_cut_at_random_bytes(field: Field, rounds: int) -> None:
    chosen = seed_of("cuts of a sync")
    place = Place(field, "websocket")
    write(place, 0)
    assert place.good("run", "./x") == b"0\n"
    known = field.daemon()
    assert known is not None
    config = field.config.read_text()
    ends = {0: 0, 125: 0}
    cuts = 0
    try:
        async with Proxy(known["port"]) as proxy:
            lines = ("", f'address = "127.0.0.1:{proxy.port}"', 'connect = "direct"', "")
            field.config.write_text(config + "\n".join(lines))
            for version in range(1, rounds + 1):
                write(place, version, 100_000)
                plan = planned(chosen) if version > 1 else [chosen.randrange(1, MIB)]
                (proxy.cut_after_sent if version % 3 else proxy.cut_after)(*plan)
                process = place.start("sync")
                _, said = await asyncio.to_thread(process.communicate, timeout=50)
                proxy.cut_after_sent()
                proxy.cut_after()
                assert process.returncode in ends, said
                ends[process.returncode] += 1
                await asyncio.to_thread(place.all_gone)
                done = await asyncio.to_thread(place.psync, "run", "--no-sync", "./x")
                if process.returncode == 0:
                    assert (done.returncode, done.stdout) == (0, b"%d\n" % version)
                else:
                    assert re.fullmatch(rb"psync: .*; .*\n", said.splitlines(True)[-1]), said
                    if done.returncode:
                        assert b"psync sync" in done.stderr
                    else:
                        assert done.stdout in (b"%d\n" % (version - 1), b"%d\n" % version)
                await asyncio.to_thread(place.check)
            cuts = proxy.cuts
    finally:
        field.config.write_text(config)
    print(f"{cuts} cuts, syncs ended so: {ends}")
    assert cuts
    place.close()


def planned(chosen: random.Random) -> list[int]:
    """After how many bytes to cut: soon or in the midst of files, once or several times."""
    count = chosen.choice([1, 1, 2, 6])
    return [chosen.choice([chosen.randrange(1, 8000), chosen.randrange(1, 2 * MIB)])] + [
        chosen.randrange(1, 300_000) for _ in range(count - 1)
    ]
