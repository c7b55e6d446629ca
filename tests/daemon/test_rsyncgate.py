"""What psync has rsync do, both ways, and what it must not be talked into."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.daemon.rsyncgate import (
    LONGEST_NAME,
    MOST_SOURCES,
    Asked,
    Denied,
    asked,
    complete,
    job,
)
from psync.protocol.transfers import MAX_ARGUMENTS

PROJECT = "game-desk-0123456789abcdef"
ROOT = b"/home/me/.local/share/psync-server/projects"
TAKES = Asked(b"-lOtprRze.iLsfxCIvu")
GIVES = Asked(b"-ltpre.iLsfxCIvu", True)
RELATIVE = Asked(b"-ltprRe.iLsfxCIvu", True)
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


# -- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [b"", *(bytes([one]) for one in b"cdIlnOprRStWz")])
@pytest.mark.parametrize("gives", [False, True])
def test_each_flag_that_is_allowed(flag: bytes, gives: bool) -> None:
    direction = [b"--sender"] if gives else []
    words = [b"rsync", b"--server", *direction, b"-s" + flag + b"e.iLsfxCIvu"]
    assert asked(words) == asked(tuple(words)) == Asked(b"-" + flag + b"e.iLsfxCIvu", gives)


@pytest.mark.parametrize(
    "flag",
    [bytes([one]) for one in b"LkKDogubvqxHAXECmyUNJFM-e \n/=."],
)
@pytest.mark.parametrize("gives", [False, True])
def test_each_other_flag_is_denied(flag: bytes, gives: bool) -> None:
    direction = [b"--sender"] if gives else []
    for flags in (b"-sl" + flag + b"e.iLs", b"-s" + flag + b"le.iLs", flag + b"-sle.iLs"):
        with pytest.raises(Denied):
            asked([b"rsync", b"--server", *direction, flags])


@pytest.mark.parametrize(
    "words",
    [
        [b"--server"],
        [b"--server", b"--sender"],
        [b"--server", b"-s"],
        [b"--server", b"-le.iLs"],  # not -s: paths would be on the command line
        [b"--server", b"-se.iLs", b".", b"/etc/"],
        [b"--server", b"-se.iLs", b"--sender"],
        [b"--server", b"--sender", b"--sender", b"-se.iLs"],
        [b"--server", b"--sender", b"-se.iLs", b"--log-file=/tmp/x"],
        [b"--server", b"--daemon", b"."],
        [b"--server", b"--daemon", b"-se.iLs"],
        [b"--server", b"--config=/etc/passwd", b"-se.iLs"],
        [b"--server", b"--rsh=id", b"-se.iLs"],
        [b"--server", b"-se/bin/sh"],
        [b"--server", b"-sre.i/x"],
        [b"--server", b"-se.iLs\n"],
        [b"--server", b""],
    ],
)
def test_other_command_lines_of_rsync_are_denied(words: list[bytes]) -> None:
    with pytest.raises(Denied):
        asked([b"rsync", *words])


@pytest.mark.parametrize(
    "words",
    [
        [],
        [b""],
        [b"rsync"],
        [b"rsync", b"--daemon"],
        [b"rsync", b"/etc/passwd", b"/tmp/x"],
        [b"rsync", b"-e", b"id", b"x:", b"--server"],
        [b"sh", b"-c", b"id"],
        [b"xrsync", b"--server", b"-se.iLs"],
        [b"rsync/", b"--server", b"-se.iLs"],
        [b"rsync ", b"--server", b"-se.iLs"],
    ],
)
def test_what_is_none_of_rsyncs(words: list[bytes]) -> None:
    assert asked(words) is None


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_words_are_none_or_denied(words: list[bytes]) -> None:
    try:
        assert asked([b"rsync", b"--server", *words]) is None
    except Denied:
        pass


# -- taking files ----------------------------------------------------------------------------


def test_a_transfer_of_psync_becomes_one_into_the_directory_it_is_started_in() -> None:
    made = job(TAKES, sent(*OPTIONS, b".", place()), ROOT)
    assert (made.project, made.part) == (PROJECT, b"tree")
    assert made.argv == (
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
    assert ROOT not in b" ".join(made.argv)


@pytest.mark.parametrize(
    "option",
    [
        *([b"--%s-compress" % age] for age in (b"new", b"old")),
        [b"--compress-level=9"],
        [b"--compress-choice=zstd"],
        [b"--compress-choice=lz4"],
        [b"--checksum-choice=xxh128,md5"],
        [b"--delete-missing-args"],
        [b"--existing"],
        [b"--log-format=%i"],
        [b"--modify-window=-1"],
        [b"--partial-dir=.psync-partial"],
    ],
)
def test_each_option_that_is_allowed_to_who_sends(option: list[bytes]) -> None:
    made = job(TAKES, sent(*option, b".", place()), ROOT)
    assert made.argv == (b"--server", TAKES.flags, b"--safe-links", *option, b".", b"./")
    assert not made.gives


def test_links_that_lead_out_are_never_made_whatever_the_client_wants() -> None:
    made = job(TAKES, sent(b".", place(part=b"outside/")), ROOT)
    assert made.part == b"outside"
    assert b"--safe-links" in made.argv


def test_the_root_may_be_given_with_a_slash_at_its_end() -> None:
    assert job(TAKES, sent(b".", place()), ROOT + b"/").project == PROJECT


@pytest.mark.parametrize(
    "option",
    [
        [b"--sender"],
        [b"--list-only"],
        [b"--inplace"],
        [b"--append"],
        [b"--compare-dest=/etc"],
        [b"--temp-dir"],
        [b"-T", b"/tmp"],
        [b"--files-from=-"],
        [b"--from0"],
        [b"--exclude-from=/etc/passwd"],
        [b"--filter=merge /etc/passwd"],
        [b"--password-file=/etc/passwd"],
        [b"--stop-at=1"],
        [b"--debug=ALL"],
        [b"--devices"],
        [b"--delete-during"],
        [b"--ignore-missing-args"],
        [b"--remote-option=--x"],
        [b"--protect-args"],
        [b"--secluded-args"],
        [b"--trust-sender"],
        [b"--compress-choice=zstd\n"],
        [b"--compress-choice=../x"],
        [b"--compress-level=-1"],
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
        job(TAKES, sent(*OPTIONS, *option, b".", place()), ROOT)


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
        job(TAKES, sent(*OPTIONS, b".", path), ROOT)


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
        sent(b"-" * MAX_ARGUMENTS, b".", place()),
    ],
)
def test_arguments_of_another_form_are_denied(data: bytes) -> None:
    with pytest.raises(Denied):
        job(TAKES, data, ROOT)


@given(
    st.lists(st.sampled_from([*OPTIONS, b"-e", b".", b"..", b"/etc", place(), b"x"]), max_size=9)
)
def test_whatever_is_allowed_names_no_path_but_the_directory_itself(words: list[bytes]) -> None:
    try:
        made = job(TAKES, sent(*words), ROOT)
    except Denied:
        return
    assert not [word for word in made.argv if b"/" in word and word != b"./"]
    assert made.argv[:3] == (b"--server", TAKES.flags, b"--safe-links")


@given(st.binary(max_size=300))
def test_any_bytes_as_arguments_are_denied(data: bytes) -> None:
    with pytest.raises(Denied):
        job(TAKES, data + b"\0\0", ROOT)


def test_arguments_end_with_an_empty_one() -> None:
    assert complete(sent(b"."))
    assert not complete(b"rsync\0.\0")


# -- giving files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b"a", b"a/b", b"a/", b"a/.", b"-rf", b"-e=id", b"a\n\xff"])
def test_a_name_of_the_mirror_is_given_from_the_directory_it_is_in(name: bytes) -> None:
    made = job(GIVES, sent(b".", place() + name), ROOT)
    assert (made.project, made.part, made.gives) == (PROJECT, b"tree", True)
    assert made.argv == (b"--server", b"--sender", GIVES.flags, b".", b"./" + name)
    assert made.sources == (name,)


def test_several_names_of_one_part() -> None:
    names = [b"a", b"b/c", b"-d"]
    made = job(GIVES, sent(b".", *(place(part=b"outside/") + name for name in names)), ROOT)
    assert made.part == b"outside"
    assert made.argv[-3:] == (b"./a", b"./b/c", b"./-d")
    assert made.sources == tuple(names)


@pytest.mark.parametrize("name", [b"./a", b"a/./b", b"./a/b/", b"a/./-rf"])
def test_relative_names_say_where_they_begin(name: bytes) -> None:
    made = job(RELATIVE, sent(b".", place() + name), ROOT)
    assert made.argv[-1] == b"./" + name


@pytest.mark.parametrize("name", [b"", b"a", b"a/b", b"a/.", b"."])
def test_relative_names_that_do_not_say_so_are_denied(name: bytes) -> None:
    with pytest.raises(Denied, match="relative"):
        job(RELATIVE, sent(b".", place() + name), ROOT)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        (b"a[b]", b"a[b]"),
        (b"*", b"*"),
        (rb"a\[b]", b"a[b]"),
        (rb"\*/x\y", rb"*/x\y"),
        (rb"a\\\?", rb"a\?"),
        (rb"a\b", rb"a\b"),
        (b"*\\", b"*\\"),
    ],
)
def test_wildcards_stand_for_themselves(name: bytes, meant: bytes) -> None:
    assert job(GIVES, sent(b".", place() + name), ROOT).sources == (meant,)


@pytest.mark.parametrize(
    "option",
    [
        b"--list-only",
        b"--no-implied-dirs",
        b"--safe-links",
        b"--compress-level=1",
        b"--compress-choice=zstd",
        b"--new-compress",
        b"--old-compress",
        b"--checksum-choice=xxh3",
        b"--timeout=120",
        b"--info=NAME,STATS2",
    ],
)
def test_each_option_that_is_allowed_to_who_fetches(option: bytes) -> None:
    made = job(GIVES, sent(option, b".", place()), ROOT)
    assert made.argv == (b"--server", b"--sender", GIVES.flags, option, b".", b"./")


@pytest.mark.parametrize(
    "option",
    [
        [b"--sender"],
        [b"--daemon"],
        [b"--config=/etc/rsyncd.conf"],
        [b"--log-file=/tmp/x"],
        [b"--log-file", b"/tmp/x"],
        [b"--log-file-format=%o"],
        [b"--log-format=%o %h"],
        [b"--files-from=/etc/passwd"],
        [b"--files-from=-"],
        [b"--files-from", b"/etc/passwd"],
        [b"--exclude-from=/etc/passwd"],
        [b"--filter=merge /etc/passwd"],
        [b"--temp-dir=/tmp"],
        [b"--backup-dir=/tmp"],
        [b"--compare-dest=/etc"],
        [b"--link-dest=/etc"],
        [b"--copy-dest=/etc"],
        [b"--partial-dir=.psync-partial"],
        [b"--partial-dir", b".psync-partial"],
        [b"--rsh=id"],
        [b"-e", b"id"],
        [b"--rsync-path=id"],
        [b"--remove-source-files"],
        [b"--remove-sent-files"],
        [b"--copy-links"],
        [b"--copy-unsafe-links"],
        [b"--copy-dirlinks"],
        [b"--copy-devices"],
        [b"--write-devices"],
        [b"--keep-dirlinks"],
        [b"--write-batch=x"],
        [b"--only-write-batch=x"],
        [b"--read-batch=/etc/passwd"],
        [b"--password-file=/etc/passwd"],
        [b"--early-input=/etc/passwd"],
        [b"--iconv=x"],
        [b"--fake-super"],
        [b"--super"],
        [b"--delete"],
        [b"--open-noatime"],
        [b"--debug=ALL"],
        [b"--stderr=all"],
        [b"--list-only=x"],
        [b"--list-only\n"],
        [b"-L"],
        [b"-K"],
        [b"--"],
        [b""],
        [b"x"],
    ],
)
def test_an_option_that_who_fetches_does_not_send_is_denied(option: list[bytes]) -> None:
    for words in ([*option, b".", place()], [b"--list-only", *option, b".", place() + b"a"]):
        with pytest.raises(Denied):
            job(GIVES, sent(*words), ROOT)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/etc/passwd",
        b"~/.ssh/id_ed25519",
        b".",
        b"",
        b"tree/a",
        ROOT + b"/",
        ROOT + b"x/" + PROJECT.encode() + b"/tree/a",
        place(part=b""),
        place(part=b"tree"),
        place(part=b"project.json"),
        place(part=b"trees/a"),
        place(part=b"./tree/a"),
        place(part=b"../tree/a"),
        place(part=b"tree/.."),
        place(part=b"tree/../project.json"),
        place(part=b"tree/a/../../../x"),
        place(part=b"tree/a/.."),
        place(part=b"tree//../x"),
        place("..", b"tree/"),
        place("a/b", b"tree/"),
        place(PROJECT + "\n", b"tree/a"),
        place(part=b"tree/" + b"a" * (LONGEST_NAME + 1)),
    ],
)
def test_any_other_path_than_one_in_a_mirror_is_denied(path: bytes) -> None:
    for paths in ([path], [place() + b"a", path], [path, place() + b"a"]):
        with pytest.raises(Denied):
            job(GIVES, sent(b".", *paths), ROOT)


@pytest.mark.parametrize(
    "paths",
    [
        [],
        [place() + b"a", place(part=b"outside/a")],
        [place() + b"a", place("other", b"tree/a")],
        [b"/x/" + b"a"] * 3,
        [place() + b"a"] * (MOST_SOURCES + 1),
    ],
)
def test_names_of_more_than_one_part_are_denied(paths: list[bytes]) -> None:
    with pytest.raises(Denied):
        job(GIVES, sent(b".", *paths), ROOT)


_PARTS = st.sampled_from(
    [b"a", b"..", b".", b"", b"*", b"\\.", b".[.]", b"\\..", b"\\.\\.", b"-e", b"\xff"]
)


@given(st.lists(_PARTS, max_size=6), st.booleans())
def test_whatever_is_given_stays_below_the_part(parts: list[bytes], relative: bool) -> None:
    try:
        made = job(RELATIVE if relative else GIVES, sent(b".", place() + b"/".join(parts)), ROOT)
    except Denied:
        return
    (path,) = made.argv[made.argv.index(b".") + 1 :]
    assert path.startswith(b"./")
    assert b".." not in path.split(b"/")
