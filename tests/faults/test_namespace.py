"""Two hosts with a cable between them: network namespaces, and a link that goes down.

What a proxy on loopback cannot do happens here: packets vanish and nobody is told, and a host comes
back with another address. Needs root, and a kernel that lets it make namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemon import Home
from tests.support.field import SOURCES, read_until
from tests.support.waiting import wait_until

from psync.daemon.listening import read_presence

DAEMON, CLIENT, ROAMED = "10.213.77.1", "10.213.77.2", "10.213.77.3"

COUNT = (
    "echo on; read x; i=0; while [ $i -lt 50 ]; do echo $i; i=$((i + 1)); sleep 0.1; done; exit 4"
)
COUNTED = b"on\n" + b"".join(b"%d\n" % number for number in range(50))


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"psync-try-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return True


pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs root and network namespaces"
)


class Cable:
    """Two namespaces and a link between them."""

    def __init__(self, directory: Path) -> None:
        self.here, self.there = (f"psync-{end}-{os.getpid()}" for end in ("client", "daemon"))
        self.home = Home()
        self.env = {
            "HOME": str(directory),
            "PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": SOURCES,
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(directory / "run"),
        }
        (directory / "run").mkdir(mode=0o700)
        (directory / "project").mkdir()
        (directory / "project/psync.toml").touch()
        self.project = directory / "project"
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cable:
        for name in (self.here, self.there):
            self.ip("netns", "add", name)
        self.ip(
            *("link", "add", "psync0", "netns", self.here, "type", "veth"),
            *("peer", "name", "psync0", "netns", self.there),
        )
        for name, address in ((self.here, CLIENT), (self.there, DAEMON)):
            self.ip("-n", name, "link", "set", "lo", "up")
            self.ip("-n", name, "link", "set", "psync0", "up")
            self.ip("-n", name, "address", "add", f"{address}/24", "dev", "psync0")
        process = subprocess.Popen(
            self.inside(self.there, "psync.cli.server", "serve", "--listen", f"{DAEMON}:0"),
            env=self.home.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._started.append(process)
        wait_until(lambda: read_presence(self.home.paths.record) is not None)
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.home.close()
        for name in (self.here, self.there):
            self.ip("netns", "delete", name)

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)

    def inside(self, namespace: str, module: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, sys.executable, "-P", "-m", module, *words]

    def pair(self) -> None:
        invited = subprocess.run(
            self.inside(self.there, "psync.cli.server", "invite"),
            env=self.home.env,
            capture_output=True,
            timeout=30,
        )
        assert invited.returncode == 0, invited.stderr
        done = self.psync("pair", "--invite", "-", "--name", "there").communicate(
            invited.stdout, 30
        )
        assert b"paired" in done[1], done

    def psync(self, *words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.inside(self.here, "psync.cli.main", *words),
            env=self.env,
            cwd=self.project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def count(self) -> subprocess.Popen[bytes]:
        """Start a run that counts for five seconds, once it is told to."""
        run = self.psync("run", "--on", "there", "--no-sync", "sh", "-c", COUNT)
        read_until(run, b"on\n")
        assert run.stdin is not None
        run.stdin.write(b"go\n")
        run.stdin.flush()
        return run


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    with Cable(tmp_path) as cable:
        cable.pair()
        yield cable


def test_a_link_that_is_down_for_a_while(cable: Cable) -> None:
    run = cable.count()
    read_until(run, b"3\n")
    cable.ip("-n", cable.there, "link", "set", "psync0", "down")
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(2)
    cable.ip("-n", cable.there, "link", "set", "psync0", "up")
    output, errors = run.communicate(timeout=50)
    assert COUNTED.endswith(output)
    assert output.endswith(b"\n49\n")
    assert run.returncode == 4, errors


def test_a_client_that_comes_back_with_another_address(cable: Cable) -> None:
    """Its connection is dead and nobody says so: packets for the old address go nowhere."""
    run = cable.count()
    read_until(run, b"3\n")
    cable.ip("-n", cable.here, "address", "delete", f"{CLIENT}/24", "dev", "psync0")
    cable.ip("-n", cable.here, "address", "add", f"{ROAMED}/24", "dev", "psync0")
    output, errors = run.communicate(timeout=55)
    assert COUNTED.endswith(output)
    assert output.endswith(b"\n49\n")
    assert run.returncode == 4, errors
