"""What carries rsync's bytes where no ssh does, as the engine sees it.

The engine blocks, the connection to the daemon is the event loop's; what stands between the two
implements ``Carrier``. Of each transfer rsync's remote shell (``remote_shell``) hands rsync's ends
over through a socket that it inherits.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from psync.errors import PsyncError


class Carried(msgspec.Struct, frozen=True):
    """How a transfer went on the other side.

    Attributes:
        error: what went wrong, if it is known better than rsync here could tell.
        said: rsync's stderr over there.
    """

    error: PsyncError | None = None
    said: bytes = b""


class Carriage(Protocol):
    """Carries one transfer. Used by one thread; both methods must be called, in this order."""

    @property
    def fd(self) -> int:
        """The socket that rsync has to inherit."""

    def started(self) -> None:
        """rsync was started, or could not be: the socket is not needed here any more."""

    def end(self) -> Carried:
        """rsync here has ended: have the one there end too, if it has not. Takes a few seconds at
        most."""


class Carrier(Protocol):
    """A connection that can carry transfers. All methods may be called from any thread."""

    def check(self) -> None:
        """Raise ``ProtocolError`` if the daemon is known not to take files in this way."""

    def ready(self) -> bool:
        """Whether there is a connection."""

    def near(self) -> bool:
        """Whether the daemon is on this very machine: compressing for it would be a waste."""

    def connect(self) -> None:
        """Wait for a connection, made anew if the last one was lost; raises ``PsyncError``."""

    def lost(self) -> bool:
        """Whether the connection went away since ``connect``."""

    def cancel(self) -> None:
        """Have ``connect`` raise ``Interrupted``, also when it is called later."""

    def carry(self) -> Carriage:
        """Get ready for one transfer."""

    def discard(self, project: str) -> None:
        """Have what broken transfers left in a project's mirror removed, as far as possible."""
