"""What one client may ask, what it is refused, and that its breaches are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.daemon import Client, Home, shell, spec
from tests.support.waiting import wait_until

from psync.daemon.clients import MAX_CHANNELS
from psync.errors import NotPaired
from psync.model import Stream
from psync.protocol import messages as m


async def project(client: Client, name: str = "game-1", source: bytes = b"/src") -> m.Message:
    return await client.ask(m.OpenProject(request=5, project=name, source=source, host="desk"))


async def test_a_run_nobody_knows(shared: Home) -> None:
    async with shared.client() as client:
        refused = await client.attach("0123456789").refused()
        assert (refused.code, refused.message) == (
            "refused",
            "there is no run 0123456789 on this daemon",
        )


async def test_a_channel_that_is_in_use(shared: Home) -> None:
    async with shared.client() as good, shared.client() as bad:
        run = good.start(*shell("read x; exit 5"))
        run_id = await run.running()
        await bad.attach(run_id).running()
        bad.link.send(m.Attach(channel=1, run=run_id, offset=0))
        error = await bad.expect_closed()
        assert error is not None
        assert (error.code, error.message) == ("protocol", "channel 1 is in use")
        run.send(b"\n")
        assert (await run.ended()).status.code == 5


async def test_messages_for_a_channel_that_is_gone_are_ignored(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start("true")
        await run.ended()
        for channel in (run.channel, 77):
            for message in (
                m.Data(channel, Stream.STDIN, 0, b"x"),
                m.Data(channel, Stream.STDIN, 1 << 40, b"x"),
                m.Ack(channel, 1 << 40),
                m.StdinEnd(channel, 9),
                m.Signal(channel=channel, name="SIGNONSENSE"),
                m.Stop(channel=channel, kill=True),
                m.CloseOutput(channel=channel, stream=Stream.STDOUT),
                m.Detach(channel=channel),
            ):
                client.link.send(message)
        assert (await client.start("true").ended()).status.code == 0


async def test_a_channel_is_free_again_after_its_ending(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("echo x"))
        await run.ended()
        run.end, run.pieces, run.said = 0, [], []
        client.link.send(m.Attach(channel=run.channel, run="nonsense", offset=0))
        assert "no run" in (await run.refused()).message


async def test_attachments_of_one_connection_are_limited(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("read x"))
        run_id = await run.running()
        for _ in range(MAX_CHANNELS - 1):
            last = client.attach(run_id)
        await last.running()
        assert str(MAX_CHANNELS) in (await client.attach(run_id).refused()).message
        client.link.send(m.Detach(channel=last.channel))
        assert await client.attach(run_id).running() == run_id
        run.send(b"\n")
        assert (await run.ended()).status.code == 0


async def test_signals_by_name(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("trap 'echo usr1' USR1; echo on; while :; do sleep 0.05; done"))
        await run.shows(b"on\n")
        client.link.send(m.Signal(channel=run.channel, name="SIGUSR1"))
        await run.shows(b"usr1\n")
        client.link.send(m.Signal(channel=run.channel, name="SIGRTMIN+3"))
        assert (await run.ended()).status.signal == "SIGRTMIN+3"


@pytest.mark.parametrize("name", ["SIGNONE", "SIGRTMIN+99", "SIGINT+1", "SIG++", "SIGRTMIN+X"])
async def test_a_signal_there_is_not_is_ignored(shared: Home, name: str) -> None:
    async with shared.client() as client:
        run = client.start(*shell("read x; exit 3"))
        await run.running()
        client.link.send(m.Signal(channel=run.channel, name=name))
        run.send(b"\n")
        assert (await run.ended()).status.code == 3
    assert f"there is no signal {name}" in shared.log


async def test_a_stream_nobody_reads_any_more(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("echo on; read x; exec yes"))
        await run.shows(b"on\n")
        client.link.send(m.CloseOutput(channel=run.channel, stream=Stream.STDOUT))
        run.send(b"\n")
        assert (await run.ended()).status.signal == "SIGPIPE"


# -- projects --------------------------------------------------------------------------


async def test_programs_and_working_directories_stay_in_the_mirror(shared: Home) -> None:
    async with shared.client() as client:
        opened = await project(client, "tricks")
        assert isinstance(opened, m.ProjectOpened)
        directory = Path(os.fsdecode(opened.path))
        (directory / "tree/sh").symlink_to("/bin/sh")
        (directory / "tree/bin").symlink_to("/bin")
        (directory / "tree/dangling").symlink_to("/tmp/there-is-nothing")
        for path in (
            b"/bin/sh",
            b"tree/../../../../../../../bin/sh",
            b"../tricks/tree/sh",
            b"tree/bin/sh",
            b"tree/dangling/x",
            b"project.json",
            b"",
            b"tree/sh\0",
        ):
            for what in (
                spec("x", project="tricks", program=path),
                spec("x", project="tricks", cwd=path),
                spec("x", project="tricks", library_path=(b"tree", path)),
            ):
                refused = await client.start_spec(what).refused()
                assert refused.code == "refused", path
                assert "mirror" in refused.message
        for path in (b"tree/bin", b"tree/dangling"):
            assert "link" in (await client.start("x", project="tricks", cwd=path).refused()).message
        assert not Path("/tmp/there-is-nothing").exists()
        # a link to a program, as in a virtual environment, is the client's business
        run = client.start("sh", "-c", "pwd", project="tricks", program=b"tree/sh", cwd=b"tree/a/b")
        assert (await run.ended()).status.code == 0
        assert run.output == os.fsencode(directory / "tree/a/b") + b"\n"
        command = ("sh", "-c", "echo $LD_LIBRARY_PATH")
        run = client.start(*command, project="tricks", library_path=(b"tree/a", b"outside/x"))
        assert (await run.ended()).status.code == 0
        assert run.output == os.fsencode(f"{directory}/tree/a:{directory}/outside/x\n")


async def test_another_clients_project(shared: Home) -> None:
    async with shared.client() as client, shared.client("laptop") as other:
        assert isinstance(await project(client, "mine"), m.ProjectOpened)
        assert isinstance(await project(client, "mine"), m.ProjectOpened)
        refused = await project(other, "mine")
        assert isinstance(refused, m.RequestRefused)
        assert (refused.request, refused.code) == (5, "refused")
        run = other.start("true", project="mine")
        assert "ever synced" in (await run.refused()).message


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b"{}", b'{"client": "\xff"}'])
async def test_a_damaged_marker_is_named(shared: Home, text: bytes) -> None:
    async with shared.client() as client:
        opened = await project(client, "marked")
        assert isinstance(opened, m.ProjectOpened)
        marker = Path(os.fsdecode(opened.path)) / "project.json"
        sound = marker.read_bytes()
        marker.write_bytes(text)
        refused = await project(client, "marked")
        assert isinstance(refused, m.RequestRefused)
        assert "marker" in refused.message
        assert (await client.start("true", project="marked").refused()).code == "destination"
        marker.write_bytes(sound)


# -- revocation ------------------------------------------------------------------------


async def test_revoking_closes_open_connections_and_the_run_is_left_to_its_policy(
    home: Home,
) -> None:
    home.start()
    async with home.client("laptop") as watcher, home.client() as client:
        short = client.start(*shell("echo on; read x"), disconnect_grace=0.2)
        kept = client.start(*shell("echo on; read x; exit 9"), disconnect_grace=None)
        await short.shows(b"on\n")
        await kept.shows(b"on\n")
        assert home.server("revoke", "desk").returncode == 0
        error = await client.expect_closed()
        assert isinstance(error, NotPaired)
        assert "revoked" in error.message
        with pytest.raises(NotPaired):
            async with home.client():
                pass
        # a viewer would keep the run, so its end is only looked at afterwards
        wait_until((home.run(await short.running()) / "exit.json").exists)
        ended = await watcher.attach(await short.running()).ended()
        assert ended.status.signal == "SIGHUP"
        again = watcher.attach(await kept.running())
        await again.running()
        again.send(b"\n")
        assert (await again.ended()).status.code == 9
        assert not watcher.closed
    assert "Traceback" not in home.log


async def test_the_log_grows_with_runs_and_not_with_output(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("for i in $(seq 200); do echo $i; echo $i >&2; done; read x"))
        await run.shows(b"200\n")
        client.link.send(m.Attach(channel=9, run="nonsense", offset=0))
        assert (await client.start_spec(spec()).refused()).code == "refused"
    assert len(home.log.splitlines()) < 10
    assert "Traceback" not in home.log


# -- stopping --------------------------------------------------------------------------


async def test_the_ladder_is_climbed_down_by_the_supervisor(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("trap 'echo usr2; exit 4' USR2; echo on; sleep 100 & wait"))
        await run.shows(b"on\n")
        other = client.attach(await run.running())
        await other.running()
        stop = m.Stop(channel=other.channel, kill=False, signal="SIGUSR2", grace=1e10)
        client.link.send(stop)
        ended = await run.ended()
        assert (ended.status.code, run.output) == (4, b"on\nusr2\n")


async def test_a_grace_that_is_over_ends_what_does_not_listen(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("trap '' INT TERM; echo on; while :; do sleep 0.05; done"))
        await run.shows(b"on\n")
        client.link.send(m.Stop(channel=run.channel, kill=False, signal="SIGINT", grace=0))
        assert (await run.ended()).status.signal == "SIGKILL"


async def test_stopping_by_a_signal_there_is_not_is_refused_in_words(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("read x; exit 3"))
        stopper = client.attach(await run.running())
        await stopper.running()
        client.link.send(m.Stop(channel=stopper.channel, kill=False, signal="SIGNONE"))
        refused = await stopper.refused()
        assert (refused.code, "no signal SIGNONE" in refused.message) == ("refused", True)
        run.send(b"\n")
        assert (await run.ended()).status.code == 3


# -- rights ----------------------------------------------------------------------------


async def test_who_may_only_look_looks(home: Home) -> None:
    home.start()
    home.pair("guest")
    assert home.server("limit", "guest", "--view").returncode == 0
    async with home.client() as client, home.client("guest") as guest:
        run = client.start(*shell("echo on; read x; exit 3"))
        await run.shows(b"on\n")
        run_id = await run.running()
        assert "only look" in (await guest.start("true").refused()).message
        assert "only look" in (await guest.attach(run_id).refused()).message
        viewer = guest.attach(run_id, read_only=True)
        await viewer.shows(b"on\n")
        run.send(b"\n")
        assert (await viewer.ended()).status.code == 3


async def test_what_a_client_may_not_see_does_not_exist_for_it(home: Home) -> None:
    home.start()
    async with home.client() as client, home.client("guest") as guest:
        run = client.start(*shell("echo on; read x"))
        await run.shows(b"on\n")
        run_id = await run.running()
        looks, holds = guest.attach(run_id, read_only=True), guest.attach(run_id)
        await looks.running()
        await holds.running()
        # whoever is attached already has to go, too
        assert home.server("limit", "guest", "--project", "mine*").returncode == 0
        for attachment in (looks, holds):
            gone = await attachment.refused()
            assert gone.message == f"there is no run {run_id} on this daemon"
        assert "no run" in (await guest.attach(run_id, read_only=True).refused()).message
        refused = await guest.ask(m.Locate(request=1, run=run_id, lines=1))
        assert isinstance(refused, m.RequestRefused)
        assert "no run" in refused.message
        listed = await guest.ask(m.ListRuns(request=2))
        assert listed == m.RunList(request=2, runs=())
        assert not guest.closed
        run.send(b"\n")
        await run.ended()


async def test_losing_the_right_to_run_ends_what_is_more_than_looking(home: Home) -> None:
    home.start()
    async with home.client() as client, home.client("guest") as guest:
        run = guest.start(*shell("echo on; read x; exit 3"))
        await run.shows(b"on\n")
        looks = guest.attach(await run.running(), read_only=True)
        await looks.shows(b"on\n")
        assert home.server("limit", "guest", "--view").returncode == 0
        assert "only look" in (await run.refused()).message
        other = client.attach(await run.running())
        assert (await other.expect(m.Attached)).holder is None
        other.send(b"\n")
        assert (await looks.ended()).status.code == 3


# -- clients that only look ------------------------------------------------------------


async def test_a_client_that_only_looks_changes_nothing(shared: Home) -> None:
    async with shared.client() as client, shared.client("laptop") as laptop:
        run = client.start(*shell("echo on; read x; echo $x; exit 3"))
        await run.shows(b"on\n")
        looks = laptop.attach(await run.running(), read_only=True)
        assert (await looks.expect(m.Attached)).holder == "desk"
        looks.send(b"not this\n")
        for message in (
            m.StdinEnd(looks.channel, 9),
            m.Signal(channel=looks.channel, name="SIGKILL"),
            m.Stop(channel=looks.channel, kill=True),
            m.Stop(channel=looks.channel, kill=False, signal="SIGNONE"),
            m.CloseOutput(channel=looks.channel, stream=Stream.STDOUT),
        ):
            laptop.link.send(message)
        await project(laptop, "answered")  # all of it has been dealt with
        run.send(b"this\n")
        ended = await looks.ended()
        assert (ended.status.code, looks.output) == (3, b"on\nthis\n")
        assert [type(said) for said in looks.said] == [m.Attached, m.StdinClosed, m.Exited]


async def test_a_run_does_not_live_for_a_client_that_only_looks(home: Home) -> None:
    home.start()
    async with home.client("laptop") as laptop:
        async with home.client() as client:
            run = client.start(*shell("echo on; read x"), disconnect_grace=0.2)
            await run.shows(b"on\n")
            looks = laptop.attach(await run.running(), read_only=True)
            await looks.running()
        ended = await looks.ended()
        assert ended.status.signal == "SIGHUP"
