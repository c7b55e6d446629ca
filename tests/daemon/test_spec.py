"""What a supervisor is told of what a client asked for; what is refused stands in test_runs."""

from __future__ import annotations

import pytest
from tests.support.daemon import spec

from psync.daemon.environment import home_directory
from psync.daemon.spec import (
    LOWEST_LIMIT,
    LogLimits,
    check,
    supervised,
    ticket,
    with_library_path,
)
from psync.errors import Refused
from psync.model import Overflow, RunSpec

ENVIRON = {b"HOME": b"/home/me", b"PATH": b"/bin"}
WHAT = spec(
    "game",
    "--x",
    name="n",
    project="p",
    env=((b"A", b"1"),),
    disconnect_grace=7.0,
    overflow=Overflow.DROP,
    revision="v2",
)


def test_everything_asked_for_reaches_the_supervisor() -> None:
    told = supervised(
        WHAT,
        run_id="abc",
        executable="/mirror/game",
        cwd="/mirror",
        environ=ENVIRON,
        limits=LogLimits(unread=2**30, kept=5),
    )
    assert told.argv == [b"game", b"--x"]
    assert (told.executable, told.cwd) == (b"/mirror/game", b"/mirror")
    assert dict(told.env)[b"A"] == b"1"
    assert dict(told.env)[b"PSYNC_RUN"] == b"abc"
    assert (told.run_id, told.name, told.disconnect_grace) == ("abc", "n", 7.0)
    assert (told.overflow, told.log_limit, told.log_keep) == ("drop", 2**30, 5)


def test_without_a_mirror_it_runs_at_home_with_a_limit_that_can_work() -> None:
    told = supervised(
        spec("true"),
        run_id="abc",
        executable=None,
        cwd=None,
        environ=ENVIRON,
        limits=LogLimits(unread=1, kept=0),
    )
    assert (told.executable, told.cwd, told.overflow) == (None, home_directory(ENVIRON), "block")
    assert told.log_limit == LOWEST_LIMIT


def test_a_ticket_says_where_it_comes_from() -> None:
    made = ticket(WHAT, client="c1", client_name="desk", request="r1")
    assert (made.client, made.client_name, made.request) == ("c1", "desk", "r1")
    assert (made.project, made.name, made.argv) == ("p", "n", (b"game", b"--x"))
    assert (made.revision, made.disconnect_grace) == ("v2", 7.0)
    assert made.overflow is Overflow.DROP
    assert made.created > 1.7e9


@pytest.mark.parametrize("what", [spec(), spec("a", disconnect_grace=-1.0), spec("a\0")])
def test_what_cannot_be_run(what: RunSpec) -> None:
    with pytest.raises(Refused):
        check(what)


def test_the_mirrors_libraries_come_first() -> None:
    made = with_library_path(spec("x", env=((b"A", b"1"),)), ["/m/tree/lib", "/m/outside/\udcff"])
    assert made.env == ((b"A", b"1"), (b"LD_LIBRARY_PATH", b"/m/tree/lib:/m/outside/\xff"))
    own = with_library_path(spec("x", env=((b"LD_LIBRARY_PATH", b"/own:"),)), ["/m/tree"])
    assert own.env == ((b"LD_LIBRARY_PATH", b"/m/tree:/own:"),)
    for path in ("/m/a:b", "/m/a;b"):
        with pytest.raises(Refused, match="cannot be searched for shared libraries"):
            with_library_path(spec("x"), [path])
