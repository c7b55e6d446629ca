"""Where ssh goes: destinations as ssh takes them, checked before they reach a command line."""

from __future__ import annotations

import re

import msgspec

from psync.errors import UsageError
from psync.text import printable


class SSHTarget(msgspec.Struct, frozen=True):
    """Where ssh goes, and how.

    Attributes:
        destination: as the user would type it: ``[user@]host`` or ``ssh://[user@]host[:port]``.
        command: the ssh command with its options, ``("ssh",)`` unless the user set another one.
        control_dir: absolute path of a private directory, at most 54 bytes; made when missing.
        key: path of the only private key that ssh may use there, None for what the user's ssh uses.
    """

    destination: str
    command: tuple[str, ...]
    control_dir: bytes
    key: str | None = None

    def __post_init__(self) -> None:
        user, at, host = self.address.rpartition("@")
        bad = not host or host.startswith("-") or (at and not user) or user.startswith("-")
        if bad or not self.destination.isprintable() or any(map(str.isspace, self.destination)):
            raise UsageError(
                f"{printable(self.destination)!r} is not an ssh destination",
                hint="give [user@]host, or a Host of ~/.ssh/config",
            )

    @property
    def address(self) -> str:
        """The destination as ``[user@]host``."""
        return self._uri()[0]

    @property
    def port_options(self) -> tuple[str, ...]:
        """The options that an ``ssh://`` destination with a port amounts to."""
        port = self._uri()[1]
        return ("-p", port) if port else ()

    def _uri(self) -> tuple[str, str]:
        if not self.destination.startswith("ssh://"):
            return self.destination, ""
        address = self.destination.removeprefix("ssh://").rstrip("/")
        found = re.fullmatch(r"((?:[^@]*@)?)(?:\[([^]]+)\]|([^:]*))(?::(\d+))?", address)
        if not found:
            return "", ""
        return found[1] + (found[2] or found[3]), found[4] or ""
