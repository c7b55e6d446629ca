"""What one client may do, and how much of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psync.daemon.audit import Audit
from psync.daemon.clientlist import ClientRecord
from psync.daemon.guard import Book, ClientLimits, Guard
from psync.errors import Refused
from psync.model import RunSpec

GAME = "game-0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def client(**fields: Any) -> ClientRecord:
    known: dict[str, Any] = {
        "name": "desk",
        "fingerprint": "sha256:" + "a" * 64,
        "client_id": "desk-0123456789abcdef",
        "paired": 1.0,
        "expires": 2e9,
    }
    return ClientRecord(**(known | fields))


@pytest.fixture
def guard(log: Path, clock: Clock) -> Any:
    book = Book(clock)

    def make(limits: ClientLimits | None = None, **fields: Any) -> Guard:
        record = client(**fields)
        return Guard(record, limits or ClientLimits(), book, Audit(str(log)), "192.0.2.7")

    return make


def spec(*argv: bytes, **options: Any) -> RunSpec:
    return RunSpec(argv=argv or (b"true",), **options)


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_client_may_do_everything_unless_it_is_limited(guard: Any) -> None:
    one = guard()
    one.check_open(GAME)
    one.check_start(spec(), 0)
    one.check_start(spec(project=GAME), 0)
    one.check_act(None)
    one.check_act(GAME)
    one.check_transfer(GAME)
    assert one.check_see(None)
    assert one.check_see(GAME)
    assert one.may_act(GAME)


def test_a_viewer_sees_and_does_nothing(guard: Any, log: Path) -> None:
    one = guard(role="view")
    assert one.check_see(None)
    assert one.check_see(GAME)
    assert not one.may_act(GAME)
    deeds: list[Callable[[], object]] = [
        lambda: one.check_open(GAME),
        lambda: one.check_transfer(GAME),
        lambda: one.check_start(spec(), 0),
        lambda: one.check_act(GAME),
        lambda: one.check_act(None),
    ]
    for deed in deeds:
        with pytest.raises(Refused, match="may only look at runs") as refused:
            deed()
        assert "psync-server limit desk --run" in refused.value.hint
    assert [event["event"] for event in events(log)] == ["refused"] * 5


@pytest.mark.parametrize(
    ("patterns", "project", "may"),
    [
        (("game-*",), GAME, True),
        (("game-*",), "tool-0123", False),
        (("game-*",), "my-game-0123", False),
        (("game-*",), None, False),
        (("*",), "tool-0123", True),
        (("tool-?123", "x"), "tool-0123", True),
        (("tool-[0-9]*",), "tool-x", False),
        (("Game-*",), GAME, False),
    ],
)
def test_projects(guard: Any, patterns: tuple[str, ...], project: str | None, may: bool) -> None:
    one = guard(projects=patterns)
    assert one.check_see(project) is may
    assert one.may_act(project) is may
    if may:
        one.check_start(spec(project=project), 0)
        one.check_transfer(project or GAME)
        return
    deeds: list[Callable[[], object]] = [
        lambda: one.check_start(spec(project=project), 0),
        lambda: one.check_act(project),
        lambda: one.check_transfer(project or "tool-0123"),
    ]
    for deed in deeds:
        with pytest.raises(Refused, match="may not use") as refused:
            deed()
        assert ", ".join(patterns) in refused.value.message
        assert "psync-server limit desk" in refused.value.hint


def test_how_much_a_command_may_hold(guard: Any) -> None:
    one = guard()
    one.check_start(spec(b"x" * (64 << 10)), 0)
    with pytest.raises(Refused, match="66560 bytes are over the daemon's limit of 65536"):
        one.check_start(spec(b"x" * (65 << 10)), 0)
    with pytest.raises(Refused, match="65537 bytes"):  # the environment counts, names too
        one.check_start(spec(b"x" * 65_530, env=((b"NAME", b"val"),)), 0)
    one.check_start(spec(*[b""] * 1024), 0)
    with pytest.raises(Refused, match="1025 arguments are over the daemon's limit of 1024"):
        one.check_start(spec(*[b""] * 1025), 0)
    one.check_start(spec(env=((b"A", b""),) * 1024), 0)
    with pytest.raises(Refused, match="1025 variables are over"):
        one.check_start(spec(env=((b"A", b""),) * 1025), 0)


@pytest.mark.parametrize(
    "bad", [spec(b"a\0b"), spec(env=((b"A\0", b""),)), spec(env=((b"A", b"\0"),))]
)
def test_no_nul(guard: Any, bad: RunSpec) -> None:
    with pytest.raises(Refused, match="NUL"):
        guard().check_start(bad, 0)


def test_how_many_runs(guard: Any) -> None:
    one = guard(ClientLimits(runs=2))
    one.check_start(spec(), 1)
    with pytest.raises(Refused, match="2 active runs on the daemon, and may have 2") as refused:
        one.check_start(spec(), 2)
    assert "psync stop" in refused.value.hint


def test_how_many_starts(guard: Any, clock: Clock) -> None:
    one = guard(ClientLimits(starts=6))
    for _ in range(6):
        one.check_start(spec(), 0)
    with pytest.raises(Refused, match="more than 6 runs in a minute") as refused:
        one.check_start(spec(), 0)
    assert "wait 10 s" in refused.value.hint
    # another connection of the same client is the same client; another client is not
    with pytest.raises(Refused):
        guard(ClientLimits(starts=6)).check_start(spec(), 0)
    guard(ClientLimits(starts=6), client_id="other-0123456789abcdef").check_start(spec(), 0)
    clock.now += 10
    one.check_start(spec(), 0)
    with pytest.raises(Refused):
        one.check_start(spec(), 0)
    clock.now += 10_000
    for _ in range(6):
        one.check_start(spec(), 0)
    with pytest.raises(Refused):
        one.check_start(spec(), 0)


def test_what_is_refused_costs_no_start(guard: Any) -> None:
    one = guard(ClientLimits(starts=1, runs=5))
    with pytest.raises(Refused, match="active"):
        one.check_start(spec(), 5)
    one.check_start(spec(), 0)


def test_nothing_may_be_started_at_all(clock: Clock) -> None:
    assert Book(clock).start("x", 0) == math.inf


def test_what_happens_is_written_down(guard: Any, log: Path) -> None:
    one = guard()
    one.check_open(GAME)
    one.started(
        "0a1b", spec(b"./game", b"--level", b"3", env=((b"TOKEN", b"s3cret"),), project=GAME)
    )
    one.attached("0a1b", "read only")
    one.stopped("0a1b", "killed")
    one.transferred(GAME, gives=False)
    one.transferred(GAME, gives=True)
    opened, started, attached, stopped, came, went = events(log)
    assert (came["event"], came["project"], came["reason"]) == (
        "transferred",
        GAME,
        "into the mirror",
    )
    assert (went["event"], went["reason"]) == ("transferred", "out of the mirror")
    assert (opened["event"], opened["project"]) == ("opened", GAME)
    assert started["command"] == "./game --level 3"
    assert (started["client"], started["address"]) == ("desk", "192.0.2.7")
    assert started["fingerprint"] == "sha256:" + "a" * 64
    assert (attached["run"], attached["reason"]) == ("0a1b", "read only")
    assert (stopped["event"], stopped["reason"]) == ("stopped", "killed")
    assert "s3cret" not in log.read_text()
