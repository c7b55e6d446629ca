"""The place where things are measured: a private sshd, a paired psync, a small project.

Everything lives in one temporary directory and is gone afterwards, daemon included.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.sshd import PrivateSSHD

BIN = Path(sys.executable).parent
TARGET = "bench"
"""As pairing leaves it. The daemon host is this machine, so the client goes to its port directly,
as to a daemon that listens on the network."""

VIA_SSH = "via-ssh"
"""The same daemon, reached through the shared ssh connection, as one on loopback elsewhere is."""

WEBSOCKET = "websocket"
"""The same daemon, with files over the websocket as well: no ssh at all."""

TINY = """\
#include <stdio.h>
int main(void) { puts("hello"); return 0; }
"""


class Lab:
    """A daemon host and a client on loopback.

    Args:
        own_shell: log in over there with this user's home directory, so that ssh costs what the
            shell's start-up files cost here; else with an empty one, which costs least.

    Attributes:
        project: a directory with a tiny program ``./tiny`` and an asset, inside a client's home.
        env: environment of everything that runs on the client.
        sshd: the private sshd.
    """

    def __init__(self, *, own_shell: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="psync-bench-"))
        self.project = self.directory / "project"
        self.server_home = self.directory / "daemon"
        home = self.directory / "home"
        home.mkdir()
        there = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PSYNC_SERVER_HOME": str(self.server_home),
        }
        if own_shell:
            there["HOME"] = str(Path.home())
        self.sshd = PrivateSSHD(env=there)
        self.sshd.start()
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700)
        self.env = {
            "HOME": str(home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(runtime),
            "PSYNC_SSH": self.sshd.psync_ssh,
        }
        self._master = self.directory / "cm"

    def __enter__(self) -> Lab:
        self._make_project()
        for name, setting in (
            (TARGET, ""),
            (VIA_SSH, 'connect = "ssh"'),
            (WEBSOCKET, 'transport = "websocket"'),
        ):
            self.call(["psync", "pair", self.sshd.alias, "--name", name])
            config = Path(self.env["HOME"], ".config/psync/config.toml")
            table = f"[targets.{name}]\n"
            config.write_text(config.read_text().replace(table, f"{table}{setting}\n"))
        self.call([*self.sshd.ssh, "-fNM", "-S", str(self._master), self.sshd.alias])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        presence = self.server_home / "state" / "daemon.json"
        if presence.exists():
            os.kill(json.loads(presence.read_bytes())["pid"], signal.SIGTERM)
        self.sshd.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- command lines ------------------------------------------------------------------------

    def psync(
        self, *command: str, options: tuple[str, ...] = (), target: str = TARGET
    ) -> list[str]:
        """Return ``psync run`` of ``command`` on the daemon host."""
        return ["psync", "run", "--on", target, *options, *command]

    def ssh(self, command: str, *, warm: bool = False) -> list[str]:
        """Return ssh with a remote command, over a fresh connection or a warm ControlMaster."""
        return [*self._ssh(warm), self.sshd.alias, command]

    def pair(self, *, warm: bool, program: str = "./tiny") -> str:
        """Return what people type today, as a shell command: rsync, then ssh."""
        mirror = self.directory / "by-hand"
        copy = self.rsync("-az", "./", str(mirror) + "/", warm=warm)
        run = [*self._ssh(warm), self.sshd.alias, f"cd {mirror} && {program}"]
        return f"{shlex.join(copy)} && {shlex.join(run)}"

    def rsync(self, options: str, source: str, destination: str, *, warm: bool) -> list[str]:
        """Return rsync over ssh, to a path on the daemon host."""
        ssh = shlex.join(self._ssh(warm))
        return ["rsync", options, "-e", ssh, source, f"{self.sshd.alias}:{destination}"]

    def _ssh(self, warm: bool) -> list[str]:
        return [*self.sshd.ssh, *(["-S", str(self._master)] if warm else [])]

    # -- running --------------------------------------------------------------------------------

    def call(self, argv: list[str]) -> float:
        """Run a command in the project, its output thrown away; return the seconds it took.

        Raises:
            RuntimeError: it failed; what it printed is in the message.
        """
        with tempfile.TemporaryFile() as said:
            start = time.perf_counter()
            done = subprocess.run(
                argv, cwd=self.project, env=self.env, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, check=False,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            if done.returncode:
                said.seek(0)
                raise RuntimeError(f"{shlex.join(argv)}: {said.read().decode(errors='replace')}")
        return seconds

    def _make_project(self) -> None:
        self.project.mkdir()
        (self.project / "psync.toml").write_text("")
        (self.project / "asset.txt").write_text("an asset\n" * 1000)
        program = self.project / "tiny"
        compiler = shutil.which("cc")
        if compiler:
            source = self.directory / "tiny.c"
            source.write_text(TINY)
            subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
        else:
            program.write_text("#!/bin/sh\necho hello\n")
            program.chmod(0o755)
