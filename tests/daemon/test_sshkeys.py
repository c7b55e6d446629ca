"""psync's lines among the user's own keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from psync.daemon.sshkeys import add_key, is_line_of, key_line, remove_key, replace_line
from psync.errors import PsyncError, UsageError
from psync.paths import ServerPaths

ONE = "desk-0123456789abcdef"
TWO = "lap-fedcba9876543210"
KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPV9hlvBS4Jsfi9bJPdQfBnPnI+aiPNetJGtOS+abEBB me@x\n"
OTHER = KEY.replace(b"abEBB", b"abEBC")
SERVER = "/usr/bin/psync-server"
MINE = b'# mine\r\nssh-rsa AAAA me\n\ncommand="x" ssh-ed25519 AAAA psync:desk-0123456789abcdef'


class Home:
    def __init__(self, directory: Path) -> None:
        self.environ = {"HOME": str(directory), "PSYNC_SERVER_HOME": str(directory / "server")}
        self.paths = ServerPaths.from_environ(self.environ)
        self.keys = directory / ".ssh/authorized_keys"

    def add(self, client: str = ONE, public: bytes = KEY) -> None:
        add_key(self.paths, self.environ, client, public, SERVER)

    def remove(self, client: str = ONE) -> bool:
        return remove_key(self.paths, self.environ, client)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_line_takes_everything_away_but_one_command() -> None:
    assert key_line(ONE, KEY, SERVER) == (
        b'restrict,command="/usr/bin/psync-server ssh-gate --client desk-0123456789abcdef" '
        b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPV9hlvBS4Jsfi9bJPdQfBnPnI+aiPNetJGtOS+abEBB "
        b"psync:desk-0123456789abcdef\n"
    )


def test_a_path_with_spaces_and_quotes_reaches_the_shell_as_one_word() -> None:
    line = key_line(ONE, KEY, '/my "dir" it\'s/psync-server')
    assert b"""command="'/my \\"dir\\" it'\\"'\\"'s/psync-server' ssh-gate""" in line


@pytest.mark.parametrize(
    ("client", "public", "server"),
    [
        (ONE, b"ssh-rsa AAAA x\n", SERVER),
        (ONE, KEY + KEY, SERVER),
        (ONE, KEY.replace(b"me@x", b"me\nssh-rsa AAAA"), SERVER),
        (ONE, b'command="id" ' + KEY, SERVER),
        (ONE, b"", SERVER),
        ('x" ssh-rsa', KEY, SERVER),
        ("desk-0123456789abcdef\n", KEY, SERVER),
        (ONE, KEY, "psync-server"),
        (ONE, KEY, "/a\nb/psync-server"),
    ],
)
def test_nothing_else_gets_into_a_line(client: str, public: bytes, server: str) -> None:
    with pytest.raises(UsageError):
        key_line(client, public, server)


def test_what_is_missing_is_made_and_private(home: Home) -> None:
    home.add()
    assert home.keys.read_bytes() == key_line(ONE, KEY, SERVER)
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.parent.stat().st_mode) == 0o700
    assert os.listdir(home.keys.parent) == ["authorized_keys"]


def test_other_lines_stay_byte_for_byte_and_the_mode_too(home: Home) -> None:
    home.keys.parent.mkdir(mode=0o755)
    home.keys.write_bytes(MINE)
    home.keys.chmod(0o640)
    home.add()
    home.add(TWO)
    assert home.keys.read_bytes() == MINE + b"\n" + key_line(ONE, KEY, SERVER) + key_line(
        TWO, KEY, SERVER
    )
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o640
    assert stat.S_IMODE(home.keys.parent.stat().st_mode) == 0o755


def test_doing_it_again_changes_nothing_and_a_new_key_takes_the_old_ones_place(home: Home) -> None:
    home.add()
    home.add(TWO)
    before = home.keys.stat().st_ino
    home.add()
    assert home.keys.stat().st_ino == before
    home.add(ONE, OTHER)
    assert home.keys.read_bytes() == key_line(ONE, OTHER, SERVER) + key_line(TWO, KEY, SERVER)


def test_a_key_that_is_removed_leaves_the_others(home: Home) -> None:
    home.keys.parent.mkdir()
    home.keys.write_bytes(MINE + b"\n")
    home.add()
    home.add(TWO)
    assert home.remove()
    assert home.keys.read_bytes() == MINE + b"\n" + key_line(TWO, KEY, SERVER)
    assert not home.remove()


def test_without_a_file_there_is_nothing_to_remove(home: Home) -> None:
    assert not home.remove()
    assert not home.keys.parent.exists()


def test_a_link_to_the_real_file_stays_a_link(home: Home, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles/keys"
    real.parent.mkdir()
    real.write_bytes(MINE + b"\n")
    home.keys.parent.mkdir()
    home.keys.symlink_to(real)
    home.add()
    assert home.keys.is_symlink()
    assert real.read_bytes() == MINE + b"\n" + key_line(ONE, KEY, SERVER)


def test_what_is_no_file_is_left_alone_and_told(home: Home) -> None:
    home.keys.mkdir(parents=True)
    with pytest.raises(PsyncError, match="cannot be changed"):
        home.add()
    assert home.keys.is_dir()


def test_a_line_that_the_user_changed_is_the_users(home: Home) -> None:
    line = key_line(ONE, KEY, SERVER)
    assert is_line_of(line, ONE)
    assert not is_line_of(line, TWO)
    for changed in (b"# " + line, line.replace(b"psync:", b"me:"), b"no-pty," + line):
        assert not is_line_of(changed, ONE)


@given(st.lists(st.sampled_from([b"ssh-rsa AAAA x", b"\r", b"\n", b"", b"# psync:", b"\x85"])))
def test_adding_and_removing_leaves_any_file_as_it_was(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    line = key_line(ONE, KEY, SERVER)
    added = replace_line(text, ONE, line)
    assert added.startswith(text)
    assert replace_line(added, ONE, line) == added
    assert replace_line(added, ONE, b"") == text + (
        b"\n" if text and not text.endswith(b"\n") else b""
    )
