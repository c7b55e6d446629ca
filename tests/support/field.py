"""Two hosts on loopback: a client with its own home, and a daemon host behind a private sshd.

    with Field() as field:
        field.pair()
        done = field.psync("run", "./hello")
        assert done.returncode == 0

Everything is real: psync is a process, so are ssh, sshd, rsync, psync-server and the programs. All
of it lives in one temporary directory and ends with ``close``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.sshd import PrivateSSHD
from tests.support.waiting import alive, wait_until

SCRIPTS = sysconfig.get_path("scripts")
SOURCES = str(Path(__file__).parents[2] / "src")
TIMEOUT = 50.0
"""Seconds for one psync; below pytest's own limit, so that the failure shows what it printed."""


class Field:
    """A client and a daemon host.

    Args:
        sshd: whether there is a daemon host; without it there is only the target ``local``.
        server_env: environment of what runs on the daemon host, on top of a plain one.
        sshd_options: further arguments of ``PrivateSSHD``.

    Attributes:
        directory: holds everything.
        project: the client's project, the working directory of ``psync``.
        env: the client's environment.
        sshd: the daemon host's sshd.
        server_home: ``PSYNC_SERVER_HOME`` over there.
    """

    def __init__(
        self,
        *,
        sshd: bool = True,
        server_env: Mapping[str, str] | None = None,
        **sshd_options: Any,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="psync-field-", dir="/tmp"))
        self.project = self.directory / "my game"
        self.project.mkdir()
        (self.project / "psync.toml").touch()
        self.home = self.directory / "home"
        self.home.mkdir()
        runtime = self.directory / "run"
        runtime.mkdir(mode=0o700)
        self.server_home = self.directory / "there"
        path = f"{SCRIPTS}:/usr/local/bin:/usr/bin:/bin"
        self.env = {
            "HOME": str(self.home),
            "PATH": path,
            "XDG_RUNTIME_DIR": str(runtime),
            "PYTHONPATH": SOURCES,
            "LC_ALL": "C.UTF-8",
        }
        self.sshd: PrivateSSHD | None = None
        if sshd:
            self.sshd = PrivateSSHD(
                env={
                    "PATH": path,
                    "PYTHONPATH": SOURCES,
                    "PSYNC_SERVER_HOME": str(self.server_home),
                    **(server_env or {}),
                },
                **sshd_options,
            )
            self.env["PSYNC_SSH"] = self.sshd.psync_ssh
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Field:
        if self.sshd is not None:
            self.sshd.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of this field and remove its directory."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        try:
            for home in (self.server_home, self.local_home):
                self.stop_daemon(home)
        finally:
            if self.sshd is not None:
                self.sshd.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- the client ---------------------------------------------------------------------------

    @property
    def local_home(self) -> Path:
        """The home of the target ``local``'s daemon."""
        return self.home / ".local/share/psync/local"

    @property
    def data(self) -> Path:
        """The client's data directory."""
        return self.home / ".local/share/psync"

    @property
    def config(self) -> Path:
        """The user's configuration file."""
        return self.home / ".config/psync/config.toml"

    def pair(self, name: str = "there", *, connect: str = "auto") -> None:
        """Make the daemon host a target, the default one.

        ``auto`` goes straight to the daemon, since both hosts are this machine.
        """
        assert self.sshd is not None
        done = self.psync("pair", self.sshd.alias, "--name", name)
        assert done.returncode == 0, done.stderr
        self.env["PSYNC_TARGET"] = name
        if connect != "auto":
            self.config.write_text(f'{self.config.read_text()}connect = "{connect}"\n')

    def start(
        self,
        *words: str | bytes,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.PIPE,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a psync and return at once; ends with the field at the latest."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "psync.cli.main", *words],
            cwd=cwd or self.project,
            env={**self.env, **(env or {})},
            stdin=stdin,
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            **options,
        )
        self._started.append(process)
        return process

    def psync(
        self,
        *words: str | bytes,
        input: bytes = b"",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a psync to its end."""
        process = self.start(*words, cwd=cwd, env=env)
        stdout, stderr = process.communicate(input, TIMEOUT)
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def script(self, name: str, text: str, *, interpreter: str = "/bin/sh") -> Path:
        """Write an executable script into the project."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{interpreter}\n{text}")
        path.chmod(0o755)
        return path

    def python(self, name: str, text: str) -> Path:
        """Write an executable Python script into the project."""
        return self.script(name, text, interpreter=sys.executable)

    # -- the daemon host ------------------------------------------------------------------------

    def server(
        self, *words: str, home: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``psync-server`` on the daemon host to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "psync.cli.server", *words],
            env={
                **self.env,
                "PSYNC_SERVER_HOME": str(home or self.server_home),
                **(env or {}),
            },
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
        )

    def daemon(self, home: Path | None = None) -> dict[str, Any] | None:
        """Return what the running daemon says about itself, None where none runs."""
        said = json.loads(self.server("status", "--json", home=home).stdout)
        return said["daemon"] if said["running"] else None

    def kill_daemon(self, number: int = signal.SIGKILL, home: Path | None = None) -> None:
        """Send the daemon a signal and wait until it is gone."""
        known = self.daemon(home)
        assert known is not None
        os.kill(known["pid"], number)
        wait_until(lambda: not alive(known["pid"]))

    def stop_daemon(self, home: Path) -> None:
        """Have the daemon of ``home`` stop its runs and leave, if there is one."""
        if not (home / "state").exists():
            return
        known = self.daemon(home)
        if known is None and any((home / "state/runs").glob("*/ctl")):
            self.server("start", home=home)  # somebody has to look after runs left behind
            known = self.daemon(home)
        if known is None:
            return
        os.kill(known["pid"], signal.SIGINT)
        try:
            wait_until(lambda: not alive(known["pid"]), 5)
        except TimeoutError:
            os.kill(known["pid"], signal.SIGINT)  # the second one kills
            wait_until(lambda: not alive(known["pid"]))

    def mirror(self) -> Path:
        """Return the directory of the mirror of the field's own project."""
        (found,) = (path for path in self.mirrors() if path.name.startswith("my-game-"))
        return found

    def mirrors(self) -> list[Path]:
        """Return the directories of the mirrors on the daemon host."""
        return sorted((self.server_home / "data/projects").glob("*"))


def read_until(process: subprocess.Popen[bytes], text: bytes, *, stderr: bool = False) -> bytes:
    """Read a process's output until ``text`` has come; return all that was read."""
    stream = process.stderr if stderr else process.stdout
    assert stream is not None
    got = b""
    while text not in got:
        chunk = os.read(stream.fileno(), 65536)
        if not chunk:
            other = process.stdout if stderr else process.stderr
            said = other.read() if other is not None else b""
            raise AssertionError(f"ended before {text!r} came: {got[-2000:]!r}, {said[-2000:]!r}")
        got += chunk
    return got


def lines(output: bytes) -> Sequence[str]:
    """Return the lines of psync's stderr."""
    return output.decode().splitlines()
