"""What is remembered of a link, and what for how long."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from psync.sync.choose import NEAR_RATE, UNKNOWN_RATE, Choice
from psync.sync.linkrate import LITERAL_LIFE, MOST_PROJECTS, RATE_LIFE, Link, Measured

MB = 1_000_000
DELTA = Choice(compress=False, whole=False)
WHOLE = Choice(compress=False, whole=True)


@pytest.fixture
def link(tmp_path: Path) -> Link:
    return Link(str(tmp_path / "state"), "me@handheld")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    real = time.time
    offset = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    monkeypatch.setattr("psync.sync.linkrate.time.time", lambda: real() + offset)
    return pass_time


def sent(megabytes: float, seconds: float) -> Measured:
    """New files, sent as they are."""
    count = int(megabytes * MB)
    return Measured(count, count, count, seconds, created=True)


def test_nothing_is_known_before_the_first_transfer(link: Link) -> None:
    assert link.rate() is None
    assert link.guess == UNKNOWN_RATE


def test_a_daemon_on_this_machine_is_near(tmp_path: Path) -> None:
    assert Link(str(tmp_path), "x", near=True).guess == NEAR_RATE


def test_a_transfer_tells_how_fast_the_link_is(link: Link, tmp_path: Path) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    assert link.rate() == 2 * MB
    again = Link(str(tmp_path / "state"), "me@handheld")
    assert again.rate() == 2 * MB
    assert Link(str(tmp_path / "state"), "me@desk").rate() is None


def test_one_transfer_does_not_overturn_what_earlier_ones_told(link: Link) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    link.learn("p", sent(20, 5.0), DELTA)
    assert link.rate() == 3 * MB


def test_a_short_transfer_tells_nothing(link: Link) -> None:
    link.learn("p", sent(0.1, 0.2), DELTA)
    link.learn("p", sent(5, 0.0), DELTA)
    assert link.rate() is None


def test_a_slow_link_is_seen_by_few_bytes_that_took_long(link: Link) -> None:
    link.learn("p", sent(0.1, 2.0), DELTA)
    assert link.rate() == 50_000


def test_a_delta_of_a_huge_file_does_not_make_the_link_slow(link: Link) -> None:
    # 500 MB were read on both sides in six seconds, of which 5 MB had to be sent
    link.learn("p", Measured(5 * MB, 500 * MB, 5 * MB, 6.0), DELTA)
    assert link.rate() is None


def test_what_may_be_the_disks_speed_is_a_lower_bound(link: Link) -> None:
    link.learn("p", sent(100, 0.5), DELTA)
    assert link.rate() == 200 * MB
    link.learn("p", sent(100, 0.7), DELTA)
    assert link.rate() == 200 * MB
    link.learn("p", sent(100, 0.2), DELTA)
    assert link.rate() == 500 * MB


def test_a_link_that_became_slow_is_slow(link: Link) -> None:
    link.learn("p", sent(100, 0.2), DELTA)
    for _ in range(10):
        link.learn("p", sent(20, 10.0), DELTA)
    assert (link.rate() or 0) < 4 * MB


def test_a_rate_is_forgotten(link: Link, later: Callable[[float], None]) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    later(RATE_LIFE - 60)
    assert link.rate() == 2 * MB
    later(61)
    assert link.rate() is None


def test_a_note_from_the_future_is_not_believed(link: Link, later: Callable[[float], None]) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    later(-3600)
    assert link.rate() is None


def test_no_news_are_not_written(link: Link, tmp_path: Path) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    (note,) = (tmp_path / "state/links").iterdir()
    inode = note.stat().st_ino
    link.learn("p", sent(20, 9.8), DELTA)
    assert note.stat().st_ino == inode


@pytest.fixture
def noise(tmp_path: Path) -> list[tuple[bytes, int]]:
    path = tmp_path / "noise"
    path.write_bytes(random.Random(1).randbytes(500_000))
    return [(bytes(path), 500_000)]


@pytest.fixture
def text(tmp_path: Path) -> list[tuple[bytes, int]]:
    path = tmp_path / "text"
    path.write_bytes(b"some words and some more words, " * 20_000)
    return [(bytes(path), 640_000)]


def test_what_can_be_compressed_is(
    link: Link, noise: list[tuple[bytes, int]], text: list[tuple[bytes, int]]
) -> None:
    assert link.choose("p", text).compress
    assert not link.choose("p", noise).compress
    assert link.choose("p", [(b"/nowhere/small", 100)]).compress
    link.learn("p", sent(400, 1.0), DELTA)
    assert not link.choose("p", text).compress
    assert not link.choose("p", [(b"/nowhere/small", 100)]).compress


def test_deltas_that_saved_nothing_on_a_fast_link_are_left_alone_for_a_while(
    link: Link, noise: list[tuple[bytes, int]], later: Callable[[float], None]
) -> None:
    link.learn("p", sent(400, 1.0), DELTA)
    assert not link.choose("p", noise).whole
    link.learn("p", Measured(48 * MB, 50 * MB, 48 * MB, 0.2), DELTA)
    assert link.choose("p", noise).whole
    assert not link.choose("another", noise).whole
    link.learn("p", Measured(50 * MB, 50 * MB, 50 * MB, 0.2), WHOLE)
    later(LITERAL_LIFE + 1)
    assert not link.choose("p", noise).whole


def test_new_files_say_nothing_of_deltas(link: Link, noise: list[tuple[bytes, int]]) -> None:
    link.learn("p", sent(400, 1.0), DELTA)
    link.learn("p", sent(50, 0.2), DELTA)
    assert not link.choose("p", noise).whole


def test_not_all_projects_there_ever_were_are_known(link: Link, tmp_path: Path) -> None:
    for number in range(MOST_PROJECTS + 20):
        link.learn(f"p{number}", Measured(MB, 2 * MB, MB, 0.1), DELTA)
    (note,) = (tmp_path / "state/links").iterdir()
    assert note.read_bytes().count(b'"share"') == MOST_PROJECTS
    assert b'"p83"' in note.read_bytes()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"rate":"x"}', b'{"rate":-1,"at":NOW}', b"\xff" * 9]
)
def test_damaged_notes_are_no_notes(link: Link, tmp_path: Path, damage: bytes) -> None:
    link.learn("p", sent(20, 10.0), DELTA)
    (note,) = (tmp_path / "state/links").iterdir()
    note.write_bytes(damage.replace(b"NOW", b"%d" % time.time()))
    assert link.rate() is None
    link.learn("p", sent(20, 10.0), DELTA)
    assert link.rate() == 2 * MB


def test_a_state_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    link = Link(str(tmp_path / "state"), "x")
    link.learn("p", sent(20, 10.0), DELTA)
    assert link.rate() is None
