"""Files: rsync's own protocol on a channel, and what both sides know of a mirror.

A transfer is one rsync here, one there, and a channel between them::

    OpenTransfer ──▶ Data stdin ⇄ Data stdout, stderr ──▶ TransferEnded

Each of the three streams has offsets of its own. Nobody sends more than ``WINDOW_TRANSFER`` bytes
of stdin or stdout beyond what the other side has acknowledged (``Ack``: handed to rsync); stderr is
a few lines and needs no acknowledgement. ``StdinEnd`` closes what the daemon's rsync reads.

A sync is ``BeginSync``, transfers (by whatever transport), ``EndSync``. Between the two, and if the
second never comes, the mirror may be a mixture and no run starts in it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from psync.protocol.base import Channel, Control, ProjectID, RequestNumber

WINDOW_TRANSFER = 2 * 1024 * 1024
"""How many bytes of stdin or stdout of a transfer may be on their way unacknowledged."""

MAX_ARGUMENTS = 16 * 1024
"""Bytes of what rsync sends as its arguments."""

MOST_NAMES = 1000
"""Names in one message about a mirror."""

NAMES_BYTES = 128 * 1024
"""Bytes of all names in one message about a mirror; their base64 fits into one."""

Names = Annotated[tuple[bytes, ...], Meta(max_length=MOST_NAMES)]
Seal = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{0,64}\Z")]


class OpenTransfer(Control, frozen=True, kw_only=True):
    """Client: start rsync in one of my mirrors and connect it to this channel.

    Attributes:
        channel: number of the client's choice that is not in use.
        command: what rsync here would have had started over ssh: ``rsync``, ``--server``, options.
        arguments: what it sent first: further arguments (``-s``), each ended by a NUL byte, and an
            empty one.
    """

    TYPE = 0x35
    channel: Channel
    command: Annotated[tuple[bytes, ...], Meta(max_length=8)]
    arguments: Annotated[bytes, Meta(max_length=MAX_ARGUMENTS)]


class TransferEnded(Control, frozen=True, kw_only=True):
    """Daemon: that rsync has ended, and all it wrote was sent. The channel is free.

    Attributes:
        channel: the transfer's.
        status: rsync's exit status; -n where signal n ended it.
    """

    TYPE = 0x36
    channel: Channel
    status: int


class CancelTransfer(Control, frozen=True, kw_only=True):
    """Client: end that rsync; nothing more of this transfer is wanted. The channel stays in use
    until ``TransferEnded``."""

    TYPE = 0x37
    channel: Channel


class BeginSync(Control, frozen=True, kw_only=True):
    """Client: from now on the mirror of this project may be a mixture.

    Attributes:
        request: number that the answer repeats.
        project: the project's ID.
    """

    TYPE = 0x19
    request: RequestNumber
    project: ProjectID


class SyncBegun(Control, frozen=True, kw_only=True):
    """Daemon: noted; no run starts in that mirror until ``EndSync``."""

    TYPE = 0x1A
    request: RequestNumber


class EndSync(Control, frozen=True, kw_only=True):
    """Client: the mirror is whole; note what it is like.

    Attributes:
        request: number that the answer repeats.
        project: the project's ID.
        base: seal of the note that this sync went on from, having sent only ``names``; without
            such a note no new one is made. Empty after a sync that compared everything.
        names: paths in the mirror (``tree/…``, ``outside/…``) that were sent or removed since.
    """

    TYPE = 0x1B
    request: RequestNumber
    project: ProjectID
    base: Seal = ""
    names: Names = ()


class SyncEnded(Control, frozen=True, kw_only=True):
    """Daemon: runs may start again. The note has this seal.

    Attributes:
        request: the request answered.
        seal: names the note; empty if none could be made.
    """

    TYPE = 0x1C
    request: RequestNumber
    seal: Seal = ""


class CheckMirror(Control, frozen=True, kw_only=True):
    """Client: is the mirror still what it was when you made the note with this seal?

    Attributes:
        request: number that the answer repeats.
        project: the project's ID.
        seal: from ``SyncEnded``.
        skip: paths told in earlier answers that had ``more``; they are not told again.
    """

    TYPE = 0x1D
    request: RequestNumber
    project: ProjectID
    seal: Seal
    skip: Annotated[int, Meta(ge=0, le=2**31)] = 0


class MirrorChecked(Control, frozen=True, kw_only=True):
    """Daemon: so much of it is.

    Attributes:
        request: the request answered.
        known: there is a note with that seal, and no sync has begun since.
        changed: paths in the mirror that are gone or not what they were, or of which nobody could
            tell. What came into being since is not among them.
        more: there are more of them than one message takes; ask again with ``skip``.
    """

    TYPE = 0x1E
    request: RequestNumber
    known: bool
    changed: Names = ()
    more: bool = False
