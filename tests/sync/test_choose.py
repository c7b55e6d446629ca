"""What is chosen, against what was measured; see the table in the module."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.model import Tool
from psync.sync.choose import (
    NEAR_RATE,
    UNKNOWN_RATE,
    ZLIB_SPEED,
    ZSTD_SPEED,
    Choice,
    choose,
    compression_speed,
)

BINARY, NOISE = 0.41, 1.001
LOOPBACK = 400e6


@pytest.mark.parametrize("rate", [1e6, 10e6, 20e6, 50e6, 100e6])
def test_a_binary_is_compressed_on_a_link_as_fast_as_a_wire(rate: float) -> None:
    assert choose(rate, BINARY) == Choice(compress=True, whole=False)


@pytest.mark.parametrize("rate", [LOOPBACK, NEAR_RATE])
def test_it_is_not_where_compressing_is_slower_than_the_link(rate: float) -> None:
    assert choose(rate, BINARY) == Choice(compress=False, whole=False)


def test_zlib_is_for_slow_links() -> None:
    assert choose(10e6, BINARY, speed=ZLIB_SPEED).compress
    assert not choose(100e6, BINARY, speed=ZLIB_SPEED).compress


@given(st.floats(1e3, 1e10), st.sampled_from([ZSTD_SPEED, ZLIB_SPEED]))
def test_noise_is_never_compressed(rate: float, speed: float) -> None:
    assert not choose(rate, NOISE, speed=speed).compress


@pytest.mark.parametrize("literal", [0.5, 0.9, 1.0])
def test_files_that_change_throughout_go_whole_over_a_fast_link(literal: float) -> None:
    assert choose(LOOPBACK, BINARY, literal=literal).whole
    assert choose(LOOPBACK, NOISE, literal=literal).whole


@given(st.floats(1e3, 10e6), st.floats(0, 1.1), st.floats(0, 1))
def test_a_slow_link_always_has_its_delta(rate: float, ratio: float, literal: float) -> None:
    # what is compressed to nothing at all is as well sent whole
    assert not choose(rate, max(ratio, 0.3), literal=literal).whole


@given(st.floats(1e3, 1e9), st.floats(0.3, 1.1))
def test_a_file_of_which_a_little_changed_has_its_delta(rate: float, ratio: float) -> None:
    assert not choose(min(rate, LOOPBACK), ratio, literal=0.01).whole


def test_what_is_not_known_is_taken_for_a_local_network() -> None:
    assert choose(UNKNOWN_RATE, BINARY) == Choice(compress=True, whole=False)
    assert choose(UNKNOWN_RATE, NOISE) == Choice(compress=False, whole=False)


@pytest.mark.parametrize(
    ("here", "there", "speed"),
    [
        ("3.5.0", "3.2.7", ZSTD_SPEED),
        ("3.2.0pre1", "3.4.1", ZSTD_SPEED),
        ("3.5.0", "3.1.3", ZLIB_SPEED),
        ("3.1.3", "3.5.0", ZLIB_SPEED),
        ("openrsync", "3.5.0", ZLIB_SPEED),
        ("3.5.0", None, ZLIB_SPEED),
        ("10.0", "3.10.1", ZSTD_SPEED),
    ],
)
def test_both_rsyncs_have_to_be_new_for_zstd(here: str, there: str | None, speed: float) -> None:
    tool = None if there is None else Tool("/usr/bin/rsync", there)
    assert compression_speed(here, tool) == speed
