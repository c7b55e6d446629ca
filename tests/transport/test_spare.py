"""The CA's certificate and its copy: whichever is sound is used, and nothing is made anew."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from psync.errors import TrustError
from psync.transport.authority import Authority, set_damaged_aside


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    directory = tmp_path / "ca"
    Authority.load_or_create(str(directory))
    return directory


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_copy_is_there_from_the_beginning(ca: Path) -> None:
    assert (ca / "ca-cert.copy").read_bytes() == (ca / "ca-cert.pem").read_bytes()


def test_one_of_an_earlier_version_gets_its_copy(ca: Path) -> None:
    (ca / "ca-cert.copy").unlink()
    set_damaged_aside(str(ca))
    assert (ca / "ca-cert.copy").read_bytes() == (ca / "ca-cert.pem").read_bytes()


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-cert.copy"])
def test_whatever_bit_of_one_changes_the_other_puts_it_right(
    ca: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = (ca / name).read_bytes()
    dice = random.Random(4)
    bits = [0, len(sound) * 8 - 1, *(dice.randrange(len(sound) * 8) for _ in range(60))]
    for damaged in [b"", sound[:-1], sound[: len(sound) // 2], *(flipped(sound, n) for n in bits)]:
        (ca / name).write_bytes(damaged)
        caplog.clear()
        set_damaged_aside(str(ca))
        assert (ca / name).read_bytes() == sound
        assert ("restored" in caplog.text) == (name == "ca-cert.pem")
    assert Authority.load_or_create(str(ca)).certificate == sound


def test_one_that_is_gone_comes_back_and_is_not_made_anew(ca: Path) -> None:
    sound = (ca / "ca-cert.pem").read_bytes()
    (ca / "ca-cert.pem").unlink()
    assert Authority.load_or_create(str(ca)).certificate == sound
    assert (ca / "ca-cert.pem").read_bytes() == sound


def test_where_both_are_damaged_nothing_is_touched(ca: Path) -> None:
    before = {}
    for bit, name in ((4000, "ca-cert.pem"), (3200, "ca-cert.copy")):
        (ca / name).write_bytes(flipped((ca / name).read_bytes(), bit))
        before[name] = (ca / name).read_bytes()
    for look in (set_damaged_aside, Authority.load_or_create):
        with pytest.raises(TrustError, match=r"ca-cert\.pem, is damaged") as caught:
            look(str(ca))
        assert "pair every client again" in caught.value.hint
    assert {name: (ca / name).read_bytes() for name in before} == before


def test_a_ca_that_was_replaced_is_not_undone(ca: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    new = Authority.load_or_create(str(other)).certificate
    for name in ("ca-cert.pem", "ca-key.pem"):
        os.replace(other / name, ca / name)
    set_damaged_aside(str(ca))
    assert (ca / "ca-cert.pem").read_bytes() == (ca / "ca-cert.copy").read_bytes() == new
