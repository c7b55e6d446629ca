"""A private, real sshd on loopback for the tests.

Everything it needs (host key, user key, configuration, known_hosts) lives in one temporary
directory; it works as root and as an ordinary user and touches nothing of either's ``~/.ssh``.

    with PrivateSSHD(env={"PATH": "/opt/bin:/usr/bin:/bin"}) as sshd:
        subprocess.run([*sshd.ssh, sshd.alias, "true"], check=True)

``PSYNC_SSH`` for a psync under test is ``sshd.psync_ssh``.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/sbin")

_FORCED_COMMAND = """\
#!/bin/sh
printf %s {stdout}
printf %s {stderr} >&2
if [ -n "$SSH_ORIGINAL_COMMAND" ]; then exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"; fi
exec /bin/sh
"""


class PrivateSSHD:
    """One sshd process and the ssh client configuration that reaches it.

    Args:
        env: environment of the commands it runs, on top of sshd's own (``SetEnv``); ``PATH``,
            the XDG directories and ``PSYNC_SERVER_HOME`` can all be set here. ``HOME`` is
            the attribute ``home`` unless given, so that the user's own start-up files stay out.
        banner: text sent before authentication (arrives on the client's stderr).
        noise: text every remote command prints on stdout before it starts, as a chatty shell
            start-up file does. It breaks rsync's protocol, as such a file does.
        noise_stderr: the same on stderr, which breaks nothing but careless parsers.
        extra: further lines of ``sshd_config``.
        client_extra: further lines of the client's ``ssh_config``.
        alias: the name under which the client configuration knows this host.

    Attributes:
        directory: the temporary directory; gone after ``close``.
        home: ``HOME`` of the remote commands, empty at first.
        port: the loopback port, the same across ``stop`` and ``start``.
        config: the client's configuration file, for ``ssh -F``.
        pid: process ID of the listening sshd, or None while it is stopped.
    """

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        banner: str = "",
        noise: str = "",
        noise_stderr: str = "",
        extra: Sequence[str] = (),
        client_extra: Sequence[str] = (),
        alias: str = "daemon-host",
    ) -> None:
        if SSHD is None:
            raise RuntimeError("sshd is not installed")
        self.alias = alias
        self.directory = Path(tempfile.mkdtemp(prefix="psync-sshd-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client_extra = tuple(client_extra)
        directory = self.directory
        self.config = directory / "ssh_config"
        self.known_hosts = directory / "known_hosts"
        self.user_key = directory / "user_key"
        self.log = directory / "sshd.log"
        self.home = directory / "home"
        self.home.mkdir()
        self._keygen("host_key")
        self._keygen("user_key")
        shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
        self._lines = [
            "ListenAddress 127.0.0.1",
            f"HostKey {directory / 'host_key'}",
            f"AuthorizedKeysFile {directory / 'authorized_keys'}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "UseDNS no",
            "MaxStartups 100:30:200",
            *extra,
        ]
        pairs = {"HOME": str(self.home), **(env or {})}.items()
        quoted = ['"' + f"{name}={value}".replace('"', '\\"') + '"' for name, value in pairs]
        self._lines.append(f"SetEnv {' '.join(quoted)}")  # only the first such line counts
        if banner:
            (directory / "banner").write_text(banner)
            self._lines.append(f"Banner {directory / 'banner'}")
        if noise or noise_stderr:
            script = directory / "forced-command"
            script.write_text(
                _FORCED_COMMAND.format(stdout=shlex.quote(noise), stderr=shlex.quote(noise_stderr))
            )
            script.chmod(0o755)
            self._lines.append(f"ForceCommand {script}")

    def __enter__(self) -> PrivateSSHD:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def ssh(self) -> list[str]:
        """The ssh command with its options; append ``alias`` and a remote command."""
        return ["ssh", "-F", str(self.config)]

    @property
    def psync_ssh(self) -> str:
        """The same as one string, for ``PSYNC_SSH``."""
        return shlex.join(self.ssh)

    @property
    def pid(self) -> int | None:
        """Process ID of the listener, None while it is stopped."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start listening and return once the server greets; a no-op while it runs."""
        if self._process is not None:
            return
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for attempt in range(10):
            port = self.port if self.port and attempt < 9 else _free_port()
            if self._try_start(port):
                self.port = port
                self._write_client_config()
                return
        raise RuntimeError(f"sshd did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        """Stop listening and cut every open connection; ``start`` brings the same port back."""
        process, self._process = self._process, None
        if process is None:
            return
        sessions = _sessions(process.pid)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        _end(sessions)

    def cut(self) -> None:
        """Cut every open connection and keep listening, as a network failure would."""
        if self._process is not None:
            _end(_sessions(self._process.pid))

    def new_host_key(self) -> None:
        """Give the host another identity than the one in ``known_hosts``; restarts sshd."""
        running = self._process is not None
        self.stop()
        for name in ("host_key", "host_key.pub"):
            (self.directory / name).unlink()
        known = self.known_hosts.read_bytes()
        self._keygen("host_key")
        if running:
            self.start()
        self.known_hosts.write_bytes(known)

    def close(self) -> None:
        """Stop and remove the directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _keygen(self, name: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.directory / name)],
            check=True,
            stdin=subprocess.DEVNULL,
        )

    def _try_start(self, port: int) -> bool:
        assert SSHD is not None
        config = self.directory / "sshd_config"
        config.write_text("\n".join([f"Port {port}", *self._lines]) + "\n")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            if _greets(port):
                self._process = process
                return True
            time.sleep(0.01)  # a poll for another process's socket; nothing announces it
        if process.poll() is None:
            process.kill()
        process.wait(10)
        return False

    def _write_client_config(self) -> None:
        host_key = (self.directory / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key[0]} {host_key[1]}\n")
        lines = [
            f"Host {self.alias}",
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {pwd.getpwuid(os.geteuid()).pw_name}",
            f"IdentityFile {self.user_key}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.known_hosts}",
            "GlobalKnownHostsFile /dev/null",
            "StrictHostKeyChecking yes",
            "BatchMode yes",
            *self._client_extra,
        ]
        self.config.write_text("\n    ".join(lines) + "\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _sessions(listener: int) -> list[int]:
    """The sshd processes below ``listener``: one for each session, or a monitor and another."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, rest = (entry / "stat").read_bytes().rpartition(b")")
            except OSError:  # it ended meanwhile
                continue
            if head.partition(b"(")[2].startswith(b"sshd"):
                processes.append((int(entry.name), int(rest.split()[1])))
    found = [pid for pid, parent in processes if parent == listener]
    for session in found:  # grows
        found += [pid for pid, parent in processes if parent == session]
    return found


def _end(pids: Sequence[int]) -> None:
    """Kill processes of ours by their IDs."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
