"""What the forced command allows."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given, strategies as st

from psync.daemon.rsyncgate import Asked, Denied
from psync.daemon.sshgate import LONGEST, Discard, Relay, Start, decide, split
from psync.sync.shell import quote

PROJECT = "game-desk-0123456789abcdef"
FLAGS = b"-slOtprRze.iLsfxCIvu"
GIVING = b"-slWtprcISe.iLsfxCIvu"


@pytest.fixture(autouse=True)
def _a_project_id() -> None:
    from psync.model import is_project_id

    assert is_project_id(PROJECT)


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        (b"psync-server relay", Relay()),
        (b".local/bin/psync-server relay", Relay()),
        (b"'/home/me/my venv/bin/psync-server' relay", Relay()),
        (b"""'/it'"'"'s/psync-server' relay""", Relay()),
        (b"/x/psync-server start --nonce=0123abcd", Start("0123abcd")),
        (b"psync-server discard " + PROJECT.encode(), Discard(PROJECT)),
        (b"/usr/bin/rsync --server " + FLAGS, Asked(b"-lOtprRze.iLsfxCIvu")),
        (b"rsync --server -sOtprRze.iLsfxCIvu", Asked(b"-OtprRze.iLsfxCIvu")),
        (b"rsync --server -sdlOtpRze.iLsfxCIvu", Asked(b"-dlOtpRze.iLsfxCIvu")),
        (b"rsync --server --sender " + GIVING, Asked(b"-lWtprcISe.iLsfxCIvu", True)),
        (b"rsync --server -snOdRze.iLsfxCIvu", Asked(b"-nOdRze.iLsfxCIvu")),
    ],
)
def test_what_psync_asks_for_is_allowed(command: bytes, request_: object) -> None:
    assert decide(command) == request_


@pytest.mark.parametrize(
    "command",
    [
        None,
        b"",
        b"id",
        b"sh -c id",
        b"psync-server",
        b"psync-server serve",
        b"psync-server enroll --nonce=0123abcd",
        b"psync-server invite",
        b"psync-server start",
        b"psync-server start --nonce=0123abcd --listen",
        b"psync-server start --nonce=0123;id",
        b"psync-server start '--nonce=0123abcd\n'",
        b"psync-server relay x",
        b"psync-server relay;id",
        b"psync-server relay\nid",
        b"psync-server relay\0id",
        b"psync-server relay ",
        b"psync-server  relay",
        b" psync-server relay",
        b"psync-server 'relay",
        b"psync-server re'lay'",
        b'psync-server "relay"',
        b"psync-server $(id)",
        b"psync-server `id`",
        b"psync-server discard ..",
        b"psync-server discard '../x'",
        b"psync-server discard ''",
        b"psync-server ssh-gate --client x",
        b"psync-server ssh-key --client x --nonce=0123abcd",
        b"rsync --server " + FLAGS + b" . /etc",
        b"rsync --server -lOtprRze.iLsfxCIvu . /etc/",  # not -s: the path is on the command line
        b"rsync --sender --server -se.LsfxCIvu",
        b"rsync --server --sender --sender -se.LsfxCIvu",
        b"rsync --server --sender -lre.LsfxCIvu . /etc/",
        b"rsync --server --sender -sLre.LsfxCIvu",
        b"rsync --server --daemon .",
        b"rsync --daemon",
        b"rsync --server -s",
        b"rsync --server -sLe.LsfxCIvu",
        b"rsync --server -sKe.LsfxCIvu",
        b"rsync --server '-se.LsfxCIvu --rsh=id'",
        b"rsync --server -se/bin/sh",
        b"rsync --server -sre.i/x",
        b"rsync -e id x:y z",
        b"rsync /etc/passwd /tmp/x",
        b"scp -t /tmp",
        b"/usr/lib/openssh/sftp-server",
        b"env rsync --server " + FLAGS,
        b"xrsync --server " + FLAGS,
        b"psync-server relay" + b" " * LONGEST,
        b"rsync --server -s" + b"l" * LONGEST + b"e.x",
    ],
)
def test_nothing_else_is(command: bytes | None) -> None:
    with pytest.raises(Denied):
        decide(command)


@given(st.binary(max_size=200))
def test_any_bytes_are_denied_or_one_of_the_four(command: bytes) -> None:
    try:
        decide(command)
    except Denied:
        pass


_PIECE = st.sampled_from(
    [b"rsync", b"psync-server", b"/", b"--server", b"relay", b"start", b"--nonce=01234567", b" ",
     b"'", b'"', b"\\", b"\n", b"\0", b";", b"|", b"$(", b")", b"`", FLAGS, b"--sender", b".",
     b"..", b"discard", PROJECT.encode(), b"&", b">", b"-e", b"~", b"*", b"\x80"]
)  # fmt: skip


@given(st.lists(_PIECE, max_size=8).map(b"".join))
def test_what_is_allowed_has_nothing_in_it_that_a_shell_would_act_on(command: bytes) -> None:
    try:
        decide(command)
    except Denied:
        return
    # the very bytes that psync itself would have sent for these words
    assert command == b" ".join(quote(word) for word in split(command))
    assert shlex.split(command.decode("latin-1")) == [
        word.decode("latin-1") for word in split(command)
    ]
    outside = re.sub(rb"'[^']*'", b"", command.replace(b'"\'"', b""))
    assert not re.search(rb"[^A-Za-z0-9_@%+=:,./ -]", outside)


_WORDS = st.binary(min_size=1, max_size=20) | st.lists(
    st.sampled_from([b"'", b'"', b" ", b"a", b"\\"]), min_size=1
).map(b"".join)


@given(st.lists(_WORDS, min_size=1, max_size=5))
def test_words_that_psync_quotes_come_out_as_they_were(words: list[bytes]) -> None:
    command = b" ".join(quote(word) for word in words)
    if re.search(rb"[\x00-\x1f\x7f]", command):
        with pytest.raises(Denied):
            split(command)
    else:
        assert split(command) == words
