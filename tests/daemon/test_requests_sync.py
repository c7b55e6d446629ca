"""Requests about a sync, to a real daemon: what runs and what does not, and what is told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.daemon import Client, Home, shell, spec

from psync.daemon.mark import MARK
from psync.protocol import messages as m

PROJECT = "game-1"


async def mirror(client: Client, project: str = PROJECT) -> Path:
    opened = await client.ask(
        m.OpenProject(request=1, project=project, source=b"/src", host="desk")
    )
    assert isinstance(opened, m.ProjectOpened)
    return Path(os.fsdecode(opened.path))


async def begin(client: Client, project: str = PROJECT) -> None:
    begun = await client.ask(m.BeginSync(request=2, project=project))
    assert begun == m.SyncBegun(request=2)


async def end(client: Client, project: str = PROJECT) -> str:
    ended = await client.ask(m.EndSync(request=3, project=project))
    assert isinstance(ended, m.SyncEnded)
    assert ended.request == 3
    return ended.seal


async def check(client: Client, seal: str, project: str = PROJECT) -> m.MirrorChecked:
    checked = await client.ask(m.CheckMirror(request=4, project=project, seal=seal))
    assert isinstance(checked, m.MirrorChecked)
    assert checked.request == 4
    return checked


async def test_no_run_starts_until_a_sync_has_ended(home: Home) -> None:
    home.start()
    async with home.client() as client:
        await mirror(client)
        going_on = client.start(*shell("echo on; read x; exit 3"), project=PROJECT)
        await going_on.shows(b"on\n")
        await begin(client)
        refused = await client.start("true", project=PROJECT).refused()
        assert (refused.code, refused.hint[:4]) == ("refused", "wait")
        assert "has not ended" in refused.message
        assert (await client.start("true").ended()).status.code == 0  # in no mirror at all
        going_on.send(b"\n")
        assert (await going_on.ended()).status.code == 3
    # whatever becomes of the connection, and of the daemon
    home.leave(signal.SIGKILL)
    home.start()
    async with home.client() as client:
        assert "has not ended" in (await client.start("true", project=PROJECT).refused()).message
        # what follows on the heels of the end is not refused
        client.link.send(m.EndSync(request=3, project=PROJECT))
        assert (await client.start("true", project=PROJECT).ended()).status.code == 0


async def test_a_run_that_was_asked_for_before_is_given_again(shared: Home) -> None:
    async with shared.client() as client:
        await mirror(client, "again")
        request = "r" * 22
        what = spec(*shell("echo on; read x"), project="again")
        run = client.start_spec(what, request)
        await run.shows(b"on\n")
        await begin(client, "again")
        same = client.start_spec(what, request)  # the answer was lost with a connection
        assert await same.running() == await run.running()
        same.send(b"\n")
        await same.ended()


async def test_what_changed_is_told(home: Home) -> None:
    home.start()
    async with home.client() as client:
        tree = await mirror(client) / "tree"
        await begin(client)
        for name in ("a", "b"):
            (tree / name).write_text("sent")
            os.utime(tree / name, (1e9 + 0.5, 1e9 + 0.5))
        assert not (await check(client, "x")).known
        seal = await end(client)
        run = client.start(*shell("printf more >>a; : >new"), project=PROJECT, cwd=b"tree")
        assert (await run.ended()).status.code == 0
        expected = m.MirrorChecked(request=4, known=True, changed=(b"tree/a",))
        assert await check(client, seal) == expected
        assert not (await check(client, "another")).known
    assert home.leave() == 0
    home.start()
    async with home.client() as client:
        assert await check(client, seal) == expected
        await begin(client)
        assert not (await check(client, seal)).known


async def test_what_a_client_may_not_do(shared: Home) -> None:
    async with shared.client() as client, shared.client("laptop") as other:
        directory = await mirror(client, "theirs")
        for message in (
            m.BeginSync(request=7, project="theirs"),
            m.EndSync(request=7, project="theirs"),
            m.CheckMirror(request=7, project="theirs", seal="s"),
            m.BeginSync(request=7, project="never-opened"),
        ):
            refused = await other.ask(message)
            assert isinstance(refused, m.RequestRefused)
            assert (refused.request, refused.code) == (7, "refused")
        assert not (directory / MARK).exists()


async def test_a_mark_that_cannot_be_made_is_named(shared: Home) -> None:
    async with shared.client() as client:
        directory = await mirror(client, "full")
        (directory / MARK).mkdir()
        refused = await client.ask(m.BeginSync(request=7, project="full"))
        assert isinstance(refused, m.RequestRefused)
        assert refused.code == "destination"
        assert "make room" in refused.hint
        refused = await client.ask(m.EndSync(request=8, project="full"))
        assert isinstance(refused, m.RequestRefused)
        assert (refused.request, refused.code) == (8, "destination")
