"""Numbered requests: what is answered, what is refused, and how many at a time."""

from __future__ import annotations

import asyncio

from tests.support.daemon import Home, shell
from tests.support.fake_link import FakeLink

from psync.daemon.projects import Projects
from psync.daemon.requests import MOST_REQUESTS, Requests
from psync.errors import Refused
from psync.model import RunInfo
from psync.protocol import messages as m
from psync.protocol.codec import decode, encode


async def test_runs_are_listed_and_places_found(shared: Home) -> None:
    async with shared.client() as client:
        run = client.start(*shell("seq 1000; echo error >&2"), name="counts")
        await run.ended()
        listed = await client.ask(m.ListRuns(request=3, match="counts"))
        assert isinstance(listed, m.RunList)
        assert (listed.request, [info.output for info in listed.runs]) == (3, [run.end])
        located = await client.ask(m.Locate(request=4, run=await run.running(), lines=2))
        assert located == m.Located(
            request=4, offset=run.end - len(b"1000\nerror\n"), oldest=0, end=run.end
        )
        tail = client.attach(await run.running(), located.offset, read_only=True)
        await tail.ended()
        assert tail.output == b"1000\nerror\n"


async def test_what_is_not_there_is_refused(shared: Home) -> None:
    async with shared.client() as client:
        for request in (
            m.Locate(request=8, run="0123456789", lines=1),
            m.ListRuns(request=8, before="0123456789"),
        ):
            refused = await client.ask(request)
            assert isinstance(refused, m.RequestRefused)
            assert (refused.request, refused.code) == (8, "refused")
            assert "0123456789" in refused.message


async def test_a_certificate_is_not_renewed_for_another_key(shared: Home) -> None:
    async with shared.client() as client:
        refused = await client.ask(m.RenewCertificate(request=9, csr=b"nonsense"))
        assert isinstance(refused, m.RequestRefused)
        assert refused.request == 9


class _Link(FakeLink):
    """The daemon's end, as far as requests need it."""

    def send(self, message: m.Message) -> None:
        decoded = decode(encode(message))
        assert decoded is not None
        self.sent.append(decoded)
        self._news.set()


class _Runs:
    """A registry whose searches take until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = 0

    def project(self, _run: str) -> None:
        return None

    def listing(self, *_args: object) -> tuple[tuple[RunInfo, ...], bool]:
        raise Refused("x" * 100_000)

    async def locate(self, run: str, *_args: object) -> tuple[int, int, int]:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if run == "broken":
            raise RuntimeError("a defect")
        return 1, 2, 3


class _Guard:
    def check_see(self, _project: str | None) -> bool:
        return True


async def _renew(_csr: bytes) -> tuple[bytes, float]:
    return b"certificate", 7.0


def _requests(link: _Link, runs: _Runs) -> Requests:
    return Requests(link, "client", Projects("/nowhere"), runs, _renew)  # type: ignore[arg-type]


async def test_only_so_many_are_worked_on_at_a_time_and_each_has_its_answer() -> None:
    link, runs = _Link(), _Runs()
    requests = _requests(link, runs)
    guard: object = _Guard()
    for number in range(1, MOST_REQUESTS + 2):
        requests.on_request(m.Locate(request=number, run="r"), guard)  # type: ignore[arg-type]
    refused = await link.said(m.RequestRefused)
    assert refused.request == MOST_REQUESTS + 1
    runs.go.set()
    answers = {(await link.said(m.Located)).request for _ in range(MOST_REQUESTS)}
    assert answers == set(range(1, MOST_REQUESTS + 1))
    for _ in range(3):
        await asyncio.sleep(0)  # the tasks end
    requests.on_request(m.RenewCertificate(request=5, csr=b"x"), guard)  # type: ignore[arg-type]
    renewed = await link.said(m.CertificateRenewed)
    assert renewed == m.CertificateRenewed(request=5, certificate=b"certificate", expires=7.0)


async def test_a_defect_is_answered_and_a_long_refusal_cut() -> None:
    link, runs = _Link(), _Runs()
    requests = _requests(link, runs)
    guard: object = _Guard()
    runs.go.set()
    requests.on_request(m.Locate(request=1, run="broken"), guard)  # type: ignore[arg-type]
    refused = await link.said(m.RequestRefused)
    assert (refused.request, refused.message) == (1, "the daemon could not answer")
    requests.on_request(m.ListRuns(request=2), guard)  # type: ignore[arg-type]
    assert len((await link.said(m.RequestRefused)).message) == 4000


async def test_nobody_works_for_a_client_that_has_gone() -> None:
    link, runs = _Link(), _Runs()
    requests = _requests(link, runs)
    guard: object = _Guard()
    requests.on_request(m.Locate(request=1, run="r"), guard)  # type: ignore[arg-type]
    await asyncio.sleep(0)
    requests.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert runs.cancelled == 1
    assert link.sent == []
