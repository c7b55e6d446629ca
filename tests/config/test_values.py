"""Durations, sizes, addresses, commands."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.config import values
from psync.config.values import (
    parse_address,
    parse_duration,
    parse_listen,
    parse_on_disconnect,
    parse_size,
)
from psync.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (" 2d ", 172800.0),
        ("0s", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "-5s", "5x", "1.2.3s", ".s", "5s5", "infs", "5M", "9" * 400 + "s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration; write for example 30s"):
        parse_duration(text)


def test_on_disconnect() -> None:
    assert parse_on_disconnect("keep") is None
    assert parse_on_disconnect("stop:90s") == 90.0


@pytest.mark.parametrize("text", ["", "keep:", "keep:5m", "stop", "stop:", "stop:5", "kill:5m"])
def test_no_on_disconnect(text: str) -> None:
    with pytest.raises(UsageError, match=r"is neither keep nor stop:DURATION|is not a duration"):
        parse_on_disconnect(text)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("256MiB", 256 * 1024**2),
        ("1 gib", 1024**3),
        ("10MB", 10_000_000),
        ("10kB", 10_000),
        ("2TiB", 2 * 1024**4),
        ("12B", 12),
        ("4096", 4096),
        (4096, 4096),
        (0, 0),
    ],
)
def test_sizes(value: str | int, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "MiB", "1M", "1.5GiB", "-1", -1, "1 2", "1XB", "9" * 5000])
def test_no_sizes(value: str | int) -> None:
    with pytest.raises(UsageError, match="is not a size; write for example 256MiB"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:8722", ("::1", 8722)),
        ("[::]:65535", ("::", 65535)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_to_listen_on(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("127.0.0.1", "has no port; write 127.0.0.1:PORT"),
        ("[::1]", "has no port; write [::1]:PORT"),
        ("", "has no port"),
        (":8722", "names no address; 0.0.0.0:8722 listens on every IPv4 address"),
        ("*:8722", "names no address"),
        ("::1:8722", "an IPv6 address stands in brackets; write [::1]:8722"),
        ("[::1:8722", "is not an IPv6 address"),
        ("[x]:8722", "'x' is not an IPv6 address"),
        ("[]:1", "is not an IPv6 address"),
        ("1.2.3:80", "'1.2.3' is not an IPv4 address"),
        ("1.2.3.400:80", "'1.2.3.400' is not an IPv4 address"),
        ("a:", "'' is not a port; a port is a number from 0 to 65535"),
        ("a:http", "'http' is not a port"),
        ("a:65536", "'65536' is not a port"),
        ("a:-1", "'-1' is not a port"),
        ("a:²", "'²' is not a port"),
        ("a b:1", "'a b' is not the name of a host"),
        ("-x:1", "'-x' is not the name of a host"),
    ],
)
def test_no_addresses_to_listen_on(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert problem in str(caught.value)


def test_an_address_to_connect_to_needs_a_port() -> None:
    assert parse_address("deck.lan:8722") == ("deck.lan", 8722)
    with pytest.raises(UsageError, match="0 is no port to connect to"):
        parse_address("deck.lan:0")


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_listen, parse_on_disconnect])
@given(text=st.text())
def test_nothing_but_a_usage_error_leaves_a_parser(parse: object, text: str) -> None:
    assert callable(parse)
    try:
        parse(text)
    except UsageError as error:
        assert "\n" not in error.message


def test_commands_are_split_as_by_a_shell() -> None:
    assert values.command("ssh -i '/my keys/id' -v") == (b"ssh", b"-i", b"/my keys/id", b"-v")
    assert values.command("s\udcffsh") == (b"s\xffsh",)


def test_paths_may_hold_what_file_names_may_hold() -> None:
    assert values.paths(["a\nb", "é", "\udcff"]) == (b"a\nb", b"\xc3\xa9", b"\xff")


@pytest.mark.parametrize("text", ["", "''", " ", "ssh 'x", "ssh \x1b"])
def test_no_commands(text: str) -> None:
    with pytest.raises(UsageError):
        values.command(text)


@pytest.mark.parametrize("name", ["deck", "Deck-2", "a.b_c", "x" * 64, "_x"])
def test_target_names(name: str) -> None:
    assert values.target_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "a/b", "a b", "x" * 65, "ü", "local", "_", "a\x1b[1m"]
)
def test_no_target_names(name: str) -> None:
    with pytest.raises(UsageError, match="cannot"):
        values.target_name(name)
