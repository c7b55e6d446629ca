"""A target behind an ssh key of its own, which the daemon host allows only what psync needs.

    <data>/targets/NAME/ssh_key    the private key, OpenSSH's format, no passphrase, mode 0600

Where there is such a key, psync uses it and nothing else for this target. It cannot forward ports,
so the connection to the daemon goes through a command over there, ``psync-server relay``. Nothing
heavy is imported here: whether there is a key is asked on the way to every run.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

from psync.errors import NotPaired, PsyncError, SSHError, ToolMissing
from psync.paths import ClientPaths, private_directory, write_atomic
from psync.sync.process import Child, Tail
from psync.text import printable

if TYPE_CHECKING:
    from psync.client.hosts import SSHHost
    from psync.client.targets import TargetSpec
    from psync.sync.ssh import SharedConnection

KEYGEN_TIMEOUT = 20.0
"""Seconds to make a key."""

REFUSAL = b"psync-server: this key may only "
"""How psync-server begins when it refuses what a restricted key asked for."""

PROTECTS = """\
psync now uses an ssh key of its own for {name}, and no other
a thief of that key gets no shell there, forwards no port or agent, reads no files, and writes \
none but in the copies of this client's projects
a thief who also has psync's certificate can start programs as your user; to forbid that: \
psync-server limit CLIENT --view, on {name}"""
"""What to tell after pairing."""

_REASON_TIMEOUT = 2.0  # seconds for ssh to end once its output has


def key_path(paths: ClientPaths, name: str) -> str:
    """Return where the key of a target is, if it has one."""
    return f"{paths.target(name)}/ssh_key"


def key_of(paths: ClientPaths, name: str) -> str | None:
    """Return the path of the only key for a target, None where the user's own ssh is used."""
    path = key_path(paths, name)
    return path if os.path.lexists(path) else None


class RelayWay:
    """A way to the daemon: each ``open`` is a ``psync-server relay`` over the shared connection.

    Args:
        connection: to the daemon host; open, or else each relay logs in for itself.
        server: path of ``psync-server`` there.
    """

    name = "the daemon's end of the ssh connection"

    def __init__(self, connection: SharedConnection, server: str) -> None:
        self._connection = connection
        self._server = server
        self._last: _Watched | None = None

    def open(self) -> socket.socket:
        """Return a connected socket; closing it ends the relay and its ssh.

        Raises:
            ToolMissing: ssh cannot be started.
        """
        argv = self._connection.argv([self._server, "relay"])
        ours, theirs = socket.socketpair()
        try:
            # Out of the terminal's reach: Ctrl-C is the run's, not the connection's.
            process = subprocess.Popen(
                argv,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ToolMissing(
                f"ssh cannot be started on this machine: {error.strerror}",
                hint="install it, for example: sudo apt install openssh-client",
            ) from error
        finally:
            theirs.close()
        self._last = _Watched(process)
        return ours

    def said(self) -> bytes:
        """Return what the last relay, or its ssh, complained of; waits a moment for its end."""
        return b"" if self._last is None else self._last.said()


class _Watched:
    """An ssh process, read and reaped by a thread of its own; it ends with its socket."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._tail = Tail()
        self._thread = threading.Thread(target=self._watch, name="ssh relay", daemon=True)
        self._thread.start()

    def said(self) -> bytes:
        self._thread.join(_REASON_TIMEOUT)
        return self._tail.value()

    def _watch(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None
        with stderr:
            while data := os.read(stderr.fileno(), 4096):
                self._tail.feed(data)
        self._process.wait()


def refusal(said: bytes, spec: TargetSpec) -> NotPaired | None:
    """Return the error that a refusal of psync-server in ``said`` amounts to, None without one."""
    for line in said.splitlines():
        if line.startswith(REFUSAL):
            reason = printable(line.removeprefix(REFUSAL)).partition(": ")[2]
            return NotPaired(
                f"{spec.name} refuses psync's ssh key: {reason}",
                hint=f"{spec.pair_command} --restrict-ssh",
            )
    return None


# -- pairing ------------------------------------------------------------------------------------


def restrict(host: SSHHost, spec: TargetSpec, paths: ClientPaths, client_id: str) -> str:
    """Have psync reach a target that is paired with a key of its own, from now on. Blocking.

    Args:
        host: the way there over the user's own ssh.
        spec: the target.
        paths: the client's directories.
        client_id: this client's ID.

    Returns:
        The path of the key.

    Raises:
        ToolMissing: there is no ssh-keygen.
        PsyncError: the daemon host did not take the key, or does not let it in; then everything is
            as it was, but for an earlier key of this client, which is gone.
    """
    from psync.client.hosts import SSHHost, start_daemon

    directory = private_directory(paths.target(spec.name))
    key = key_path(paths, spec.name)
    private, public = _new_key(f"{directory}/.ssh_key.new", f"psync:{client_id}")
    others = _sharers(spec, paths)
    try:
        _ask(host, ["ssh-key", f"--client={client_id}"], public)
        write_atomic(key, private)
        try:
            start_daemon(SSHHost(spec, paths, "psync-server"))
        except PsyncError as error:
            os.unlink(key)
            _ask(host, ["ssh-key", f"--client={client_id}", "--remove"], b"")
            raise SSHError(
                f"{spec.host} does not let psync's own key in: {error.message}",
                hint="its sshd must read ~/.ssh/authorized_keys; or pair without --restrict-ssh",
            ) from error
        for other in others:  # the daemon host knows one key of this client
            write_atomic(key_path(paths, other), private)
    except OSError as error:
        raise PsyncError(
            f"the key cannot be written to {printable(directory)}: {error.strerror}",
            hint="make room or make it writable, then pair again",
        ) from error
    host.connection.close()
    return key


def unrestrict(host: SSHHost, spec: TargetSpec, paths: ClientPaths, client_id: str) -> bool:
    """Use the user's own ssh for a target again; return whether there was a key.

    Its line on the daemon host goes with it, unless another target leads there with it.

    Raises:
        PsyncError: the line cannot be removed; the key stays.
    """
    if key_of(paths, spec.name) is None:
        return False
    if not _sharers(spec, paths):
        _ask(host, ["ssh-key", f"--client={client_id}", "--remove"], b"")
    os.unlink(key_path(paths, spec.name))
    return True


def _ask(host: SSHHost, words: list[str], feed: bytes) -> None:
    import msgspec

    from psync.transport.enrolment import EnrolRefused, unframe

    nonce = os.urandom(16).hex()
    payload = unframe(host.server([*words, f"--nonce={nonce}"], input=feed), nonce)
    if payload != b"{}":
        raise msgspec.json.decode(payload, type=EnrolRefused).error()


def _sharers(spec: TargetSpec, paths: ClientPaths) -> list[str]:
    """Return the names of other targets that reach the same daemon with a restricted key."""
    from psync.client.pairing import same_daemon
    from psync.client.targets import TargetFiles

    record = TargetFiles(paths, spec.name).read()
    if record is None:
        return []
    found = [files.name for files in same_daemon(paths, record)]
    return [name for name in found if name != spec.name and key_of(paths, name) is not None]


def _new_key(path: str, comment: str) -> tuple[bytes, bytes]:
    """Make a key with ssh-keygen; return both halves, with no file left behind."""
    for name in (path, f"{path}.pub"):
        _remove(name)
    said = Tail()
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
    try:
        try:
            status = Child(argv, detached=True).wait(said.feed, said.feed, KEYGEN_TIMEOUT)
        except FileNotFoundError as error:
            raise ToolMissing(
                "ssh-keygen is not installed on this machine",
                hint="install it, for example: sudo apt install openssh-client",
            ) from error
        if status != 0:
            raise PsyncError(f"ssh-keygen made no key: {printable(said.value().strip())}")
        with open(path, "rb") as private, open(f"{path}.pub", "rb") as public:
            return private.read(), public.read()
    finally:
        for name in (path, f"{path}.pub"):
            _remove(name)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
