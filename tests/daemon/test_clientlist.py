"""The format of the list of clients, and who is meant by a word."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from psync.daemon.clientlist import ClientRecord, Damage, check_patterns, decode, encode
from psync.errors import TrustError, UsageError

OLD: dict[str, Any] = {
    "name": "desk",
    "fingerprint": "sha256:" + "a" * 64,
    "client_id": "desk-0123456789abcdef",
    "paired": 1.5,
    "expires": 2e9,
    "revoked": None,
}


def text(version: int, *clients: dict[str, Any]) -> bytes:
    return json.dumps({"version": version, "clients": clients}).encode()


def test_a_list_of_the_first_version_is_read_and_may_everything() -> None:
    (record,) = decode(text(1, OLD), "x")
    assert record == ClientRecord("desk", "sha256:" + "a" * 64, "desk-0123456789abcdef", 1.5, 2e9)
    assert (record.role, record.projects, record.previous) == ("run", (), None)
    (revoked,) = decode(text(1, OLD | {"revoked": 3.0}), "x")
    assert revoked.revoked == 3.0


def test_it_is_written_in_the_second_version_which_the_first_refuses_and_leaves_alone() -> None:
    (record,) = decode(text(1, OLD), "x")
    limited = msgspec.structs.replace(record, role="view", projects=("game-*",), via="invitation")
    written = encode((limited,))
    assert json.loads(written)["version"] == 2  # psync 0.1 takes 1 only: "a later psync-server"
    assert decode(written, "x") == (limited,)


def test_a_later_version_is_not_guessed_at() -> None:
    with pytest.raises(TrustError, match="x, was written by a later psync-server"):
        decode(text(3, OLD), "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"rewoked": 3.0},
        {"role": "admin"},
        {"projects": "game"},
        {"via": "magic"},
        {"previous": 1},
        {"paired": "now"},
    ],
)
def test_what_is_not_understood_keeps_its_client_out_and_nobody_else(wrong: dict[str, Any]) -> None:
    sound = OLD | {"name": "laptop"}
    with pytest.raises(Damage, match="client 1") as damage:
        decode(text(2, OLD | wrong, sound), "x")
    assert [one.name for one in damage.value.sound] == ["laptop"]


@pytest.mark.parametrize("bad", [b"", b"[]", b"\xff", text(0), text(-1), b'{"version": 2}'])
def test_damage(bad: bytes) -> None:
    with pytest.raises(Damage):
        decode(bad, "x")


def test_when_its_certificates_end() -> None:
    record = ClientRecord("desk", "new", "id", 1.0, 20.0, previous="old", previous_expires=10.0)
    assert (record.end_of("new"), record.end_of("old")) == (20.0, 10.0)


def test_patterns() -> None:
    check_patterns(("*", "game-*", "a?c", "x-[0-9].y_z", "[!a]*"))
    for bad in ("", "a b", "a/b", "../*", "a\n", "ä", "x" * 201):
        with pytest.raises(UsageError, match="matches the ID of no project"):
            check_patterns((bad,))
