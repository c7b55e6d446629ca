"""ssh with one key and no other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.sshd import PrivateSSHD

from psync.sync.destination import SSHTarget
from psync.sync.onlykey import only_key_command, settings_of


def offered(words: tuple[str, ...], address: str) -> list[str]:
    """Return the paths of the keys that an ssh command would offer."""
    said = subprocess.run(
        [*words, "-G", "--", address], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    return [line.split(" ", 1)[1] for line in said.splitlines() if line.startswith("identityfile ")]


def resolved(words: tuple[str, ...], address: str) -> dict[str, str]:
    said = subprocess.run(
        [*words, "-G", "--", address], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    return dict(line.partition(" ")[::2] for line in said.splitlines())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(
        "Host board\n HostName 192.0.2.9\n Port 2222\n User pi\n IdentityFile ~/.ssh/mine\n"
        " ProxyJump me@gate:33,inner\n UserKnownHostsFile /known/one /known/two\n"
        " HostKeyAlias the-board\n StrictHostKeyChecking yes\n ForwardAgent yes\n"
        "Host *\n IdentityFile ~/.ssh/also\n IdentityAgent /agent\n"
    )
    return path


def test_of_the_users_configuration_all_counts_but_the_keys(config: Path) -> None:
    command = ("ssh", "-F", str(config), "-i", str(config))  # ssh wants to see a file there
    assert len(offered(command, "board")) == 3
    words = only_key_command(SSHTarget("board", command, b"/run/x", "/a key/ssh_key"))
    assert offered(words, "board") == ["/a key/ssh_key"]
    found = resolved(words, "board")
    assert found["hostname"] == "192.0.2.9"
    assert (found["port"], found["user"]) == ("2222", "pi")
    assert found["userknownhostsfile"] == "/known/one /known/two"
    assert found["hostkeyalias"] == "the-board"
    assert found["stricthostkeychecking"] in ("yes", "true")
    assert found["identitiesonly"] == "yes"
    assert found["identityagent"] == "none"
    assert found["preferredauthentications"] == "publickey"
    assert found["forwardagent"] == "no"
    assert found["proxycommand"] == (
        f"ssh -F {config} -i {config} -J me@gate:33 -W '[%h]:%p' -- inner"
    )


def test_the_port_of_a_destination_counts(config: Path) -> None:
    target = SSHTarget("ssh://you@board:44", ("ssh", "-F", str(config)), b"/run/x", "/key")
    found = resolved(only_key_command(target), target.address)
    assert (found["port"], found["user"], found["hostname"]) == ("44", "you", "192.0.2.9")


@pytest.mark.parametrize("command", [("/opt/my-ssh", "-x"), ("ssh", "-F", "/does/not/exist")])
def test_an_ssh_that_cannot_be_asked_gets_the_options(command: tuple[str, ...]) -> None:
    words = only_key_command(SSHTarget("board", command, b"/run/x", "/key"))
    assert words[: len(command)] == command
    assert '-oIdentityFile="/key"' in words
    assert "-oIdentityAgent=none" in words


def test_something_else_than_a_configuration_is_none() -> None:
    assert settings_of(b"Pragma: none\n", ("ssh",)) is None


def test_a_jump_to_a_port_is_a_destination_with_a_port() -> None:
    found = settings_of(b"hostname x\nproxyjump gate:2200\n", ("ssh", "-oUser=a b", "-F", "50%"))
    assert found == [
        "-ohostname=x",
        "-oproxycommand=ssh '-oUser=a b' -F 50%% -W '[%h]:%p' -- ssh://gate:2200",
    ] or found == [
        "-ohostname=x",
        "-oproxycommand=ssh '-oUser=a b' -F '50%%' -W '[%h]:%p' -- ssh://gate:2200",
    ]


def test_the_way_through_another_host_is_the_users_own(tmp_path: Path) -> None:
    with PrivateSSHD() as gate, PrivateSSHD(alias="inner") as inner:
        key = tmp_path / "key"
        key.write_bytes(inner.user_key.read_bytes())
        key.chmod(0o600)
        config = tmp_path / "config"
        config.write_text(
            f"{inner.config.read_text()}    ProxyJump {gate.alias}\n{gate.config.read_text()}"
        )
        (inner.directory / "other").write_bytes(inner.user_key.read_bytes())
        target = SSHTarget("inner", ("ssh", "-F", str(config)), b"/run/x", str(key))
        done = subprocess.run(
            [*only_key_command(target), "inner", "echo there"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        assert done.stdout == b"there\n", done.stderr
        assert gate.log.read_text().count("Accepted publickey") == 1
