"""Where the mirrors are: on a host behind ssh or behind a connection to its daemon, or here."""

from __future__ import annotations

import os
import sys

import msgspec

from psync.errors import PsyncError
from psync.model import Tool
from psync.sync.carrier import Carrier
from psync.sync.rsync import PARTIAL_DIR, Remote
from psync.sync.ssh import SharedConnection
from psync.sync.tools import check_rsync

DISCARD_TIMEOUT = 30.0
"""Seconds that removing unfinished files on the other side may take."""


class LocalEndpoint(msgspec.Struct, frozen=True):
    """The mirrors of a daemon on this machine: plain local copies, no ssh.

    Attributes:
        projects_root: absolute directory that holds the mirrors.
        host: what to call the other side in messages: None, it is this machine.
        destination: what ssh calls it: nothing.
    """

    projects_root: bytes
    host: str | None = None
    destination: str = ""

    def check(self) -> None:
        """Nothing to check: the rsync of this machine is on both sides."""

    def ready(self) -> bool:
        """Whether a transfer can start without asking the user anything: always."""
        return True

    def prepare(self) -> None:
        """Nothing to prepare."""

    def recover(self) -> bool:
        """Whether it is worth trying again after the connection broke: there is none."""
        return False

    def cancel(self) -> None:
        """Nothing to give up."""

    def remote(self) -> Remote | None:
        """How rsync reaches the other side: it is here."""
        return None

    def discard_unfinished(self, mirror: bytes) -> None:
        """Remove what broken transfers have left in a project's directory, as far as possible."""
        import shutil

        name = os.fsencode(PARTIAL_DIR)
        for directory, names, _ in os.walk(mirror):
            if name in names:
                names.remove(name)
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)


class SSHEndpoint:
    """The mirrors of a daemon on another host, reached over the shared ssh connection.

    Args:
        connection: to that host.
        projects_root: absolute directory over there that holds the mirrors.
        rsync: the rsync over there.
        host: what to call the host in messages; the ssh destination by default.
    """

    def __init__(
        self,
        connection: SharedConnection,
        *,
        projects_root: bytes,
        rsync: Tool | None,
        host: str = "",
    ) -> None:
        self.connection = connection
        self.projects_root = projects_root
        self.rsync = rsync
        self.host: str | None = host or connection.target.destination
        self.destination = connection.target.destination
        self._shared = False

    def check(self) -> None:
        """Make sure that the rsync over there can be used.

        Raises:
            ToolMissing: it cannot.
        """
        check_rsync(self.rsync, f"on {self.host}")

    def ready(self) -> bool:
        """Whether a transfer can start at once, without a login."""
        return self.connection.is_open()

    def prepare(self) -> None:
        """Open the connection unless it is open. Raises as ``SharedConnection.open``."""
        self.connection.open()

    def recover(self) -> bool:
        """Whether it is worth trying again: the shared connection died under the transfer."""
        return self._shared and not self.connection.is_open()

    def cancel(self) -> None:
        """Give up what ``prepare`` does; the connection object is of no use afterwards."""
        self.connection.cancel()

    def remote(self) -> Remote | None:
        """How rsync reaches the other side at this moment."""
        assert self.rsync is not None
        self._shared = self.connection.is_open()
        return Remote(
            shell=tuple(os.fsencode(word) for word in self.connection.options()),
            address=self.connection.target.address,
            rsync=os.fsencode(self.rsync.path),
        )

    def discard_unfinished(self, mirror: bytes) -> None:
        """Remove what broken transfers have left in a project's directory, as far as possible."""
        find = [b"find", mirror, b"-type", b"d", b"-name", os.fsencode(PARTIAL_DIR), b"-prune"]
        command = [*find, b"-exec", b"rm", b"-rf", b"{}", b"+"]
        if self.connection.target.key is not None:  # such a key runs no programs
            command = [b"psync-server", b"discard", os.path.basename(mirror)]
        try:
            self.connection.run(command, timeout=DISCARD_TIMEOUT)
        except PsyncError:
            pass  # the error that led here is the one to be told


class WebsocketEndpoint:
    """The mirrors of a daemon whose connection carries the files. No ssh is needed.

    Args:
        carrier: the connection.
        projects_root: absolute directory over there that holds the mirrors.
        rsync: the rsync over there, for messages; the daemon starts its own.
        host: what to call the host in messages.
        destination: what distinguishes it from other hosts; ``host`` by default. The same as over
            ssh, so that what is known of the mirrors stays known when the transport changes.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        projects_root: bytes,
        rsync: Tool | None,
        host: str,
        destination: str = "",
    ) -> None:
        self.carrier = carrier
        self.projects_root = projects_root
        self.rsync = rsync
        self.host: str | None = host
        self.destination = destination or host

    def check(self) -> None:
        """Make sure that the daemon takes files, and that the rsync over there can be used.

        Raises:
            ProtocolError: the daemon is too old for that.
            ToolMissing: there is no rsync, or none that fits.
        """
        check_rsync(self.rsync, f"on {self.host}")
        self.carrier.check()

    def ready(self) -> bool:
        """Whether a transfer can start at once."""
        return self.carrier.ready()

    def prepare(self) -> None:
        """Wait for a connection, if the last one was lost; raises as ``Carrier.connect``."""
        self.carrier.connect()

    def recover(self) -> bool:
        """Whether it is worth trying again: the connection died under the transfer."""
        return self.carrier.lost()

    def cancel(self) -> None:
        """Give up what ``prepare`` does."""
        self.carrier.cancel()

    def remote(self) -> Remote | None:
        """How one rsync reaches the other side. It is for that alone."""
        carriage = self.carrier.carry()
        # -I -S -E: nothing of the user's is imported, and it takes a few milliseconds only
        shell = (sys.executable, "-I", "-S", "-E", _REMOTE_SHELL, str(carriage.fd))
        return Remote(
            shell=tuple(os.fsencode(word) for word in shell),
            address="psync",  # nobody looks it up
            rsync=b"rsync",
            carriage=carriage,
            compress=not self.carrier.near(),
        )

    def discard_unfinished(self, mirror: bytes) -> None:
        """Remove what broken transfers have left in a project's directory, as far as possible."""
        try:
            self.carrier.discard(os.fsdecode(os.path.basename(mirror)))
        except PsyncError:
            pass  # the error that led here is the one to be told


_REMOTE_SHELL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "remote_shell.py")

Endpoint = LocalEndpoint | SSHEndpoint | WebsocketEndpoint
