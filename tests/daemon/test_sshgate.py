"""What the forced command allows."""

from __future__ import annotations

import re
import shlex

import pytest
from hypothesis import given, strategies as st

from psync.daemon.sshgate import (
    ARGUMENTS,
    LONGEST,
    Denied,
    Discard,
    Receive,
    Relay,
    Start,
    complete,
    decide,
    split,
    transfer,
)
from psync.sync.shell import quote

PROJECT = "game-desk-0123456789abcdef"
ROOT = b"/home/me/.local/share/psync-server/projects"
FLAGS = b"-slOtprRze.iLsfxCIvu"
RECEIVE = Receive(b"-lOtprRze.iLsfxCIvu")
OPTIONS = [
    b"--compress-level=1",
    b"--log-format=X",
    b"--timeout=120",
    b"-@-1",
    b"--partial-dir",
    b".psync-partial",
    b"--delay-updates",
    b"--safe-links",
    b"--info=NAME,NONREG,STATS2,SYMSAFE",
]


def sent(*words: bytes) -> bytes:
    return b"\0".join((b"rsync", *words)) + b"\0\0"


def place(project: str = PROJECT, part: bytes = b"tree/") -> bytes:
    return ROOT + b"/" + project.encode() + b"/" + part


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
        (b"/usr/bin/rsync --server " + FLAGS, RECEIVE),
        (b"rsync --server -sOtprRze.iLsfxCIvu", Receive(b"-OtprRze.iLsfxCIvu")),
        (b"rsync --server -sdlOtpRze.iLsfxCIvu", Receive(b"-dlOtpRze.iLsfxCIvu")),
        (b"rsync --server -snOdRze.iLsfxCIvu", Receive(b"-nOdRze.iLsfxCIvu")),
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
        b"rsync --server --sender -se.LsfxCIvu",
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


# -- rsync's arguments --------------------------------------------------------------------


def test_a_transfer_of_psync_becomes_one_into_the_directory_it_is_started_in() -> None:
    job = transfer(RECEIVE, sent(*OPTIONS, b".", place()), ROOT)
    assert (job.project, job.part) == (PROJECT, b"tree")
    assert job.argv == (
        b"--server",
        b"-lOtprRze.iLsfxCIvu",
        b"--safe-links",
        b"--compress-level=1",
        b"--log-format=X",
        b"--timeout=120",
        b"-@-1",
        b"--partial-dir=.psync-partial",
        b"--delay-updates",
        b"--info=NAME,NONREG,STATS2,SYMSAFE",
        b".",
        b"./",
    )
    assert ROOT not in b" ".join(job.argv)


def test_links_that_lead_out_are_never_made_whatever_the_client_wants() -> None:
    job = transfer(RECEIVE, sent(b".", place(part=b"outside/")), ROOT)
    assert job.part == b"outside"
    assert b"--safe-links" in job.argv


def test_the_root_may_be_given_with_a_slash_at_its_end() -> None:
    assert transfer(RECEIVE, sent(b".", place()), ROOT + b"/").project == PROJECT


@pytest.mark.parametrize(
    "option",
    [
        [b"--sender"],
        [b"--daemon"],
        [b"--config=/etc/rsyncd.conf"],
        [b"--log-file=/tmp/x"],
        [b"--log-file", b"/tmp/x"],
        [b"--log-format=%o %h"],
        [b"--files-from=/etc/passwd"],
        [b"--files-from", b"-"],
        [b"--partial-dir", b"/tmp"],
        [b"--partial-dir", b"../x"],
        [b"--partial-dir=/tmp"],
        [b"--partial-dir"],
        [b"--temp-dir", b"/tmp"],
        [b"--temp-dir=."],
        [b"--backup-dir", b"/tmp"],
        [b"--link-dest", b"/etc"],
        [b"--copy-dest=/etc"],
        [b"--compare-dest", b"/etc"],
        [b"--rsh=id"],
        [b"-e", b"id"],
        [b"--rsync-path=id"],
        [b"--remove-source-files"],
        [b"--write-devices"],
        [b"--keep-dirlinks"],
        [b"--copy-unsafe-links"],
        [b"--no-implied-dirs"],
        [b"--no-safe-links"],
        [b"--munge-links"],
        [b"--fake-super"],
        [b"--super"],
        [b"--delete"],
        [b"--write-batch=x"],
        [b"--read-batch=/etc/passwd"],
        [b"--only-write-batch=x"],
        [b"--iconv=x"],
        [b"--usermap=*:root"],
        [b"--chmod=u+s"],
        [b"--info=/etc"],
        [b"--timeout=1 --rsh=id"],
        [b"--timeout=1\n"],
        [b"-K"],
        [b"--"],
        [b""],
        [b"x"],
    ],
)
def test_an_option_that_psync_does_not_send_is_denied(option: list[bytes]) -> None:
    with pytest.raises(Denied):
        transfer(RECEIVE, sent(*OPTIONS, *option, b".", place()), ROOT)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/etc/",
        b"~/",
        b".",
        b"",
        b"tree/",
        ROOT,
        ROOT + b"/",
        ROOT + b"x/" + PROJECT.encode() + b"/tree/",
        ROOT + b"//tree/",
        place(part=b""),
        place(part=b"tree"),
        place(part=b"project.json"),
        place(part=b"tree/sub/"),
        place(part=b"tree/../../x/tree/"),
        place(part=b"../tree/"),
        place(part=b"./tree/"),
        place(part=b"tree//"),
        place(".."),
        place("."),
        place("a/b"),
        place(PROJECT + "\n"),
    ],
)
def test_any_other_path_than_a_mirrors_is_denied(path: bytes) -> None:
    with pytest.raises(Denied):
        transfer(RECEIVE, sent(*OPTIONS, b".", path), ROOT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"rsync\0\0",
        sent(b"."),
        sent(b".", place(), place()),
        sent(place()),
        sent(b".", place())[:-1],
        sent(b".", place()) + b"x",
        b"rsyn\0.\0" + place() + b"\0\0",
        sent(b"-" * ARGUMENTS, b".", place()),
    ],
)
def test_arguments_of_another_form_are_denied(data: bytes) -> None:
    with pytest.raises(Denied):
        transfer(RECEIVE, data, ROOT)


@given(
    st.lists(st.sampled_from([*OPTIONS, b"-e", b".", b"..", b"/etc", place(), b"x"]), max_size=9)
)
def test_whatever_is_allowed_names_no_path_but_the_directory_itself(words: list[bytes]) -> None:
    try:
        job = transfer(RECEIVE, sent(*words), ROOT)
    except Denied:
        return
    assert not [word for word in job.argv if b"/" in word and word != b"./"]
    assert job.argv[:3] == (b"--server", RECEIVE.flags, b"--safe-links")


@given(st.binary(max_size=300))
def test_any_bytes_as_arguments_are_denied(data: bytes) -> None:
    with pytest.raises(Denied):
        transfer(RECEIVE, data + b"\0\0", ROOT)


def test_arguments_end_with_an_empty_one() -> None:
    assert complete(sent(b"."))
    assert not complete(b"rsync\0.\0")
