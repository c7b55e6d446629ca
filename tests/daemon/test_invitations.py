"""The store of invitations: one use, short lives, hashes only, and what guessing leads to."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from psync.daemon import invitations as module
from psync.daemon.invitations import (
    KEPT,
    LONGEST_LIFE,
    MOST,
    SKEW,
    WRONG,
    InvitationRecord,
    InvitationRefused,
    Invitations,
)
from psync.errors import Refused, TrustError, UsageError

NOW = 1_800_000_000.0
WHERE = "192.0.2.9"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "invitations.json"


@pytest.fixture
def store(path: Path) -> Invitations:
    return Invitations(str(path))


def make(
    store: Invitations, life: float = 600, now: float | None = NOW
) -> tuple[InvitationRecord, bytes]:
    return store.create(life=life, now=now)


def refused(store: Invitations, secret: bytes, now: float = NOW) -> InvitationRefused:
    with pytest.raises(InvitationRefused) as caught:
        store.redeem(secret, WHERE, now)
    return caught.value


def test_one_invitation_is_for_one(store: Invitations) -> None:
    record, secret = store.create(life=600, name="desk", role="view", projects=("game-*",), now=NOW)
    assert store.outstanding(NOW) == (record,)
    used = store.redeem(secret, WHERE, NOW + 1)
    assert used == record
    assert (used.name, used.role, used.projects) == ("desk", "view", ("game-*",))
    assert store.outstanding(NOW + 1) == ()
    assert "was used already" in refused(store, secret, NOW + 2).message


def test_no_secret_is_in_the_file(store: Invitations, path: Path) -> None:
    _, secret = make(store)
    text = path.read_bytes()
    assert hashlib.sha256(secret).hexdigest().encode() in text
    assert secret not in text
    assert secret.hex().encode() not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(secret) * 8 >= 128


def test_the_mode_does_not_depend_on_the_umask(store: Invitations, path: Path) -> None:
    before = os.umask(0)
    try:
        make(store)
    finally:
        os.umask(before)
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one


def test_it_ends_at_its_time_also_for_the_next_daemon(store: Invitations, path: Path) -> None:
    _, secret = make(store, life=60)
    assert store.outstanding(NOW + 59.9)
    assert not store.outstanding(NOW + 60)
    later = Invitations(str(path))
    assert "has expired" in refused(later, secret, NOW + 60).message


def test_a_clock_that_was_set_back_makes_none_of_the_future_good(store: Invitations) -> None:
    _, secret = make(store)
    assert store.outstanding(NOW - SKEW)
    assert not store.outstanding(NOW - SKEW - 1)
    refused(store, secret, NOW - SKEW - 1)


@pytest.mark.parametrize("life", [0, 0.5, -1, LONGEST_LIFE + 1, float("nan"), float("inf")])
def test_lives_that_are_none(store: Invitations, life: float) -> None:
    with pytest.raises(UsageError, match="one second to one day"):
        make(store, life)


def test_patterns_that_match_nothing(store: Invitations) -> None:
    with pytest.raises(UsageError):
        store.create(life=600, projects=("../x",))


def test_not_too_many(store: Invitations) -> None:
    made = [make(store) for _ in range(MOST)]
    with pytest.raises(Refused, match="outstanding already") as caught:
        make(store)
    assert "--revoke all" in caught.value.hint
    store.redeem(made[3][1], WHERE, NOW)
    make(store)
    # what has ended does not count
    assert make(store, now=NOW + 700)
    assert len({record.id for record, _ in made}) == MOST


def test_the_past_is_forgotten(store: Invitations, path: Path) -> None:
    _, old = make(store)
    make(store, now=NOW + 600 + KEPT + 1)
    assert "no such invitation" in refused(store, old, NOW + 600 + KEPT + 1).message
    for _ in range(3 * module._MOST_KEPT):
        record, _ = make(store)
        store.withdraw(record.id, NOW)
    assert len(store._load().invitations) <= module._MOST_KEPT
    assert path.stat().st_size < 64 * 1024


def test_taking_back(store: Invitations) -> None:
    (one, first), (two, second), (_, third) = make(store), make(store), make(store)
    assert store.withdraw(one.id, NOW) == (one,)
    assert "was taken back" in refused(store, first).message
    with pytest.raises(UsageError, match="is outstanding"):
        store.withdraw(one.id, NOW)
    store.redeem(second, WHERE, NOW)
    assert len(store.withdraw("all", NOW)) == 1
    assert store.withdraw("all", NOW) == ()
    refused(store, third)
    with pytest.raises(UsageError):
        store.withdraw(two.id, NOW)


def test_taking_back_where_there_never_was_one(store: Invitations, path: Path) -> None:
    assert store.withdraw("all") == ()
    with pytest.raises(UsageError, match="no invitation x is outstanding"):
        store.withdraw("x")
    assert not path.parent.exists()


# -- guessing ------------------------------------------------------------------------------


def test_guesses_withdraw_everything(
    store: Invitations, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [make(store) for _ in range(3)]
    for number in range(WRONG - 1):
        # also over restarts
        assert refused(Invitations(str(path)), bytes([number]) * 16).withdrawn == ()
        assert len(store.outstanding(NOW)) == 3
    assert len(refused(store, b"last one........").withdrawn) == 3
    assert store.outstanding(NOW) == ()
    assert "was taken back" in refused(store, made[0][1]).message
    assert "withdrew 3 invitations after 10 wrong ones, the last from 192.0.2.9" in caplog.text
    # a new one begins anew
    _, secret = make(store)
    refused(store, b"x" * 16)
    store.redeem(secret, WHERE, NOW)


def test_a_new_invitation_gives_no_new_guesses(store: Invitations) -> None:
    make(store)
    for number in range(WRONG - 1):
        refused(store, bytes([number]) * 16)
    make(store)
    assert len(refused(store, b"x" * 16).withdrawn) == 2


def test_what_is_no_guess(store: Invitations) -> None:
    """An honest user with an old invitation does not take others' away."""
    _, old = make(store)
    store.redeem(old, WHERE, NOW)
    make(store)
    for _ in range(3 * WRONG):
        refused(store, old)
    assert len(store.outstanding(NOW)) == 1


def test_guesses_while_nothing_is_outstanding_write_nothing(store: Invitations, path: Path) -> None:
    record, _ = make(store)
    store.withdraw(record.id, NOW)
    before = path.read_bytes()
    for _ in range(WRONG + 1):
        refused(store, b"x" * 16)
    assert path.read_bytes() == before


def test_all_are_compared_whichever_fits(
    store: Invitations, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [make(store)[1] for _ in range(5)]
    compared: list[str] = []
    real = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append(one)
        return bool(real(one, other))

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for secret in (secrets[0], secrets[4], b"wrong..........."):
        compared.clear()
        try:
            store.redeem(secret, WHERE, NOW)
        except Refused:
            assert secret not in secrets
        assert len(compared) == 5


# -- races ---------------------------------------------------------------------------------


def test_of_many_at_the_same_time_one_succeeds(store: Invitations, path: Path) -> None:
    for _ in range(10):
        _, secret = make(store)

        def attempt(secret: bytes = secret) -> bool:
            try:
                Invitations(str(path)).redeem(secret, WHERE, NOW)
            except InvitationRefused as error:
                assert "was used already" in error.message
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            results = [future.result() for future in [pool.submit(attempt) for _ in range(8)]]
        assert sum(results) == 1


REDEEM = """
import sys
from psync.daemon.invitations import Invitations
from psync.errors import Refused
print("ready", flush=True)
sys.stdin.read()
try:
    Invitations(sys.argv[1]).redeem(bytes.fromhex(sys.argv[2]), "there")
except Refused as error:
    print("lost:", error.message)
else:
    print("won")
"""


def test_of_two_processes_one_succeeds(store: Invitations, path: Path) -> None:
    _, secret = make(store, now=None)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", REDEEM, str(path), secret.hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    said = []
    for process in started:
        with process:
            assert process.stdout is not None
            said.append(process.stdout.read())
    assert sorted(said) == [b"lost: this invitation was used already\n", b"won\n"]


# -- open ----------------------------------------------------------------------------------


def test_open_follows_the_file(store: Invitations, path: Path) -> None:
    daemon = Invitations(str(path))
    assert not daemon.open
    _, secret = make(store, now=None)
    assert daemon.open
    store.redeem(secret, WHERE)
    assert not daemon.open
    record, _ = make(store, now=None)
    assert daemon.open
    store.withdraw(record.id)
    assert not daemon.open
    make(store, now=NOW - 10 * KEPT)
    assert not daemon.open


def test_open_costs_one_stat(
    store: Invitations, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, now=None)
    daemon = Invitations(str(path))
    assert daemon.open

    def unexpected(*_arguments: object, **_more: object) -> object:
        raise AssertionError("the file was opened again")

    monkeypatch.setattr("builtins.open", unexpected)
    assert all(daemon.open for _ in range(100))


def test_open_ends_with_the_life_of_the_last(
    store: Invitations, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, life=60)
    daemon = Invitations(str(path))
    for now, expected in ((NOW, True), (NOW + 59, True), (NOW + 60, False)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert daemon.open is expected


# -- damage --------------------------------------------------------------------------------

RECORD = (
    b'{"id":"a","hash":"%s","created":1e9,"expires":9e9,"state":"open"}'
    % hashlib.sha256(b"0123456789abcdef").hexdigest().encode()
)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0\0\0\0",
        b"{",
        b"[]",
        b'{"version":1}',
        b'{"version":1,"wrong":0,"invitations":[{}]}',
        b'{"version":1,"wrong":0,"invitations":[],"more":1}',
        b'{"version":1,"wrong":"0","invitations":[]}',
        b'{"version":1,"wrong":0,"invitations":[%s]}' % RECORD.replace(b"open", b"good"),
        b'{"version":1,"wrong":0,"invitations":[%s]}' % RECORD[:-1] + b',"x":1}]}',
        b'{"version":1,"wrong":0,"invitations":[%s]}'
        % RECORD.replace(b'"hash":"', b'"hash":"\xc3\xa4'),
        b'{"version":1,"wrong":0,"invitations":' + b"[" * 50_000,
        b" " * (module._MAX_SIZE + 1),
    ],
)
def test_a_damaged_file_lets_nobody_in(
    path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(text)
    daemon = Invitations(str(path))
    assert not daemon.open
    refused(daemon, b"0123456789abcdef")
    assert daemon.outstanding() == ()
    (aside,) = path.parent.glob("invitations.json.damaged-*")
    assert aside.read_bytes() == text
    assert f"It is now {aside}" in caplog.text
    # and there can be others
    make(daemon, now=None)
    assert daemon.open


def test_the_sound_file_of_these_tests_is_sound(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b'{"version":1,"wrong":0,"invitations":[%s]}' % RECORD)
    assert Invitations(str(path)).open
    assert Invitations(str(path)).redeem(b"0123456789abcdef", WHERE).id == "a"


def test_a_later_version_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir(mode=0o700)
    text = b'{"version":2,"invitations":[]}'
    path.write_bytes(text)
    store = Invitations(str(path))
    with caplog.at_level(logging.ERROR):
        assert not any(store.open for _ in range(5))
    assert caplog.text.count("later psync-server") == 1
    for act in (
        lambda: store.redeem(b"x" * 16, WHERE),
        lambda: store.withdraw("all"),
        lambda: store.create(life=60),
    ):
        with pytest.raises(TrustError, match="later psync-server"):
            act()
    assert path.read_bytes() == text


def test_what_cannot_be_written_uses_nothing_up(store: Invitations, path: Path) -> None:
    _, secret = make(store)
    os.remove(f"{path}.lock")
    os.symlink("/dev/null", f"{path}.lock")  # never followed
    with pytest.raises(OSError):
        store.redeem(secret, WHERE, NOW)
    os.remove(f"{path}.lock")
    store.redeem(secret, WHERE, NOW)
