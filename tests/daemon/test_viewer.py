"""Viewers of real runs: what each client sees, and what it cannot do to others."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.daemon import Home, python, shell
from tests.support.waiting import wait_until

from psync.daemon.pace import FIRST
from psync.daemon.viewer import SMALL_PIECE
from psync.errors import ProtocolError
from psync.protocol import messages as m
from psync.supervisor.log import LogReader, output_name

LOTS = 12 * 1024 * 1024


def lots(size: int = LOTS) -> tuple[str, ...]:
    """argv of a program that writes a pattern of that many bytes."""
    return python(
        f"import os\nfor i in range({size} // 65536): os.write(1, bytes([i % 251]) * 65536)"
    )


def pattern(size: int = LOTS) -> bytes:
    return b"".join(bytes([i % 251]) * 65536 for i in range(size // 65536))


async def test_output_comes_whole_and_the_ending_last(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*lots())
        ended = await run.ended()
        assert (ended.status.code, run.output) == (0, pattern())


async def test_a_window_is_never_exceeded_and_a_slow_viewer_only_slows_itself(
    shared: Home,
) -> None:
    async with shared.client() as slow, shared.client() as fast:
        eager = fast.start(*shell("read x; exec cat"))
        lazy = slow.attach(await eager.running(), acks=False)
        await lazy.running()
        eager.send(b"go\n")
        size = LOTS + 3
        data = bytes(range(256)) * (m.WINDOW_STDIN // 256)
        sent = 3
        while sent < size:
            piece = data[: min(m.MAX_DATA, size - sent)]
            end = sent + len(piece)
            await eager.takes(end)
            eager.send(piece, sent)
            sent += len(piece)
        fast.link.send(m.StdinEnd(eager.channel, sent))
        assert (await eager.ended()).end == LOTS == len(eager.output)
        await slow.wait(lambda: FIRST - SMALL_PIECE < lazy.end <= FIRST)
        assert not lazy.has(m.Exited)
        # it goes on as soon as the slow one has written out what it has
        lazy.resume()
        await lazy.ended()
        assert lazy.output == eager.output


async def test_what_a_slow_viewer_does_not_take_costs_the_daemon_no_memory(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    status = Path(f"/proc/{home.daemon.pid}/status")

    def resident() -> int:
        (line,) = (li for li in status.read_text().splitlines() if li.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    async with home.client() as client:
        first = client.start(*lots())
        await first.ended()  # what TLS and the log's reader need is there now
        watched = client.start(*shell("read x; head -c 200000000 /dev/zero"))
        run_id = await watched.running()
        for _ in range(8):
            await client.attach(run_id, acks=False).running()
        before = resident()
        watched.send(b"\n")
        await watched.ended()
        # eight windows, the sum of what they did not take is 1.6 GB
        assert resident() - before < 64 * 1024 * 1024


async def test_a_viewer_begins_where_it_says(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("echo 0123456789"))
        await run.ended()
        run_id = await run.running()
        for offset in (0, 4, 11):
            again = client.attach(run_id, offset)
            attached = await again.expect(m.Attached)
            assert attached.state == "exited"
            assert (await again.ended()).end == 11
            assert again.output == b"0123456789\n"[offset:]


async def test_an_offset_beyond_the_output_is_refused_and_the_run_goes_on(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("echo x; read y; echo $y"))
        await run.shows(b"x\n")
        refused = await client.attach(await run.running(), 3).refused()
        assert "ends at 2" in refused.message
        run.send(b"still here\n")
        await run.shows(b"still here\n")
        assert (await run.ended()).status.code == 0
        assert (await client.attach(await run.running(), 99).refused()).code == "refused"


async def test_acknowledging_what_never_came_ends_that_connection_only(shared: Home) -> None:
    async with shared.client() as bad, shared.client() as good:
        run = good.start(*shell("echo x; read y; echo $y"))
        await bad.attach(await run.running()).running()
        await run.shows(b"x\n")
        bad.link.send(m.Ack(1, 3))
        error = await bad.expect_closed()
        assert isinstance(error, ProtocolError)
        assert "only 2 sent" in error.message or "only 0 sent" in error.message
        run.send(b"still here\n")
        await run.shows(b"still here\n")
        assert (await run.ended()).status.code == 0


async def test_small_limits_of_a_peer_are_kept(shared: Home) -> None:
    from psync.protocol.connection import Side, client_hello

    hello = client_hello("small")
    small = m.Hello(
        versions=hello.versions, software="small", limits=m.Limits(data=1024, window=4096)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("psync.transport.connect.client_hello", lambda _software: small)
        async with shared.client() as client:
            assert client.link._side is Side.CLIENT
            run = client.start(*shell("head -c 100000 /dev/zero"))
            run.pause()
            await client.wait(lambda: run.end == 4096)
            assert max(map(len, run.pieces)) <= 1024
            run.resume()
            assert (await run.ended()).end == 100000


@pytest.mark.parametrize("cut", [True, False])
async def test_output_that_was_damaged_is_named_and_nobody_waits(home: Home, cut: bool) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("seq 1000"))
        await run.ended()
        run_id = await run.running()
        segment = home.run(run_id) / output_name(0)
        if cut:
            segment.write_bytes(segment.read_bytes()[:100])
        else:
            segment.unlink()
        refused = await client.attach(run_id).refused()
        assert "cannot be read" in refused.message
        assert (await client.start("true").ended()).status.code == 0
    assert "Traceback" not in home.log


async def test_a_record_that_promises_more_output_than_there_is(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("read x; echo done"))
        run_id = await run.running()
    home.leave()
    # the log ends earlier than the exit record says: nobody is to wait for the rest
    home.start()
    async with home.client() as client:
        run = client.attach(run_id)
        await run.running()
        run.send(b"\n")
        await run.ended()
    home.leave()
    directory = home.run(run_id)
    text = (directory / "exit.json").read_text()
    (directory / "exit.json").write_text(text.replace('"output_end": 5', '"output_end": 6'))
    home.start()
    async with home.client() as client:
        assert "no run" in (await client.attach(run_id).refused()).message
    assert f"run {run_id} is damaged" in home.log


async def test_dropped_output_is_announced(home: Home) -> None:
    """The log of a run keeps what its settings say; what was recycled is a gap for late comers."""
    home.directory.joinpath("there").mkdir(mode=0o700)
    (home.directory / "there/server.toml").write_text('log_keep = "1MiB"\nlog_limit = "16MiB"\n')
    home.start()
    async with home.client() as client:
        run = client.start(*lots(80 * 1024 * 1024))
        ended = await run.ended()
        reader = LogReader(str(home.run(await run.running())))
        oldest = reader.oldest
        reader.close()
        assert 0 < oldest < ended.end
        late = client.attach(await run.running())
        assert (await late.ended()).end == ended.end
        gap = await late.expect(m.Gap)
        assert (gap.start, gap.end) == (0, oldest)
        assert late.output == run.output[oldest:]


async def test_a_run_that_waits_for_a_slow_viewer_goes_on_when_it_leaves(home: Home) -> None:
    home.directory.joinpath("there").mkdir(mode=0o700)
    (home.directory / "there/server.toml").write_text('log_limit = "1B"\n')
    home.start()
    size = 24 * 1024 * 1024
    async with home.client() as slow, home.client() as fast:
        run = fast.start(*shell("read x; exec head -c 25165824 /dev/zero"))
        run_id = await run.running()
        await slow.attach(run_id, acks=False).running()
        run.send(b"\n")
        reader = LogReader(str(home.run(run_id)))
        await fast.wait(lambda: run.end == reader.end and run.end >= 4 * 1024 * 1024)
        reader.close()
        assert run.end < size
        slow.link.close()
        assert (await run.ended()).end == size
    wait_until(lambda: "left" in home.log)


# -- several viewers -------------------------------------------------------------------


def small_log(home: Home) -> None:
    """Have the daemon keep hardly any output that clients have."""
    home.directory.joinpath("there").mkdir(mode=0o700)
    (home.directory / "there/server.toml").write_text('log_limit = "4MiB"\nlog_keep = "0B"\n')


async def test_nobody_waits_for_a_client_that_only_looks_and_it_is_told_what_it_missed(
    home: Home,
) -> None:
    small_log(home)
    home.start()
    size = 24 * 1024 * 1024
    async with home.client() as client, home.client("laptop") as laptop:
        run = client.start(*shell(f"read x; exec head -c {size} /dev/zero"))
        slow = laptop.attach(await run.running(), acks=False, read_only=True)
        await slow.running()
        run.send(b"\n")
        assert (await run.ended()).end == size
        before = slow.end
        assert 0 < before <= FIRST
        slow.resume()
        assert (await slow.ended()).end == size
        gap = await slow.expect(m.Gap)
        assert (gap.start, len(slow.output)) == (before, size - (gap.end - gap.start))


async def test_a_gap_leaves_what_is_on_its_way_counted(home: Home) -> None:
    """A client refuses more than its window, whatever lies between the pieces."""
    small_log(home)
    home.start()
    async with home.client() as client, home.client("laptop") as laptop:
        run = client.start(*shell("for i in 1 2 3 4 5; do read x; head -c 8388608 /dev/zero; done"))
        slow = laptop.attach(await run.running(), acks=False, read_only=True)
        for part in range(1, 6):
            run.send(b"\n", part - 1)
            await run.comes_to(part * 8388608)
            await laptop.wait(lambda: slow.pieces)
            # a piece is acknowledged, so that one more is sent, behind what is gone by now
            laptop.link.send(m.Ack(slow.channel, part * 65536))
            assert sum(map(len, slow.pieces)) - part * 65536 <= m.WINDOW_OUTPUT
        slow.resume()
        ended = await slow.ended()
        assert ended.end == run.end
        assert sum(map(len, slow.pieces)) < run.end


async def test_clients_are_told_when_output_was_written(shared: Home) -> None:
    began = time.time_ns()
    async with shared.client() as client:
        run = client.start(*shell("echo one; read x; echo two >&2; read x; echo three"))
        await run.shows(b"one\n")
        run.send(b"\n")
        await run.shows(b"two\n")
        run.send(b"\n", 1)
        await run.ended()
        assert not run.has(m.Times)
        run_id = await run.running()
        late = client.attach(run_id, read_only=True, times=True)
        assert (await late.expect(m.Attached)).end == 14
        await late.ended()
        stamps = [pair for said in late.said if isinstance(said, m.Times) for pair in said.stamps]
        reader = LogReader(str(shared.run(run_id)), times=True)
        expected, offset = [], 0
        while offset < 14:
            size = len(reader.read(offset)[1])
            expected.append((offset, reader.stamp))
            offset += size
        reader.close()
        assert stamps == expected
        assert [offset for offset, _ in stamps[:2]] == [0, 4]
        assert began <= stamps[0][1] <= stamps[-1][1] <= time.time_ns()
        # it says so from wherever a client begins
        tail = client.attach(run_id, 6, read_only=True, times=True)
        await tail.ended()
        assert (await tail.expect(m.Times)).stamps[0] == (6, stamps[1][1])


async def test_times_come_before_the_output_they_belong_to(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("for i in 1 2 3 4 5; do echo $i; read x; done"))
        live = client.attach(await run.running(), read_only=True, times=True)
        known: list[int] = []
        for number in range(1, 6):
            await live.shows(b"%d\n" % number)
            known = [s[0] for said in live.said if isinstance(said, m.Times) for s in said.stamps]
            assert known[0] == 0
            assert known[-1] < live.end
            run.send(b"\n", number - 1)
        await live.ended()
        assert known == sorted(set(known))


async def test_a_viewer_with_a_new_connection_holds_nobody_up_on_the_old_one(home: Home) -> None:
    """Half a minute passes before a dead connection is noticed; the run is not to wait for it."""
    small_log(home)
    home.start()
    size = 24 * 1024 * 1024
    request = "r" * 16
    async with home.client() as old, home.client() as new:
        run = old.start(*shell(f"read x; exec head -c {size} /dev/zero"), request=request)
        run_id = await run.running()
        run.pause()
        again = new.attach(run_id, viewer=request)
        await again.running()
        again.send(b"\n")
        assert (await again.ended()).end == size


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_hundred_viewers_of_a_flood_cost_little_and_hold_nobody_up(home: Home) -> None:
    small_log(home)
    home.start()
    assert home.daemon is not None
    pid = home.daemon.pid
    size = 64 * 1024 * 1024
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(home.client())
        watched = client.start(*shell("read x; exec cat"))
        run_id = await watched.running()
        guests = [await stack.enter_async_context(home.client("laptop")) for _ in range(50)]
        looking = [
            guest.attach(run_id, acks=bool(number), read_only=True, keeps=False)
            for number, guest in enumerate(guests + guests)
        ]
        for attachment in looking:
            await attachment.running()
        before = anonymous(pid)
        watched.send(b"\n")
        block, sent = os.urandom(m.MAX_DATA), 1
        while sent < size:
            await watched.takes(sent + len(block))
            watched.send(block, sent)
            sent += len(block)
        await watched.takes(sent)
        assert anonymous(pid) - before < 64 * 1024 * 1024
        client.link.send(m.StdinEnd(watched.channel, sent))
        assert (await watched.ended()).end == sent - 1
        assert watched.output == block * ((sent - 1) // len(block))
        for attachment in looking[1:]:
            ended = await attachment.ended()
            assert attachment.received + attachment.missed == ended.end == sent - 1
        silent = looking[0]
        assert silent.received <= FIRST
        silent.resume()
        assert (await silent.ended()).end == sent - 1


def anonymous(pid: int) -> int:
    """Bytes of memory that are a process's own; pages of files belong to the system."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
