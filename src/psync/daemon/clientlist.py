"""One paired client, and the file that lists them: its format, and what is sound in a damaged one.

    {"version": 2, "clients": [...]}

Version 1, of psync 0.1, had neither rights nor renewal: what it lists may run programs in every
project. It is read as it is and becomes version 2 with the first change. The other way round, psync
0.1 says of a version 2 that a later psync-server wrote it, lets nobody in and leaves it alone:
rights that it does not know must not get lost.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from psync.errors import TrustError, UsageError
from psync.text import printable

VERSION = 2
"""The version that is written; earlier ones are read."""

SHORTEST_PREFIX = 4
"""Hexadecimal digits of a fingerprint that are taken for one."""

_PATTERN = r"\A[A-Za-z0-9._*?\[\]!-]{1,200}\Z"

Role = Literal["run", "view"]
"""``run``: everything; ``view``: see runs and their output, and nothing else."""

Via = Literal["ssh", "invitation", "local", "certificate"]
"""How a client got into the list: paired over ssh, by invitation, as the daemon's own user, or let
in with a certificate of one of the user's authorities."""


class ClientRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One paired client. Times are seconds since the epoch.

    Unknown fields make an entry a damaged one: behind one of them ``revoked`` may be hidden.

    Attributes:
        name: unique in the list; for people.
        fingerprint: of its certificate, see ``tls.fingerprint``.
        client_id: see ``identity.read_client_id``.
        paired: when; a renewed certificate changes nothing about it.
        expires: when its certificate ends.
        revoked: when it was, None while it may connect.
        role: what it may do.
        projects: patterns (``*``, ``?``, ``[…]``) over the IDs of projects it may deal with; empty
            for all.
        previous: fingerprint of the certificate before, until the one that replaces it is used for
            the first time.
        previous_expires: when that one ends.
        via: how it got into the list.
        address: from where it was paired; empty where nobody knows.
    """

    name: str
    fingerprint: str
    client_id: str
    paired: float
    expires: float
    revoked: float | None = None
    role: Role = "run"
    projects: tuple[str, ...] = ()
    previous: str | None = None
    previous_expires: float = 0.0
    via: Via = "ssh"
    address: str = ""

    def end_of(self, fingerprint: str) -> float:
        """Return when one of its certificates ends, the newest or the one before."""
        return self.previous_expires if fingerprint == self.previous else self.expires


class Damage(Exception):
    """The list, or part of it, cannot be read; the entries in ``sound`` can."""

    def __init__(self, what: str, sound: tuple[ClientRecord, ...] = ()) -> None:
        super().__init__(what)
        self.sound = sound


class _File(msgspec.Struct, frozen=True):
    version: int
    clients: list[msgspec.Raw]


class _Versioned(msgspec.Struct, frozen=True):
    version: int


def encode(records: tuple[ClientRecord, ...]) -> bytes:
    """Return the file that lists these clients."""
    text = msgspec.json.encode({"version": VERSION, "clients": records})
    return msgspec.json.format(text, indent=1) + b"\n"


def decode(text: bytes, shown: str) -> tuple[ClientRecord, ...]:
    """Return the clients in a file.

    Args:
        text: what the file holds.
        shown: its name, for messages.

    Raises:
        Damage: it cannot be read, or not all of it.
        TrustError: a later version of psync-server wrote it.
    """
    try:
        version = msgspec.json.decode(text, type=_Versioned).version
        if version > VERSION:
            raise TrustError(
                f"the list of clients, {shown}, was written by a later psync-server",
                hint="install that version again; until then nobody can connect",
            )
        if version < 1:
            raise Damage(f"there is no version {version} of it")
        entries = msgspec.json.decode(text, type=_File).clients
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Damage(printable(str(error))) from error
    sound, faults = [], []
    for number, entry in enumerate(entries, 1):
        try:
            sound.append(msgspec.json.decode(entry, type=ClientRecord))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            faults.append(f"client {number}: {printable(str(error))}")
    if faults:
        raise Damage(", ".join(faults[:5]), tuple(sound))
    return tuple(sound)


def free_name(name: str, taken: set[str]) -> str:
    """Return ``name``, or the first of ``name-2``, ``name-3``, … that is not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def choose(records: tuple[ClientRecord, ...], which: str) -> ClientRecord:
    """Return the client that is meant by a name or the beginning of a fingerprint.

    Raises:
        UsageError: none is meant, or more than one.
    """
    digits = which.removeprefix("sha256:").lower()
    by_fingerprint = len(digits) >= SHORTEST_PREFIX
    # A client chooses its own name, also one that looks like another's fingerprint: so both count.
    found = [
        one
        for one in records
        if one.name == which or (by_fingerprint and one.fingerprint.startswith(f"sha256:{digits}"))
    ]
    if not found:
        raise no_such_client(which)
    if len(found) > 1:
        names = ", ".join(f"{one.name} ({one.fingerprint[:19]}…)" for one in found[:5])
        raise UsageError(
            f"{printable(which)} may mean {len(found)} clients: {names}",
            hint="give more of the fingerprint, with sha256: before it",
        )
    return found[0]


def no_such_client(which: str) -> UsageError:
    """Return the error for a client that is not in the list."""
    return UsageError(
        f"no client is named {printable(which) or repr('')}, and no fingerprint begins so",
        hint="psync-server clients lists them",
    )


def check_patterns(projects: tuple[str, ...]) -> None:
    """Make sure that these can be patterns over IDs of projects.

    Raises:
        UsageError: one cannot.
    """
    import re

    for pattern in projects:
        if not re.match(_PATTERN, pattern):
            raise UsageError(
                f"{printable(pattern) or repr('')} matches the ID of no project",
                hint="IDs hold a-z, 0-9 and . _ -; * stands for any of them, as in 'game-*'",
            )
