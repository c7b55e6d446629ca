"""The daemon as the keeper of a mirror, asked from a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from tests.support.fake_link import FakeDaemon

from psync.client.keeper import MOST_PAGES, NO_SEAL, MirrorKeeper
from psync.client.lifeline import Lifeline
from psync.errors import DestinationError, Interrupted, ProtocolError
from psync.protocol import messages as m
from psync.sync.keeper import Checked
from psync.sync.project import Project

_T = TypeVar("_T")

PROJECT = Project(root=b"/home/me/game", id="game-0123456789abcdef", name="game")
FEATURES = ("seal",)


class Kept:
    def __init__(self, features: tuple[str, ...] = FEATURES) -> None:
        self.daemon = FakeDaemon()
        self.daemon.features = features
        self.lifeline = Lifeline(self.daemon.dial, name="there")  # type: ignore[arg-type]

    async def open(self) -> MirrorKeeper:
        await self.lifeline.open()
        return MirrorKeeper(self.lifeline, PROJECT)

    async def asked(self, call: Callable[[], _T], *answers: Any) -> tuple[_T, list[Any]]:
        """Call it in a thread, and answer each request with the next of ``answers``."""
        task = asyncio.create_task(asyncio.to_thread(call))
        requests = []
        for answer in answers:
            request = await self.daemon.link.said(m.Control)  # type: ignore[type-var]
            requests.append(request)
            self.daemon.link.say(answer(request))
        return await asyncio.wait_for(task, 10), requests


async def test_a_mirror_is_checked() -> None:
    kept = Kept()
    keeper = await kept.open()
    answer = lambda r: m.MirrorChecked(request=r.request, known=True, changed=(b"tree/a",))  # noqa: E731
    said, (request,) = await kept.asked(lambda: keeper.check("seal"), answer)
    assert said == Checked(known=True, changed=(b"tree/a",))
    assert (request.project, request.seal) == (PROJECT.id, "seal")


def page(*names: bytes, more: bool = True) -> Any:
    return lambda r: m.MirrorChecked(request=r.request, known=True, changed=names, more=more)


async def test_a_check_takes_as_many_answers_as_it_needs() -> None:
    kept = Kept()
    keeper = await kept.open()
    pages = page(b"tree/a", b"tree/b"), page(b"tree/c"), page(b"tree/d", more=False)
    said, requests = await kept.asked(lambda: keeper.check("seal"), *pages)
    assert said == Checked(True, (b"tree/a", b"tree/b", b"tree/c", b"tree/d"), many=False)
    assert [request.skip for request in requests] == [0, 2, 3]


async def test_a_check_without_an_end_is_given_up() -> None:
    kept = Kept()
    keeper = await kept.open()
    said, _ = await kept.asked(lambda: keeper.check("seal"), *[page(b"tree/a")] * MOST_PAGES)
    assert said.many


async def test_a_check_that_is_refused_knows_nothing() -> None:
    kept = Kept()
    keeper = await kept.open()
    answer = lambda r: m.RequestRefused(request=r.request, code="refused", message="no")  # noqa: E731
    said, _ = await kept.asked(lambda: keeper.check("seal"), answer)
    assert said == Checked()


async def test_a_sync_begins_with_the_mirror() -> None:
    kept = Kept()
    keeper = await kept.open()
    _, (opened, begun) = await kept.asked(
        keeper.begin,
        lambda r: m.ProjectOpened(request=r.request, path=b"/x"),
        lambda r: m.SyncBegun(request=r.request),
    )
    assert isinstance(opened, m.OpenProject)
    assert opened.source == PROJECT.root
    assert isinstance(begun, m.BeginSync)


async def test_what_the_daemon_refuses_is_raised() -> None:
    kept = Kept()
    keeper = await kept.open()
    answer = lambda r: m.RequestRefused(request=r.request, code="destination", message="full")  # noqa: E731
    with pytest.raises(DestinationError, match="full"):
        await kept.asked(keeper.begin, answer)


MANY = tuple(b"tree/%d" % n for n in range(m.MOST_NAMES + 1))
LONG = (b"x" * m.NAMES_BYTES, b"y")
FEW = (b"tree/a", b"tree/b")


@pytest.mark.parametrize(
    ("base", "names", "asked", "told"),
    [
        ("old", FEW, "old", FEW),
        ("old", (), "old", ()),
        ("old", MANY, NO_SEAL, ()),
        ("old", LONG, NO_SEAL, ()),
        (None, FEW, "", FEW),
        (None, MANY, "", ()),
    ],
)
async def test_a_sync_ends_with_a_seal(
    base: str | None, names: tuple[bytes, ...], asked: str, told: tuple[bytes, ...]
) -> None:
    kept = Kept()
    keeper = await kept.open()
    seal, (request,) = await kept.asked(
        lambda: keeper.end(base, names), lambda r: m.SyncEnded(request=r.request, seal="new")
    )
    assert seal == "new"
    assert (request.base, request.names) == (asked, told)


async def test_what_goes_on_from_no_note_gets_none() -> None:
    """All that lies there would be taken for what was sent, whoever has changed it."""
    kept = Kept()
    keeper = await kept.open()
    _, (request,) = await kept.asked(
        lambda: keeper.end("", (b"tree/a",)), lambda r: m.SyncEnded(request=r.request)
    )
    assert request.base == NO_SEAL


async def test_a_connection_that_is_lost_is_made_again() -> None:
    kept = Kept()
    keeper = await kept.open()
    task = asyncio.create_task(asyncio.to_thread(keeper.end, None, ()))
    await kept.daemon.link.said(m.EndSync)
    kept.daemon.link.cut()
    await kept.daemon.linked(2)
    request = await kept.daemon.link.said(m.EndSync)
    kept.daemon.link.say(m.SyncEnded(request=request.request, seal="new"))
    assert await asyncio.wait_for(task, 10) == "new"


async def test_waiting_can_be_given_up() -> None:
    kept = Kept()
    keeper = await kept.open()
    task = asyncio.create_task(asyncio.to_thread(keeper.check, "seal"))
    await kept.daemon.link.said(m.CheckMirror)
    keeper.cancel()
    with pytest.raises(Interrupted):
        await asyncio.wait_for(task, 10)
    with pytest.raises(Interrupted):
        await asyncio.wait_for(asyncio.to_thread(keeper.check, "seal"), 10)


async def test_an_older_daemon_is_asked_for_the_mirror_only() -> None:
    kept = Kept(features=())
    keeper = await kept.open()
    assert (await kept.asked(lambda: keeper.check("seal")))[0] == Checked()
    opened = lambda r: m.ProjectOpened(request=r.request, path=b"/x")  # noqa: E731
    await kept.asked(keeper.begin, opened)
    assert (await kept.asked(lambda: keeper.end(None, ())))[0] == ""
    with pytest.raises(ProtocolError):
        kept.lifeline.need("seal", "tell")
