"""Directories from the environment, private directories, atomic files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from psync.errors import ConfigError
from psync.paths import (
    LONGEST_RUNTIME,
    ClientPaths,
    ServerPaths,
    free_path,
    home_directory,
    private_directory,
    write_atomic,
)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A directory of somebody else."""
    if os.geteuid() != 0:
        return "/usr"
    path = tmp_path / "foreign"
    path.mkdir(mode=0o700)
    os.chown(path, 65534, 65534)
    return str(path)


def test_client_paths_from_home_alone() -> None:
    paths = ClientPaths.from_environ({"HOME": "/home/ada"})
    assert paths.config_file == "/home/ada/.config/psync/config.toml"
    assert paths.identity == "/home/ada/.local/share/psync/identity"
    assert paths.target("deck") == "/home/ada/.local/share/psync/targets/deck"
    assert paths.local == "/home/ada/.local/share/psync/local"
    assert paths.state == "/home/ada/.local/state/psync"
    assert paths.runtime == f"/tmp/psync-{os.geteuid()}"


def test_client_paths_follow_xdg(tmp_path: Path) -> None:
    runtime = Path(f"/tmp/psync-test-{os.getpid()}")
    runtime.mkdir(mode=0o700)
    try:
        paths = ClientPaths.from_environ(
            {
                "HOME": "/home/ada",
                "XDG_CONFIG_HOME": "/c/",
                "XDG_DATA_HOME": "/d",
                "XDG_STATE_HOME": "/s",
                "XDG_RUNTIME_DIR": str(runtime),
            }
        )
    finally:
        runtime.rmdir()
    assert paths == ClientPaths("/c/psync", "/d/psync", "/s/psync", f"{runtime}/psync")


def test_relative_xdg_variables_are_ignored() -> None:
    paths = ClientPaths.from_environ({"HOME": "/home/ada", "XDG_CONFIG_HOME": "conf"})
    assert paths.config == "/home/ada/.config/psync"


def test_a_runtime_directory_of_others_is_not_used(foreign: str) -> None:
    environ = {"HOME": "/h", "XDG_RUNTIME_DIR": foreign}
    assert ClientPaths.from_environ(environ).runtime == f"/tmp/psync-{os.geteuid()}"


def test_a_runtime_directory_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    environ = {"HOME": "/h", "XDG_RUNTIME_DIR": str(tmp_path)}
    assert ClientPaths.from_environ(environ).runtime == f"/tmp/psync-{os.geteuid()}"


def test_a_runtime_directory_too_long_for_a_socket_is_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("x" * LONGEST_RUNTIME)
    long.mkdir(mode=0o700)
    environ = {"HOME": "/h", "XDG_RUNTIME_DIR": str(long)}
    assert ClientPaths.from_environ(environ).runtime == f"/tmp/psync-{os.geteuid()}"


def test_server_paths_follow_xdg() -> None:
    paths = ServerPaths.from_environ({"HOME": "/home/ada"})
    assert paths.config_file == "/home/ada/.config/psync/server.toml"
    assert paths.ca == "/home/ada/.local/share/psync-server/ca"
    assert paths.clients == "/home/ada/.local/share/psync-server/clients.json"
    assert paths.projects == "/home/ada/.local/share/psync-server/projects"
    assert paths.runs == "/home/ada/.local/state/psync-server/runs"
    assert paths.record == "/home/ada/.local/state/psync-server/daemon.json"
    assert paths.lock == "/home/ada/.local/state/psync-server/daemon.lock"
    assert paths.log == "/home/ada/.local/state/psync-server/daemon.log"


def test_a_server_home_holds_everything() -> None:
    paths = ServerPaths.from_environ({"HOME": "/h", "PSYNC_SERVER_HOME": "/srv/psync/"})
    assert paths == ServerPaths("/srv/psync/server.toml", "/srv/psync/data", "/srv/psync/state")


def test_a_relative_server_home_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"PSYNC_SERVER_HOME: 'here' is not an absolute path"):
        ServerPaths.from_environ({"PSYNC_SERVER_HOME": "here"})


def test_without_home_the_user_list_is_asked() -> None:
    import pwd

    try:
        expected = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        with pytest.raises(ConfigError, match="environment HOME"):
            home_directory({})
    else:
        assert home_directory({}) == home_directory({"HOME": "relative"}) == expected


def test_private_directory_creates_all_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        assert private_directory(str(path), exclusive=True) == str(path)
    finally:
        os.umask(before)
    assert (mode(path), mode(path.parent)) == (0o700, 0o700)
    assert private_directory(str(path), exclusive=True) == str(path)


def test_private_directory_may_be_readable_unless_exclusive(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_directory(str(tmp_path))
    with pytest.raises(ConfigError, match=r"others may read or write .* \(mode 0755\)") as caught:
        private_directory(str(tmp_path), exclusive=True)
    assert caught.value.hint.startswith("chmod 0700 ")


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o1777])
def test_private_directory_refuses_what_others_can_write(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(bits)
    with pytest.raises(ConfigError, match="others may write"):
        private_directory(str(tmp_path))


def test_private_directory_refuses_what_belongs_to_others(foreign: str) -> None:
    with pytest.raises(ConfigError, match="belongs to another user"):
        private_directory(foreign)


def test_private_directory_follows_the_users_own_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    assert private_directory(str(link), exclusive=True) == str(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link of somebody else's")
def test_private_directory_refuses_a_link_of_others(tmp_path: Path) -> None:
    real = tmp_path / "mine"
    real.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(real)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(ConfigError, match="belongs to another user"):
        private_directory(str(link))


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_private_directory_where_a_file_stands(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot use .* as a directory"):
        private_directory(f"{tmp_path}/file{below}")


def test_write_atomic_replaces_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomic(str(path), b"new\0\xff")
    assert path.read_bytes() == b"new\0\xff"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomic_sets_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(str(tmp_path / "file"), b"", mode=0o644)
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    (target / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(str(target), b"data")
    assert os.listdir(tmp_path) == ["directory"]
    with pytest.raises(FileNotFoundError):
        write_atomic(str(tmp_path / "missing" / "file"), b"data")


def test_a_free_path_is_one_at_which_nothing_stands(tmp_path: Path) -> None:
    path = str(tmp_path / "aside")
    assert free_path(path) == path
    os.symlink("/nowhere", path)  # something stands there, though it leads nowhere
    assert free_path(path) == f"{path}-2"
    os.mkdir(f"{path}-2")
    assert free_path(path) == f"{path}-3"
