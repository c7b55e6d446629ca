"""Messages about files: they survive the trip, within their bounds, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from psync.errors import ProtocolError
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, decode, encode
from psync.protocol.transfers import MAX_ARGUMENTS

channels = st.integers(1, m.MAX_CHANNEL)
requests = st.integers(1, 2**31)
projects = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,40}\Z")
seals = st.from_regex(r"\A[A-Za-z0-9_-]{0,64}\Z")
names = st.lists(st.binary(max_size=60), max_size=20).map(tuple)

about_files = st.one_of(
    st.builds(
        m.OpenTransfer,
        channel=channels,
        command=st.lists(st.binary(max_size=40), max_size=8).map(tuple),
        arguments=st.binary(max_size=300),
    ),
    st.builds(m.TransferEnded, channel=channels, status=st.integers(-64, 255)),
    st.builds(m.CancelTransfer, channel=channels),
    st.builds(m.BeginSync, request=requests, project=projects),
    st.builds(m.SyncBegun, request=requests),
    st.builds(m.EndSync, request=requests, project=projects, base=seals, names=names),
    st.builds(m.SyncEnded, request=requests, seal=seals),
    st.builds(m.CheckMirror, request=requests, project=projects, seal=seals),
    st.builds(
        m.MirrorChecked, request=requests, known=st.booleans(), changed=names, more=st.booleans()
    ),
)

EXAMPLES: tuple[m.Control, ...] = (
    m.OpenTransfer(channel=1, command=(b"rsync", b"--server"), arguments=b".\0\0"),
    m.TransferEnded(channel=1, status=-15),
    m.CancelTransfer(channel=1),
    m.BeginSync(request=1, project="game-1"),
    m.SyncBegun(request=1),
    m.EndSync(request=1, project="game-1", base="a", names=(b"tree/a",)),
    m.SyncEnded(request=1, seal="b"),
    m.CheckMirror(request=1, project="game-1", seal="b"),
    m.MirrorChecked(request=1, known=True, changed=(b"tree/a",), more=True),
)


def _fields(message: m.Control) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode(message)[HEADER.size :])  # type: ignore[arg-type]
    return found


def _said(kind: type[m.Control], fields: dict[str, Any]) -> m.Message | None:
    return decode(HEADER.pack(kind.TYPE, 0, 0, 0) + json.dumps(fields).encode())


@given(about_files)
def test_they_survive_the_trip(message: m.Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_unknown_fields_are_refused(message: m.Control) -> None:
    fields = _fields(message)
    assert _said(type(message), fields) == message
    with pytest.raises(ProtocolError, match="more_of_it"):
        _said(type(message), {**fields, "more_of_it": 1})


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_no_field_that_is_needed_may_be_missing(message: m.Control) -> None:
    fields = _fields(message)
    needed = set(fields) - {"base", "names", "changed", "more"}
    if isinstance(message, m.SyncEnded):
        needed.discard("seal")
    for name in needed:
        with pytest.raises(ProtocolError):
            _said(type(message), {key: value for key, value in fields.items() if key != name})


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda one: type(one).__name__)
def test_each_is_said_by_one_side_only(message: m.Control) -> None:
    assert isinstance(message, m.FROM_CLIENT) != isinstance(message, m.FROM_DAEMON)


@pytest.mark.parametrize("seal", ["a b", "a\n", "../x", "é", "x" * 65, None, 7])
def test_what_is_no_seal(seal: object) -> None:
    for message, field in (
        (m.EndSync(request=1, project="p-1"), "base"),
        (m.SyncEnded(request=1), "seal"),
        (m.CheckMirror(request=1, project="p-1", seal=""), "seal"),
    ):
        with pytest.raises(ProtocolError):
            _said(type(message), {**_fields(message), field: seal})


@pytest.mark.parametrize("project", ["..", "a/b", "-a", "A", "", "p-1\n", "a" * 81])
def test_projects_are_ids(project: str) -> None:
    for kind in (m.BeginSync, m.EndSync, m.CheckMirror):
        fields = {"request": 1, "project": project, "seal": "s"}
        if kind is not m.CheckMirror:
            del fields["seal"]
        with pytest.raises(ProtocolError, match="project"):
            _said(kind, fields)


def test_requests_and_channels_are_numbers_above_zero() -> None:
    for message in EXAMPLES:
        fields = _fields(message)
        number = "request" if "request" in fields else "channel"
        for wrong in (0, -1, "1", None, m.MAX_CHANNEL + 1 if number == "channel" else 0):
            with pytest.raises(ProtocolError, match=number):
                _said(type(message), {**fields, number: wrong})


def test_names_are_bounded() -> None:
    most = tuple(b"%d" % number for number in range(m.MOST_NAMES))
    for make in (
        lambda names: m.EndSync(request=1, project="p-1", names=names),
        lambda names: m.MirrorChecked(request=1, known=True, changed=names),
    ):
        assert decode(encode(make(most))) == make(most)
        with pytest.raises(ProtocolError):
            decode(encode(make((*most, b"one more"))))


def test_as_many_bytes_of_names_as_are_allowed_fit_into_one_message() -> None:
    size = m.NAMES_BYTES // m.MOST_NAMES
    for names in ((b"\xff" * size,) * m.MOST_NAMES, (b"\xff" * m.NAMES_BYTES,)):
        message = m.EndSync(request=2**31, project="p" * 80, base="s" * 64, names=names)
        assert decode(encode(message)) == message
        checked = m.MirrorChecked(request=2**31, known=True, changed=names, more=True)
        assert decode(encode(checked)) == checked


def test_what_rsync_is_started_with_is_bounded() -> None:
    most = m.OpenTransfer(channel=1, command=(b"x",) * 8, arguments=b"x" * MAX_ARGUMENTS)
    assert decode(encode(most)) == most
    for wrong in (
        m.OpenTransfer(channel=1, command=(b"x",) * 9, arguments=b""),
        m.OpenTransfer(channel=1, command=(), arguments=b"x" * (MAX_ARGUMENTS + 1)),
    ):
        with pytest.raises(ProtocolError):
            decode(encode(wrong))


def test_an_answer_at_its_defaults_is_short() -> None:
    # a peer that lacks a field understands whatever does not use it
    assert _fields(m.SyncEnded(request=7)) == {"request": 7}
    assert _fields(m.MirrorChecked(request=7, known=False)) == {"request": 7, "known": False}
    assert _fields(m.EndSync(request=7, project="p-1")) == {"request": 7, "project": "p-1"}
