"""Where psync keeps its files, on both sides, and how it makes them private.

The directories follow the XDG base directory specification, read from an environment that is passed
in, so that several clients and daemons of one user can live apart. Paths are text, with undecodable
bytes as lone surrogates (``os.fsdecode``), so they name any file and survive a round trip.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import Self

import msgspec

from psync.errors import ConfigError

# ssh appends a dot and sixteen characters to a control socket's path while it makes it, and the
# address of a unix socket holds 108 bytes on Linux and 104 on macOS and the BSDs. What stays is for
# the socket's own name, 32 bytes.
LONGEST_RUNTIME = 104 - 1 - 17 - 32


class ClientPaths(msgspec.Struct, frozen=True):
    """The directories of a client. Computing them creates nothing.

    Attributes:
        config: ``$XDG_CONFIG_HOME/psync``.
        data: ``$XDG_DATA_HOME/psync``: identity and paired targets.
        state: ``$XDG_STATE_HOME/psync``.
        runtime: ``$XDG_RUNTIME_DIR/psync``, or ``/tmp/psync-UID`` where that is not ours, not
            private, or too long for the path of a socket. Pass it to ``private_directory`` with
            ``exclusive=True`` before use: anyone may have made the one in ``/tmp``.
    """

    config: str
    data: str
    state: str
    runtime: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the client's directories as ``environ`` has them."""
        return cls(
            config=_xdg(environ, "XDG_CONFIG_HOME", ".config", "psync"),
            data=_xdg(environ, "XDG_DATA_HOME", ".local/share", "psync"),
            state=_xdg(environ, "XDG_STATE_HOME", ".local/state", "psync"),
            runtime=_runtime(environ),
        )

    @property
    def config_file(self) -> str:
        """The user's own configuration."""
        return f"{self.config}/config.toml"

    @property
    def identity(self) -> str:
        """The directory of this client's key and certificate request."""
        return f"{self.data}/identity"

    def target(self, name: str) -> str:
        """The directory of what pairing brought for the target ``name``."""
        return f"{self.data}/targets/{name}"

    @property
    def local(self) -> str:
        """``PSYNC_SERVER_HOME`` of the daemon behind the target ``local``."""
        return f"{self.data}/local"


class ServerPaths(msgspec.Struct, frozen=True):
    """The directories of a daemon. Computing them creates nothing.

    ``PSYNC_SERVER_HOME`` puts all of them into one directory. The configuration too: otherwise two
    daemons of one user, one of them the target ``local``, would claim the same listening address.

    Attributes:
        config_file: ``$XDG_CONFIG_HOME/psync/server.toml``.
        data: ``$XDG_DATA_HOME/psync-server``: CA, paired clients, mirrors.
        state: ``$XDG_STATE_HOME/psync-server``: runs, and what this daemon is at now.
    """

    config_file: str
    data: str
    state: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the daemon's directories as ``environ`` has them.

        Raises:
            ConfigError: ``PSYNC_SERVER_HOME`` is not an absolute path.
        """
        home = environ.get("PSYNC_SERVER_HOME", "")
        if home:
            if not home.startswith("/"):
                raise ConfigError(
                    f"environment PSYNC_SERVER_HOME: {home!r} is not an absolute path",
                    hint="give the directory from / on",
                )
            home = home.rstrip("/")
            return cls(f"{home}/server.toml", f"{home}/data", f"{home}/state")
        return cls(
            config_file=_xdg(environ, "XDG_CONFIG_HOME", ".config", "psync/server.toml"),
            data=_xdg(environ, "XDG_DATA_HOME", ".local/share", "psync-server"),
            state=_xdg(environ, "XDG_STATE_HOME", ".local/state", "psync-server"),
        )

    @property
    def ca(self) -> str:
        """The directory of the private CA."""
        return f"{self.data}/ca"

    @property
    def clients(self) -> str:
        """The list of paired clients."""
        return f"{self.data}/clients.json"

    @property
    def invitations(self) -> str:
        """The outstanding invitations."""
        return f"{self.data}/invitations.json"

    @property
    def projects(self) -> str:
        """The default directory of the projects' mirrors."""
        return f"{self.data}/projects"

    @property
    def runs(self) -> str:
        """The directory that holds one directory per run."""
        return f"{self.state}/runs"

    @property
    def record(self) -> str:
        """What the running daemon says about itself: process, addresses."""
        return f"{self.state}/daemon.json"

    @property
    def seen(self) -> str:
        """When each client was seen last."""
        return f"{self.state}/seen.json"

    @property
    def audit(self) -> str:
        """The audit log."""
        return f"{self.state}/audit.jsonl"

    @property
    def lock(self) -> str:
        """The file whose lock the running daemon holds."""
        return f"{self.state}/daemon.lock"

    @property
    def log(self) -> str:
        """The log of a daemon that was started in the background."""
        return f"{self.state}/daemon.log"


def home_directory(environ: Mapping[str, str]) -> str:
    """Return the user's home directory: ``HOME``, else what the system's user list says.

    Raises:
        ConfigError: neither of them names one.
    """
    home = environ.get("HOME", "")
    if home.startswith("/"):
        return home.rstrip("/") or "/"
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise ConfigError(
            f"environment HOME: not set, and user {os.getuid()} has no home directory",
            hint="set HOME to a directory of your own",
        ) from None


def private_directory(path: str, *, exclusive: bool = False) -> str:
    """Make sure that ``path`` is a directory that nobody else can write to, and return it.

    It and the directories above it are created with mode 0700 where they are missing. One that
    exists is taken as it is, also behind a symbolic link of the user's own.

    Args:
        path: absolute path.
        exclusive: nobody else may read it either.

    Raises:
        ConfigError: it cannot be created, is no directory, belongs to somebody else, or others may
            write to it (or read it, with ``exclusive``). What was created so far stays.
    """
    try:
        _make_directories(path)
        link = os.lstat(path)
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"cannot use {path!r} as a directory: {error.strerror}",
            hint="make it a directory of your own, or name another one",
        ) from error
    user = os.geteuid()
    for owner in (link.st_uid, status.st_uid):
        if owner != user:
            raise ConfigError(
                f"{path!r} belongs to another user (uid {owner}, you are {user})",
                hint="remove it, or name a directory of your own",
            )
    mode = stat.S_IMODE(status.st_mode)
    if mode & (0o077 if exclusive else 0o022):
        deed = "read or write" if exclusive else "write"
        raise ConfigError(
            f"others may {deed} in {path!r} (mode {mode:04o})", hint=f"chmod 0700 {path!r}"
        )
    return path


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace the file ``path`` with ``data``: afterwards it is the old file or the whole new one.

    The data is on disk before the name changes. The directory must exist; a symbolic link is
    replaced, not followed.

    Raises:
        OSError: as from the system calls; the old file is untouched and no temporary one is left.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.urandom(6).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, mode), "wb") as file:
        try:
            os.fchmod(file.fileno(), mode)  # whatever the umask left of it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def private(path: str, flags: int) -> int:
    """Open a file that is nobody else's business: an ``opener`` for ``open``; mode 0600."""
    return os.open(path, flags, 0o600)


def free_path(path: str) -> str:
    """Return ``path``, or the first of ``path-2``, ``path-3``, … at which there is nothing."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = f"{path}-{number}"
    return free


def _xdg(environ: Mapping[str, str], variable: str, default: str, below: str) -> str:
    base = environ.get(variable, "")
    if not base.startswith("/"):  # the specification: ignore what is not absolute
        base = f"{home_directory(environ).rstrip('/')}/{default}"
    return f"{base.rstrip('/')}/{below}"


def _runtime(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_RUNTIME_DIR", "")
    path = f"{base.rstrip('/')}/psync"
    if base.startswith("/") and len(os.fsencode(path)) <= LONGEST_RUNTIME:
        # After su and sudo the variable may name the runtime directory of somebody else.
        try:
            status = os.stat(base)
        except OSError:
            pass
        else:
            private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            if private and stat.S_ISDIR(status.st_mode):
                return path
    return f"/tmp/psync-{os.geteuid()}"  # noqa: S108 - checked by private_directory


def _make_directories(path: str) -> None:
    """Create ``path`` and what is missing above it, each 0700; os.makedirs does so only at the end.

    Raises OSError when something else stands there.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, "it is not a directory", path) from None
    except FileNotFoundError:
        parent = os.path.dirname(path)
        # a parent that is there after all: a file system such as /proc, where nothing can be made
        if parent == path or os.path.islink(path) or os.path.isdir(parent):
            raise
        _make_directories(parent)
        _make_directories(path)
