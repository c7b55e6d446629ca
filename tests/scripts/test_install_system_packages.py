"""What scripts/install-system-packages asks of each package manager.

The managers and sudo are stand-ins that write down how they were called: the real ones would change
the machine.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "install-system-packages"


class Machine:
    """A PATH of its own: a few real tools, and the stand-ins that a test adds."""

    def __init__(self, path: Path, *, user: int) -> None:
        self.bin = path / "bin"
        self.calls = path / "calls"
        self.bin.mkdir()
        self.calls.touch()
        for tool in ("sh", "rm"):
            real = shutil.which(tool)
            assert real
            (self.bin / tool).symlink_to(real)
        self.add("id", f"echo {user}")
        self.add("env", 'while case $1 in *=*) ;; *) false ;; esac do shift; done; "$@"')

    def add(self, name: str, body: str = "") -> None:
        tool = self.bin / name
        body = body or f"printf '%s\\n' \"{name} $*\" >>{self.calls}"
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)

    def install(self, *tools: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), *tools],
            env={"PATH": str(self.bin)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Machine:
    return Machine(tmp_path, user=0)


@pytest.fixture
def user(tmp_path: Path) -> Machine:
    return Machine(tmp_path, user=1000)


def test_apt_get_as_root(root: Machine) -> None:
    root.add("apt-get")
    done = root.install("rsync", "ssh", "python")
    assert (done.returncode, done.stderr) == (0, "")
    update, install = root.called()
    assert update == "apt-get update -qq"
    assert install.startswith("apt-get install -y ")
    assert install.endswith(" rsync openssh-client python3 python3-venv")


def test_a_failed_update_does_not_stop_the_installation(root: Machine) -> None:
    root.add("apt-get", f'echo "$1" >>{root.calls}; [ "$1" = install ]')
    done = root.install("rsync")
    assert done.returncode == 0
    assert "apt-get update failed" in done.stderr
    assert root.called() == ["update", "install"]


def test_a_failed_installation_is_a_failure(root: Machine) -> None:
    root.add("apt-get", '[ "$1" = update ]')
    assert root.install("rsync").returncode != 0


def test_apt_get_through_sudo_installs_sshd_and_starts_none(user: Machine) -> None:
    user.add("apt-get")
    user.add("sudo")
    user.add("systemctl")
    assert user.install("sshd").returncode == 0
    calls = [call for call in user.called() if call != "sudo -n true"]
    assert calls[0] == "sudo -n apt-get update -qq"
    names = [next(w for w in ("policy-rc.d", "install", "disable") if w in c) for c in calls[1:]]
    assert names == ["policy-rc.d", "install", "disable", "policy-rc.d"]
    assert calls[2].endswith(" openssh-server")


@pytest.mark.parametrize(
    ("manager", "call"),
    [
        ("dnf", "dnf install -y -q rsync openssh-clients openssh-server python3"),
        ("pacman", "pacman -Sy --noconfirm --needed rsync openssh openssh python"),
        ("brew", "brew install --quiet rsync openssh openssh python"),
    ],
)
def test_the_other_managers(root: Machine, manager: str, call: str) -> None:
    root.add(manager)
    assert root.install("rsync", "ssh", "sshd", "python").returncode == 0
    assert root.called() == [call]


def test_brew_needs_no_root(user: Machine) -> None:
    user.add("brew")
    assert user.install("rsync").returncode == 0
    assert user.called() == ["brew install --quiet rsync"]


@pytest.mark.parametrize("sudo", [None, "exit 1"])
def test_who_may_not_install_is_told_what_to_type(user: Machine, sudo: str | None) -> None:
    user.add("apt-get")
    if sudo:
        user.add("sudo", sudo)
    done = user.install("rsync", "sshd")
    assert done.returncode == 1
    assert done.stderr == (
        "install-system-packages: missing here: rsync sshd; "
        "as root, run: apt-get install rsync openssh-server\n"
    )
    assert user.called() == []


def test_without_a_known_manager(root: Machine) -> None:
    done = root.install("rsync", "ssh")
    assert done.returncode == 1
    assert "install these by hand and try again: rsync ssh" in done.stderr


def test_an_unknown_tool(root: Machine) -> None:
    root.add("apt-get")
    done = root.install("rsync", "nonsense")
    assert done.returncode == 2
    assert "no such tool: nonsense" in done.stderr
    assert root.called() == []
