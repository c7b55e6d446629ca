"""The daemon's life: its start, its signals, its end."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from tests.support.daemon import Home, shell
from tests.support.waiting import alive, wait_until

from psync.daemon.listening import read_presence
from psync.daemon.pace import FIRST
from psync.daemon.viewer import SMALL_PIECE
from psync.errors import ConnectionLost

WAIT = "echo on; while :; do sleep 0.05; done"


async def test_ctrl_c_stops_the_runs_tells_the_clients_and_leaves(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    async with home.client() as client:
        polite = client.start(*shell(f"trap 'echo bye; exit 3' INT; {WAIT}"))
        plain = client.start(*shell("echo on; exec sleep 1000"))
        large = client.start(*shell(f"trap 'head -c 3000000 /dev/zero; exit 4' INT; {WAIT}"))
        for run in (polite, plain, large):
            await run.shows(b"on\n")
        home.send_signal(signal.SIGINT)
        assert ((await polite.ended()).status.code, polite.output) == (3, b"on\nbye\n")
        assert (await plain.ended()).status.signal == "SIGINT"
        ended = await large.ended()
        assert (ended.status.code, ended.end) == (4, 3 + 3_000_000)
        assert isinstance(await client.expect_closed(), ConnectionLost)
    assert home.daemon.wait(20) == 0
    assert "Traceback" not in home.log


async def test_a_second_ctrl_c_kills(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    async with home.client() as client:
        run = client.start(*shell("trap '' INT TERM HUP; setsid sleep 1000 & echo on; cat; wait"))
        await run.shows(b"on\n")
        home.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again kills them" in home.log)
        refused = await client.start("true").refused()
        assert "being stopped" in refused.message
        home.send_signal(signal.SIGINT)
        assert (await run.ended()).status.signal == "SIGKILL"
    assert home.daemon.wait(20) == 0


async def test_ctrl_c_does_not_wait_for_ever_for_a_client(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    async with home.client() as client:
        run = client.start(*shell("echo on; exec head -c 6000000 /dev/zero"))
        run.pause()
        await client.wait(lambda: run.end > FIRST - SMALL_PIECE)
        home.send_signal(signal.SIGINT)
        await client.expect_closed()
    assert home.daemon.wait(20) == 0
    assert "too slow" in home.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_daemon_with_nothing_to_do_leaves_nothing(home: Home, number: int) -> None:
    home.start()
    assert home.daemon is not None
    text = Path(f"/proc/{home.daemon.pid}/task/{home.daemon.pid}/children").read_text()
    assert home.leave(number) == 0
    assert not any(alive(int(child)) for child in text.split())


def test_a_second_daemon_says_so(home: Home) -> None:
    presence = home.start()
    done = home.server("serve")
    assert (done.returncode, done.stdout) == (125, b"")
    (line,) = done.stderr.decode().splitlines()
    assert f"running already (process {presence.pid})" in line
    assert home.daemon is not None
    assert home.daemon.poll() is None


def test_a_port_in_use_is_named_and_nothing_is_left(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        done = home.server("serve", "--listen", f"127.0.0.1:{port}")
        assert done.returncode == 125
        (line,) = done.stderr.decode().splitlines()
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert read_presence(home.paths.record) is None
    assert home.server("status").returncode == 1
    home.start()  # the lock is free


@pytest.mark.parametrize("name", ["a..b", "no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours(home: Home, name: str) -> None:
    done = home.server("serve", "--listen", f"{name}:7000")
    assert done.returncode in (2, 125)
    (line,) = done.stderr.decode().splitlines()
    assert name in line


async def test_it_listens_on_ipv6(home: Home) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    presence = home.start("--listen", "[::1]:0", "--listen", "127.0.0.1:0")
    assert presence.listen[0] == f"[::1]:{presence.port}"
    async with home.client() as client:
        assert (await client.start("true").ended()).status.code == 0


async def test_the_port_is_remembered_unless_somebody_has_it(home: Home) -> None:
    first = home.start().port
    home.leave()
    assert home.start().port == first
    home.leave(signal.SIGKILL)
    assert home.start().port == first
    home.leave()
    with socket.create_server(("127.0.0.1", first)):
        other = home.start().port
        assert other != first
        async with home.client() as client:
            assert (await client.start("true").ended()).status.code == 0
        home.leave()
    assert home.start().port == other


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b'{"pid": "\xff"}', b"[" * 100_000, b"null"])
def test_a_damaged_note_about_the_last_daemon(home: Home, text: bytes) -> None:
    os.makedirs(home.paths.state, 0o700)
    Path(home.paths.record).write_bytes(text)
    home.start()


def test_a_disk_that_cannot_be_written_is_told(home: Home) -> None:
    os.makedirs(home.paths.lock, 0o700)
    done = home.server("serve")
    assert done.returncode == 125
    (line,) = done.stderr.decode().splitlines()
    assert "daemon.lock" in line
    assert home.server("start").returncode == 125
    os.rmdir(home.paths.lock)


async def test_descriptors_that_run_out_cost_nobody_a_run(home: Home) -> None:
    """Refusals are typed, and runs that go on are neither lost nor forgotten."""
    import resource

    home.start()
    assert home.daemon is not None
    pid = home.daemon.pid
    async with home.client() as client:
        run = client.start(*shell("echo on; read x; echo $x; exit 6"))
        await run.shows(b"on\n")
        used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        refused = await client.start("true").refused()
        assert "Too many open files" in refused.message
        refused = await client.attach(await run.running()).refused()
        assert "Too many open files" in refused.message
        run.send(b"off\n")
        await run.shows(b"off\n")
        wait_until((home.run(await run.running()) / "exit.json").exists)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert (await run.ended()).status.code == 6
        assert (await client.start("true").ended()).status.code == 0
    assert "is lost" not in home.log


async def test_the_daemon_takes_all_descriptors_it_may_and_programs_get_the_usual_number(
    home: Home,
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        home.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert home.daemon is not None
    assert resource.prlimit(home.daemon.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    async with home.client() as client:
        run = client.start(*shell("ulimit -Sn; ulimit -Hn"))
        await run.ended()
        assert run.output.split() == [b"200", b"unlimited" if hard < 0 else b"%d" % hard]
