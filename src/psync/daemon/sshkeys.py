"""psync's lines in ``~/.ssh/authorized_keys``: one for each client that has a key of its own.

    restrict,command="/usr/bin/psync-server ssh-gate --client ID" ssh-ed25519 AAAA… psync:ID

``restrict`` takes away everything that sshd could give besides (terminal, forwarding of ports,
sockets, agent and X11, ``~/.ssh/rc``), also what later versions may add. All other lines belong to
the user, and stay as they are byte for byte.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping

from psync.errors import PsyncError, UsageError
from psync.paths import ServerPaths, home_directory, private_directory
from psync.sync.shell import quote
from psync.text import printable
from psync.transport.filelock import FileLock
from psync.transport.identity import CLIENT_ID

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another psync-server that changes the file."""

LARGEST = 4 * 1024 * 1024
"""Bytes of a list of keys that is still taken for one."""

_KEY = re.compile(rb"ssh-ed25519 ([A-Za-z0-9+/]{20,200}={0,2})(?: [^\r\n]*)?\n?")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


def add_key(
    paths: ServerPaths, environ: Mapping[str, str], client: str, public: bytes, server: str
) -> None:
    """Allow a client's key, in place of an earlier one of the same client.

    Args:
        paths: the daemon's directories; a lock is in there.
        environ: where HOME is.
        client: ID of the client.
        public: the key, as in ``id_ed25519.pub``.
        server: absolute path of ``psync-server``.

    Raises:
        UsageError: the key, the client's ID or the path cannot stand in such a line.
        PsyncError: the file cannot be read or written; it is as it was.
    """
    line = key_line(client, public, server)
    _change(paths, environ, lambda text: replace_line(text, client, line), create=True)


def remove_key(paths: ServerPaths, environ: Mapping[str, str], client: str) -> bool:
    """Take a client's key away; return whether it had one.

    Raises:
        PsyncError: the file cannot be read or written; it is as it was.
    """
    return _change(paths, environ, lambda text: replace_line(text, client, b""), create=False)


def key_line(client: str, public: bytes, server: str) -> bytes:
    """Return the line that allows a key what ``sshgate`` does; raises UsageError as ``add_key``."""
    key = _KEY.fullmatch(public)
    if key is None:
        raise UsageError("that is not an ssh-ed25519 key", hint="pair with psync pair")
    if not re.fullmatch(CLIENT_ID, client):
        raise UsageError(f"{printable(client)} is not the ID of a client")
    program = os.fsencode(server)
    if not program.startswith(b"/") or re.search(rb"[\x00-\x1f\x7f]", program):
        raise UsageError(f"{printable(server)} cannot stand in authorized_keys")
    # The user's login shell takes the command apart; sshd only looks for the closing quote.
    command = quote(program).replace(b'"', b'\\"') + b" ssh-gate --client " + client.encode()
    return b'restrict,command="%s" ssh-ed25519 %s psync:%s\n' % (command, key[1], client.encode())


def replace_line(text: bytes, client: str, line: bytes) -> bytes:
    """Return a list of keys with ``line`` in place of the client's; all else is untouched.

    Args:
        text: the list.
        client: whose line.
        line: the new one, with its line break; empty for none.
    """
    kept = []
    for old in _LINE.findall(text):
        if is_line_of(old, client):
            if line:
                kept.append(line)  # where the old one was
            line = b""
        else:
            kept.append(old)
    if line:
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        kept.append(line)
    return b"".join(kept)


def is_line_of(line: bytes, client: str) -> bool:
    """Whether psync wrote this line for this client: both its ends say so."""
    words = line.strip().rsplit(b" ", 1)
    ends = f'ssh-gate --client {client}"'.encode()
    ours = line.startswith(b'restrict,command="') and ends in line
    return ours and words[-1] == f"psync:{client}".encode()


def _change(
    paths: ServerPaths,
    environ: Mapping[str, str],
    edit: Callable[[bytes], bytes],
    *,
    create: bool,
) -> bool:
    """Edit the file in one step; return whether that changed it."""
    path = f"{home_directory(environ)}/.ssh/authorized_keys"
    try:
        # A link of the user's own (to dotfiles, say) stays one: the file behind it is replaced.
        real = os.path.realpath(path)
        if create:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(real), mode=0o700, exist_ok=True)
        elif not os.path.exists(real):
            return False
        private_directory(paths.data)
        with FileLock(f"{paths.data}/authorized_keys.lock", LOCK_TIMEOUT):
            return _replace(real, edit, create)
    except OSError as error:
        raise PsyncError(
            f"{printable(path)} cannot be changed: {error.strerror}",
            hint="make it a file of your own that you can write to",
        ) from error


def _replace(path: str, edit: Callable[[bytes], bytes], create: bool) -> bool:
    mode, owner, before = 0o600, None, b""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
                raise OSError(errno.EINVAL, "it is not a list of keys")
            mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
            before = file.read()
    except FileNotFoundError:
        if not create:
            return False
    after = edit(before)
    if after == before:
        return False
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(6).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        try:
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.write(after)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    return True
