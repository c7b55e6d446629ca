"""Which runs a client is told of, in which order, and how much of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.support.daemon import Home, python, shell

from psync.daemon.ending import Ending
from psync.daemon.listing import COMMAND, CUT, NAME, Entry, page, select, shorten
from psync.daemon.run import Run
from psync.daemon.rundir import FORMAT, Ticket
from psync.model import ExitStatus, Overflow, RunInfo, RunState
from psync.protocol import messages as m
from psync.protocol.codec import encode
from psync.supervisor.logwriter import LogWriter


class Nobody:
    """Owns runs that do nothing."""

    def on_gone(self, run: Run) -> None: ...

    def on_final(self, run: Run) -> None: ...

    def on_unwatched(self, run: Run) -> None: ...


def entry(
    run_id: str,
    *,
    name: str = "",
    project: str | None = None,
    argv: tuple[bytes, ...] = (b"x",),
    state: RunState = RunState.EXITED,
    directory: str = "/nonexistent",
) -> Entry:
    run = Run(run_id, directory, Nobody())
    run.state = state
    ticket = Ticket(FORMAT, "c" * 32, run_id, project, name, argv, 1.5, "desk", "v1-2")
    return Entry(run, ticket)


def everybody(_project: str | None) -> bool:
    return True


def chosen(
    entries: list[Entry],
    match: str = "",
    *,
    active: bool = False,
    visible: Callable[[str | None], bool] = everybody,
) -> str:
    return " ".join(found.run.id for found in select(entries, match, active, visible))


def test_what_a_client_asks_for() -> None:
    runs = [
        entry("abc3", name="game", state=RunState.RUNNING, project="p"),
        entry("abd2", name="game", project="q"),
        entry("b1", name="ab", state=RunState.STARTING),
        entry("game9"),
    ]
    assert chosen(runs) == "abc3 abd2 b1 game9"
    assert chosen(runs, "ab") == "abc3 abd2 b1"  # two IDs and a name
    assert chosen(runs, "abc3") == "abc3"
    assert chosen(runs, "game") == "abc3 abd2 game9"
    assert chosen(runs, "gam") == "game9"  # a name is given whole
    assert chosen(runs, "-1") == "abc3"
    assert chosen(runs, active=True) == "abc3 b1"
    assert chosen(runs, "-1", active=True) == "abc3"
    assert chosen(runs, "nothing") == ""
    assert chosen(runs, visible=lambda project: project == "q") == "abd2"
    assert chosen(runs, "-1", visible=lambda project: project is None) == "b1"
    assert chosen([], "-1") == ""


@pytest.mark.parametrize("count", [0, 1, m.PAGE_RUNS, m.PAGE_RUNS + 1])
def test_a_page_is_bounded(count: int) -> None:
    infos, more = page(iter([entry(f"r{number}") for number in range(count)]))
    assert len(infos) == min(count, m.PAGE_RUNS)
    assert more == (count > m.PAGE_RUNS)


@pytest.mark.parametrize("char", ["x", "ü", "\x01", "\U0001f3ae"])
def test_a_page_of_the_longest_runs_fits_into_a_message(char: str) -> None:
    runs = [
        entry(
            f"{number:032}",
            name=char * 10_000,
            project="p" * 80,
            argv=(char.encode() * 60_000,) if number % 2 else (b"",) * 60_000,
        )
        for number in range(m.PAGE_RUNS)
    ]
    infos, more = page(iter(runs))
    assert infos
    assert more == (len(infos) < len(runs))
    message = m.RunList(request=2**53, runs=infos, more=more)
    assert len(encode(message)) <= m.MAX_CONTROL
    assert len(infos[0].name) == NAME


def test_a_command_is_shortened_where_it_is_long() -> None:
    assert shorten((b"a", b"", b"\xff" * 1000)) == (b"a", b"", b"\xff" * 1000)
    assert shorten(()) == ()
    (word,) = shorten((b"x" * 10_000,))
    assert word.startswith(b"x" * 2000)
    assert word.endswith(CUT)
    many = shorten((b"",) * 10_000)
    assert len(many) < 300
    assert many[-1] == CUT
    assert sum(map(len, shorten((b"abc",) * 10_000))) < COMMAND


def test_what_is_told_of_a_run(tmp_path: Path) -> None:
    run = entry("r1", name="n", project="p", state=RunState.STARTING, directory=str(tmp_path))
    starting = RunInfo(
        id="r1",
        command=(b"x",),
        state=RunState.STARTING,
        created=1.5,
        name="n",
        project="p",
        client="desk",
        revision="v1-2",
        overflow=Overflow.BLOCK,
    )
    assert run.info() == starting
    writer = LogWriter(str(tmp_path), limit=16384, keep=0, drop=False)
    writer.append(1, memoryview(bytes(5000)))
    writer.raise_floor(5000)
    writer.append(1, memoryview(bytes(5000)))
    (tmp_path / "supervisor.json").touch()
    run.run.state = RunState.RUNNING
    started = (tmp_path / "supervisor.json").stat().st_mtime
    running = msgspec.structs.replace(
        starting, state=RunState.RUNNING, started=started, output=10_000, oldest=4096
    )
    assert run.info() == running
    ending = Ending(9, ExitStatus(code=3), reason="exited", started=2.0, ended=3.0, oldest=1)
    run.finished(ending)
    run.run.state = RunState.EXITED
    assert run.info() == msgspec.structs.replace(
        starting,
        state=RunState.EXITED,
        started=2.0,
        ended=3.0,
        status=ExitStatus(code=3),
        reason="exited",
        output=9,
        oldest=1,
    )


def test_finished_runs_open_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for number in range(m.PAGE_RUNS):
        runs.append(entry(f"r{number}"))
        runs[-1].finished(Ending(1, ExitStatus(code=0)))
    monkeypatch.setattr("os.open", None)
    monkeypatch.setattr("os.stat", None)
    infos, _ = page(iter(runs))
    assert len(infos) == m.PAGE_RUNS


async def listed(home: Home, **what: object) -> m.RunList:
    async with home.client() as client:
        answer = await client.ask(m.ListRuns(request=7, **what))  # type: ignore[arg-type]
    assert isinstance(answer, m.RunList), answer
    assert answer.request == 7
    return answer


async def test_a_daemon_lists_what_it_ran_also_after_it_was_replaced(home: Home) -> None:
    home.start()
    async with home.client() as client:
        for number in range(m.PAGE_RUNS + 1):
            await client.start(*shell(f"exit {number}"), name=f"n{number % 10}").ended()
        missing = client.start("/no/such/program")
        await missing.ended()
        living = client.start(
            *python("print('on', flush=True); input()"),
            name="living",
            revision="abc-dirty",
            overflow=Overflow.DROP,
        )
        await living.shows(b"on\n")
        for _ in range(2):  # what there is says the same to the next daemon
            all_of_it = (await listed(home)).runs
            assert [run.state for run in all_of_it[:2]] == [RunState.RUNNING, RunState.EXITED]
            assert len(all_of_it) == m.PAGE_RUNS
            newest = all_of_it[0]
            assert (newest.name, newest.client, newest.revision) == ("living", "desk", "abc-dirty")
            assert (newest.output, newest.oldest, newest.disconnect_grace) == (3, 0, 300.0)
            assert newest.overflow is Overflow.DROP
            assert newest.started is not None
            assert newest.started >= newest.created
            assert (newest.status, newest.ended) == (None, None)
            failed = all_of_it[1]
            assert (failed.status, failed.reason) == (ExitStatus(code=127), "exec-failed")
            assert failed.started is None
            assert [run.status and run.status.code for run in all_of_it[2:]] == [*range(50, 2, -1)]
            page_2 = await listed(home, before=all_of_it[-1].id)
            assert [run.status and run.status.code for run in page_2.runs] == [2, 1, 0]
            assert not page_2.more
            assert [run.id for run in (await listed(home, match="-1")).runs] == [newest.id]
            assert [run.id for run in (await listed(home, active=True)).runs] == [newest.id]
            assert len((await listed(home, match="n3")).runs) == 5
            assert not (await listed(home, match="nobody")).runs
            home.leave()
            home.start()
    async with home.client() as client:
        gone = await client.ask(m.ListRuns(request=1, before="nosuchrun"))
        assert isinstance(gone, m.RequestRefused)
        attached = client.attach(newest.id)
        await attached.running()
        assert (await listed(home, match="living")).runs[0].viewers == 1
