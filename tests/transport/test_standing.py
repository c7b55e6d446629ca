"""What a client can tell of its own certificate where the daemon says nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.transport.peers import Pair, self_signed

from psync.transport import certificates
from psync.transport.standing import fault_of

YEAR = certificates.LEAF_LIFETIME


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(certificates, "EARLIEST", 0.0)
    return Pair(tmp_path / "pair")


def test_one_that_is_good_is_not_to_blame(pair: Pair) -> None:
    assert fault_of(pair.client.cert, pair.ca) == ""


def test_dates(pair: Pair) -> None:
    now = time.time()
    for own in (False, True):
        assert "expired" in fault_of(pair.client.cert, pair.ca, own=own, now=now + YEAR + 1)
        assert "not valid yet" in fault_of(pair.client.cert, pair.ca, own=own, now=now - YEAR)


def test_another_authority_and_another_purpose(pair: Pair, tmp_path: Path) -> None:
    stranger = Pair(tmp_path / "other").client
    nobody = self_signed(tmp_path / "nobody", time.time())
    for files in (stranger, nobody):
        assert "another authority" in fault_of(files.cert, pair.ca)
        assert fault_of(files.cert, pair.ca, own=True) == ""  # theirs may be two
    assert "not one for clients" in fault_of(pair.server.cert, pair.ca)


def test_what_cannot_be_read_proves_nothing(pair: Pair, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"-----BEGIN CERTIFICATE-----\n!")
    assert fault_of(str(damaged), pair.ca) == ""
    assert fault_of(str(tmp_path / "missing"), pair.ca) == ""
    assert fault_of(pair.client.cert, str(damaged)) == ""
