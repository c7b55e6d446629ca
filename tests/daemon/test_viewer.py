"""Viewers of real runs: what each client sees, and what it cannot do to others."""

from __future__ import annotations

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
        lazy._acks = True
        slow.link.send(m.Ack(lazy.channel, lazy.end))
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
            run._acks = False
            await client.wait(lambda: run.end == 4096)
            assert max(map(len, run.pieces)) <= 1024
            run._acks = True
            client.link.send(m.Ack(run.channel, run.end))
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
