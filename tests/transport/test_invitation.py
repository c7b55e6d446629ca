"""The text of an invitation: whole, cut, changed, hostile."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, strategies as st

from psync.errors import UsageError
from psync.transport.invitation import (
    LONGEST,
    MARK,
    MOST_ADDRESSES,
    Invitation,
    check_host,
    parse_host,
    read_invitation,
    write_invitation,
)

GOOD = Invitation(
    (("192.0.2.20", 8722), ("2001:db8::7", 443)), bytes(range(32)), b"0123456789abcdef"
)
TEXT = write_invitation(GOOD)

ADDRESSES = st.lists(
    st.tuples(
        st.one_of(
            st.ip_addresses().map(str),
            st.from_regex(r"\A[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?\Z"),
        ),
        st.integers(1, 65535),
    ),
    min_size=1,
    max_size=MOST_ADDRESSES,
)


def packed(body: bytes, length: int | None = None) -> str:
    """An invitation with a right checksum, whatever is in it."""
    size = len(body) + 4 if length is None else length
    payload = size.to_bytes(2, "big") + body
    payload += hashlib.sha256(payload).digest()[:4]
    return MARK + base64.b32encode(payload).decode().rstrip("=").lower()


@given(ADDRESSES, st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_what_is_written_can_be_read(
    addresses: list[tuple[str, int]], ca: bytes, secret: bytes
) -> None:
    invitation = Invitation(tuple(addresses), ca, secret)
    assert read_invitation(write_invitation(invitation)) == invitation


def test_a_text_that_survives_shells_and_chats() -> None:
    assert TEXT.removeprefix(MARK).isalnum()
    assert TEXT.lower() == TEXT
    mangled = f"  {TEXT[:40].upper()}\r\n  {TEXT[40:]}\n"
    assert read_invitation(mangled) == GOOD


@pytest.mark.parametrize("length", range(len(TEXT)))
def test_a_cut_paste_is_named_as_such(length: int) -> None:
    with pytest.raises(UsageError) as caught:
        read_invitation(TEXT[:length])
    assert ("cut off" in caught.value.message) == (length > 0)


def test_the_beginning_is_missing() -> None:
    with pytest.raises(UsageError, match="does not begin with psync1-"):
        read_invitation(TEXT[3:])


@pytest.mark.parametrize("place", range(len(MARK), len(TEXT)))
def test_a_changed_character_is_noticed(place: int) -> None:
    other = "a" if TEXT[place] != "a" else "b"
    with pytest.raises(UsageError):
        read_invitation(TEXT[:place] + other + TEXT[place + 1 :])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no invitation"),
        ("psync pair --invite", "no invitation"),
        ("psync2-abc", "another version"),
        (f"{TEXT}a", "checksum"),
        (f"{TEXT}aaaaaaaaaaaaaaaa", "something behind"),
        (MARK + "a" * LONGEST, "never longer"),
        (f"{TEXT[:30]}\0{TEXT[31:]}", "letters and digits"),
        (f"{TEXT[:30]}\x1b[31m{TEXT[31:]}", "letters and digits"),
        (f"{TEXT[:30]}—{TEXT[31:]}", "letters and digits"),
        (f"{TEXT[:30]}0{TEXT[31:]}", "checksum"),
        (MARK, "cut off"),
        (packed(b""), "cut off"),
        (packed(bytes(48)), "checksum"),  # no address at all
        (packed(bytes(48) + b"\x05a:b:1"), "checksum"),
        (packed(bytes(48) + b"\xffa:1"), "checksum"),
        (packed(bytes(48) + b"\x03a:0"), "checksum"),
        (packed(bytes(48) + b"\x04a:\xb2\xb2"), "checksum"),
        (packed(bytes(48) + b"\x04-a:1"), "checksum"),
        (packed(bytes(48) + b"\x00"), "checksum"),
        (packed(bytes(48) + b"\x03a:1" * (MOST_ADDRESSES + 1)), "checksum"),
        (packed(bytes(48) + b"\x03a:1", 9), "something behind"),
        (packed(bytes(48) + b"\x03a:1", 65535), "cut off"),
    ],
)
def test_hostile_texts(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_invitation(text)


@given(st.text())
def test_any_text(text: str) -> None:
    with pytest.raises(UsageError):
        read_invitation(text)
    with pytest.raises(UsageError):
        read_invitation(MARK + text)


@given(st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=400))
def test_any_digits(digits: str) -> None:
    with pytest.raises(UsageError):
        read_invitation(MARK + digits)


def test_errors_and_logs_do_not_repeat_the_secret() -> None:
    assert GOOD.secret.hex() not in repr(GOOD)
    assert repr(GOOD.secret)[2:-1] not in repr(GOOD)
    with pytest.raises(UsageError) as caught:
        read_invitation(TEXT[:-1])
    assert TEXT[10:40] not in str(caught.value)


def test_what_cannot_be_written() -> None:
    for addresses in ((), GOOD.addresses * MOST_ADDRESSES, (("a b", 1),), (("x\0", 1),)):
        with pytest.raises(UsageError):
            write_invitation(Invitation(addresses, GOOD.ca, GOOD.secret))
    with pytest.raises(ValueError, match="size"):
        write_invitation(Invitation(GOOD.addresses, b"short", GOOD.secret))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box", ("box", 7)),
        ("box.example.org:80", ("box.example.org", 80)),
        ("192.0.2.1:99", ("192.0.2.1", 99)),
        ("2001:db8::1", ("2001:db8::1", 7)),
        ("[2001:db8::1]", ("2001:db8::1", 7)),
        ("[2001:db8::1]:99", ("2001:db8::1", 99)),
    ],
)
def test_hosts(text: str, expected: tuple[str, int]) -> None:
    assert parse_host(text, 7) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":5", "a:", "a:0", "a:65536", "a:b:c", "a:٣", "[a]", "[::1]:", "[::1", "fe80::1%lo"),
        *("-x", "a b", "a/b", "a\0", "a\n", "x" * 254, "$(reboot)", "a@b"),
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(UsageError):
        parse_host(text, 7)


def test_a_host_with_a_trailing_newline() -> None:
    with pytest.raises(UsageError):
        check_host("box\n")
