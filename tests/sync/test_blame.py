"""What ssh and rsync were seen to say. The commoner cases are provoked for real in test_engine."""

import pytest
from hypothesis import given, strategies as st

from psync.errors import DestinationError, PsyncError, SSHError, SyncError, ToolMissing
from psync.sync.blame import (
    DiskFull,
    FilesVanished,
    MirrorMissing,
    dangling_links,
    rsync_error,
    ssh_error,
    unescape,
)


def blame(status: int, said: bytes, host: str | None = "laptop") -> PsyncError:
    return rsync_error(status, said, mirror=b"/m/game-1", host=host)


CASES: list[tuple[int, bytes, type[PsyncError], str]] = [
    (
        11,
        b'rsync: [Receiver] mkdir "/m/game-1/tree" failed: No such file or directory (2)\n'
        b"rsync error: error in file IO (code 11) at main.c(808) [Receiver=3.5.0]\n",
        MirrorMissing,
        "/m/game-1 on laptop does not exist",
    ),
    (
        11,
        b'rsync: mkdir "/m/game-1/tree" failed: No such file or directory (2)\n',  # 3.1
        MirrorMissing,
        "does not exist",
    ),
    (
        11,
        b'rsync: [receiver] write failed on "/m/game-1/tree/a\\#033b": '
        b"No space left on device (28)\n",
        DiskFull,
        "the disk is full on laptop: No space left on device for /m/game-1/tree/a\\\\x1bb",
    ),
    (
        23,
        b'rsync: [receiver] mkstemp "/m/game-1/tree/.x.1" failed: Permission denied (13)\n'
        b"rsync error: some files/attrs were not transferred (code 23) at main.c(1)\n",
        DestinationError,
        "/m/game-1 on laptop is not writable: Permission denied",
    ),
    (
        23,
        b'rsync: [receiver] mkstemp "/m/game-1/tree/.x.1" failed: Read-only file system (30)\n',
        DestinationError,
        "not writable: Read-only file system",
    ),
    (
        23,
        b'rsync: [generator] recv_generator: failed to stat "/m/x": Input/output error (5)\n',
        DestinationError,
        "could not take /m/x: Input/output error",
    ),
    (
        23,
        b'rsync: [sender] send_files failed to open "/p/secret": Permission denied (13)\n'
        b'rsync: [sender] link_stat "/p/gone" failed: No such file or directory (2)\n',
        SyncError,
        r"could not send /p/secret \(Permission denied\), /p/gone \(No such",
    ),
    (
        23,
        b'rsync: opendir "/p/closed" failed: Permission denied (13)\n',  # 3.1: no side named
        SyncError,
        r"could not send /p/closed \(Permission denied\);",
    ),
    (24, b'file has vanished: "/p/a.o"\n', FilesVanished, "vanished while they were sent"),
    (127, b"bash: line 1: rsync: command not found\n", ToolMissing, "on laptop: bash: line 1"),
    (
        12,
        b"sh: 1: /opt/rsync: not found\n"
        b"rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n"
        b"rsync error: error in rsync protocol data stream (code 12) at io.c(232)\n",
        ToolMissing,
        "rsync cannot be started on laptop",
    ),
    (
        2,
        b"protocol version mismatch -- is your shell clean?\n"
        b"(see the rsync manpage for an explanation)\n",
        SSHError,
        "start-up files on laptop print text",
    ),
    (2, b"protocol version mismatch\n", ToolMissing, "do not understand each other"),
    (1, b"rsync: -s: unknown option\n", ToolMissing, "unknown option"),
    (20, b"rsync error: received SIGINT\n", SyncError, "interrupted"),
    (30, b"rsync error: timeout in data send/receive (code 30)\n", SSHError, "broke while"),
    (35, b"", SSHError, "no reason given"),
    (
        255,
        b"ssh: connect to host laptop port 22: No route to host\r\n"
        b"rsync: connection unexpectedly closed (0 bytes received so far) [sender]\n"
        b"rsync error: unexplained error (code 255) at io.c(232) [sender=3.5.0]\n",
        SSHError,
        "ssh to laptop failed: connect to host laptop port 22: No route to host",
    ),
    (
        12,
        b"client_loop: send disconnect: Broken pipe\r\n"
        b"rsync: [sender] write error: Broken pipe (32)\n",
        SSHError,
        "Broken pipe",
    ),
    (-9, b"", SyncError, "ended by SIGKILL"),
    (22, b"rsync error: error allocating core memory buffers (code 22)\n", SyncError, "memory"),
]


@pytest.mark.parametrize(("status", "said", "kind", "words"), CASES)
def test_every_failure_of_rsync_has_its_error(
    status: int, said: bytes, kind: type[PsyncError], words: str
) -> None:
    with pytest.raises(PsyncError, match=words) as caught:
        raise blame(status, said)
    assert type(caught.value) is kind
    assert caught.value.hint


def test_on_this_machine_nothing_is_blamed_on_ssh() -> None:
    error = blame(12, b"rsync: connection unexpectedly closed\n", host=None)
    assert type(error) is SyncError
    assert "on this machine" in error.message


@pytest.mark.parametrize(
    ("said", "words", "hint"),
    [
        (
            b"@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@\n"
            b'  remove with:\r\n  ssh-keygen -f "/h/known_hosts" -R "laptop"\r\n'
            b"Host key verification failed.\r\n",
            "its host key is not the one",
            'ssh-keygen -f "/h/known_hosts" -R "laptop"',
        ),
        (
            b"No ED25519 host key is known for laptop and you have requested strict checking.\r\n"
            b"Host key verification failed.\r\n",
            "does not know the host key",
            "ssh me@laptop",
        ),
        (b"me@laptop: Permission denied (publickey).\r\n", "Permission denied", "ssh me@laptop"),
        (
            b"ssh: Could not resolve hostname laptop: Name or service not known\r\n",
            "resolve",
            "name",
        ),
        (b"ssh: connect to host laptop port 22: Connection refused\r\n", "refused", "host is up"),
        (b"kex_exchange_identification: Connection closed by remote host\r\n", "closed", "is up"),
        (
            b"/h/.ssh/config: line 3: Bad configuration option: x\r\n",
            "Bad configuration",
            "by hand",
        ),
        (b"", "no reason given", "by hand"),
    ],
)
def test_every_failure_of_ssh_has_its_hint(said: bytes, words: str, hint: str) -> None:
    error = ssh_error(said, "me@laptop")
    assert words in error.message
    assert hint in error.hint
    assert "me@laptop" in error.message


def test_dangling_links_alone_are_no_failure() -> None:
    closing = b"rsync error: some files/attrs were not transferred (see previous errors) (code 23)"
    link = b'symlink has no referent: "/p/a\\#012b"'
    assert dangling_links(link + b"\n" + closing) == ("/p/a\\nb",)
    assert dangling_links(closing) is None
    assert dangling_links(link + b'\nrsync: [sender] link_stat "/p/x" failed: No (2)') is None


def test_many_files_are_counted() -> None:
    line = b'rsync: [sender] send_files failed to open "/p/%d": Permission denied (13)\n'
    error = blame(23, b"".join(line % number for number in range(12)))
    assert error.message.endswith("and 7 more")


def test_names_are_unescaped_as_rsync_escapes_them() -> None:
    assert unescape(b"gr\\#303\\#266\\#303\\#237e") == "größe"
    assert unescape(b"\\#134#101") == "\\#101"


@given(st.integers(-64, 255).filter(bool), st.binary(), st.none() | st.just("laptop"))
def test_whatever_is_said_gives_a_harmless_message(
    status: int, said: bytes, host: str | None
) -> None:
    error = blame(status, said, host)
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert ssh_error(said, "laptop").message.isprintable()


def test_a_refusal_of_psync_server_is_told_in_its_words() -> None:
    said = b"psync-server: this key may only sync: its client is revoked\nrsync error: x (code 126)"
    error = blame(126, said)
    assert error.message == (
        "psync-server on laptop refuses to take the files: its client is revoked"
    )
    assert "--restrict-ssh" in error.hint
    limited = blame(126, said.replace(b"is revoked", b"may only look at runs"))
    assert "psync-server limit" in limited.hint  # pairing again changes no rights


@pytest.mark.parametrize("status", [10, 12, 30, 255])
def test_where_no_ssh_carries_the_bytes_none_is_blamed(status: int) -> None:
    said = b"some words\nrsync error: error in rsync protocol data stream (code 12) at io.c(2)\n"
    error = rsync_error(status, said, mirror=b"/m/game-1", host="laptop", ssh=False)
    assert type(error) is SyncError
    assert error.message == "the transfer to laptop broke: some words"
    assert "ssh" not in str(error)
