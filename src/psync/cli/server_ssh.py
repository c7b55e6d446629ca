"""``psync-server`` behind ssh: the forced command of psync's own key, the relay, the key's line.

``ssh-gate`` is what sshd runs for every session with a key that ``psync pair --restrict-ssh`` made,
whatever the client asked for. It does one of four things (see ``daemon.sshgate``) or refuses.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from psync.daemon import rsyncgate, sshgate
from psync.daemon.part import MISSING, NoMirror, discard_unfinished, open_part
from psync.daemon.rsyncgate import Asked, Denied
from psync.errors import PsyncError
from psync.paths import ServerPaths
from psync.protocol.transfers import MAX_ARGUMENTS
from psync.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DENIED = 126
"""Exit status of what the key does not allow, as of a command that may not be executed."""

ARGUMENTS_TIMEOUT = 20.0
"""Seconds for rsync's arguments to arrive; they follow right behind the command."""

KEY_LIMIT = 4096
"""Bytes of a public key that are read from stdin."""

ASKED = 200
"""Bytes of a command that was refused that are written into the audit log."""

_ONLY = "this key may only sync into psync's mirrors and reach psync-server"
_CHUNK = 256 * 1024


def register(commands: Commands) -> None:
    """Add the sub-commands; all but people's own use them."""
    gate = commands.add_parser(
        "ssh-gate", help="the forced command of keys made by psync pair --restrict-ssh"
    )
    gate.add_argument("--client", required=True, metavar="ID", help="whose key it is")
    gate.set_defaults(run=lambda options: ssh_gate(options.client))

    relay_parser = commands.add_parser(
        "relay", help="connect stdin and stdout to the daemon; psync runs this over ssh"
    )
    relay_parser.set_defaults(run=lambda options: relay())

    key = commands.add_parser(
        "ssh-key", help="allow a client's own ssh key, read from stdin; psync pair runs this"
    )
    key.add_argument("--client", required=True, metavar="ID", help="whose key it is")
    key.add_argument("--nonce", required=True, help="marks the answer among other output")
    key.add_argument("--remove", action="store_true", help="take the key away instead")
    key.set_defaults(run=lambda options: ssh_key(options.client, options.nonce, options.remove))


# -- the forced command ----------------------------------------------------------------


def ssh_gate(client: str) -> int:
    """Do what SSH_ORIGINAL_COMMAND asks for, if the key of this client is for that."""
    command = os.environb.pop(b"SSH_ORIGINAL_COMMAND", None)
    gate = _Gate(ServerPaths.from_environ(os.environ), client)
    try:
        request = sshgate.decide(command)
        gate.check_paired()
        match request:
            case Asked():
                _transfer(request, gate)
            case sshgate.Relay():
                return relay()
            case sshgate.Discard():
                return _discard(request.project, gate)
            case sshgate.Start():
                from psync.cli.server import main

                return main(["start", f"--nonce={request.nonce}"])
    except NoMirror as missing:
        print(missing, file=sys.stderr)
        return MISSING
    except Denied as denied:
        gate.note(command, str(denied))
        print(f"psync-server: {_ONLY}: {denied}", file=sys.stderr)
        return DENIED


class _Gate:
    """Whose key it is, and what that client may do."""

    def __init__(self, paths: ServerPaths, client: str) -> None:
        from psync.daemon.access import AccessList

        self.client = client
        self._paths = paths
        records = (one for one in AccessList(paths.clients).clients() if one.client_id == client)
        self._record = next(records, None)
        self._address = os.environ.get("SSH_CONNECTION", "").partition(" ")[0]

    def check_paired(self) -> None:
        if self._record is None or self._record.revoked is not None:
            raise Denied("its client is not paired, or revoked")

    def check_project(self, project: str) -> None:
        from psync.daemon.audit import Audit
        from psync.daemon.guard import Book, ClientLimits, Guard

        assert self._record is not None
        audit = Audit(self._paths.audit)
        guard = Guard(self._record, ClientLimits(), Book(), audit, self._address)
        if not guard.may_act(project):
            if self._record.role != "run":
                raise Denied("its client may only look at runs, not sync files")
            raise Denied(f"its client may not use the project {project}")

    def note(self, command: bytes | None, reason: str) -> None:
        """Write the refusal into the audit log."""
        from psync.daemon.audit import Audit

        audit = Audit(self._paths.audit)
        asked = printable((command or b"")[:ASKED])
        text = f"ssh key: {reason}; asked for {asked!r}"
        audit.write("refused", self._record, name=self.client, address=self._address, reason=text)


# -- files -----------------------------------------------------------------------------


def _transfer(request: Asked, gate: _Gate) -> NoReturn:
    """Become the rsync that takes or gives the files, in the directory that they are in."""
    import shutil

    from psync.daemon.landlock import confine

    root = _projects_root()
    job = rsyncgate.job(request, _arguments(), os.fsencode(root))
    rsync = shutil.which("rsync")
    if rsync is None:
        print("psync-server: rsync: command not found", file=sys.stderr)
        sys.exit(127)
    gate.check_project(job.project)
    directory = open_part(root, job, gate.client)
    try:
        os.fchdir(directory)
        confine(directory, rsync, writes=not job.gives)
    except OSError as error:
        raise Denied(f"{job.project} cannot be used: {error.strerror}") from error
    # Of the environment rsync needs nothing but this, and some of its variables are options.
    environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    os.execve(rsync, [b"rsync", *job.argv], environ)  # noqa: S606 - no shell is the point


def _arguments() -> bytes:
    """Read rsync's arguments byte by byte: what follows them is for rsync."""
    sent = bytearray()
    deadline = time.monotonic() + ARGUMENTS_TIMEOUT
    while not rsyncgate.complete(bytes(sent[-2:])):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([0], [], [], left)[0] or len(sent) > MAX_ARGUMENTS:
            raise Denied("rsync's arguments are not complete")
        byte = os.read(0, 1)
        if not byte:
            raise Denied("rsync's arguments are not complete")
        sent += byte
    return bytes(sent)


def _projects_root() -> str:
    from psync.config import load_server

    return os.fsdecode(load_server(environ=os.environ).projects)


def _discard(project: str, gate: _Gate) -> int:
    gate.check_project(project)
    discard_unfinished(_projects_root(), project, gate.client)
    return 0


# -- the relay -------------------------------------------------------------------------


def relay() -> int:
    """Connect stdin and stdout to the daemon, which is started if it does not run.

    What goes through is TLS between the client and the daemon.

    Raises:
        PsyncError: the daemon cannot start.
        OSError: it does not answer.
    """
    from psync.daemon.service import ensure

    presence = ensure(ServerPaths.from_environ(os.environ), os.environ)
    with socket.create_connection(address_of(presence.listen), timeout=10) as daemon:
        daemon.settimeout(None)
        daemon.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Each direction blocks for itself, which is all the flow control there has to be.
        upwards = threading.Thread(target=_upwards, args=(daemon,), name="relay", daemon=True)
        upwards.start()
        _pump(daemon.recv, lambda data: _write_all(1, data))
    return 0


def address_of(listen: tuple[str, ...]) -> tuple[str, int]:
    """Return where a daemon on this host is reached: on loopback, if it listens there.

    Args:
        listen: its addresses, as ``host:port``.
    """
    found = []
    for name in listen:
        host, _, port = name.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))
        found.append((host, int(port)))
    return min(found, key=lambda address: address[0] not in ("127.0.0.1", "::1"))


def _upwards(daemon: socket.socket) -> None:
    try:
        _pump(lambda size: os.read(0, size), daemon.sendall)
        daemon.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction ends as well


def _pump(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    try:
        while data := read(_CHUNK):
            write(data)
    except (ConnectionError, BrokenPipeError):
        pass  # one of the two has gone


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


# -- the key's line --------------------------------------------------------------------


def ssh_key(client: str, nonce: str, remove: bool) -> int:
    """Write or remove the line of a client's key; answers in a frame, as pairing does."""
    from psync.daemon.facts import server_executable
    from psync.daemon.sshkeys import add_key, remove_key
    from psync.transport.enrolment import EnrolRefused, encode, frame

    paths = ServerPaths.from_environ(os.environ)
    status, answer = 0, b"{}"
    try:
        if remove:
            remove_key(paths, os.environ, client)
        else:
            public = sys.stdin.buffer.read(KEY_LIMIT)
            add_key(paths, os.environ, client, public, server_executable())
    except PsyncError as error:
        status, answer = error.exit_status, encode(EnrolRefused.of(error))
    sys.stdout.buffer.write(frame(nonce, answer))
    sys.stdout.buffer.flush()
    return status
