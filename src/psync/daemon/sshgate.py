"""What the forced command of psync's own ssh key allows. No I/O.

``sshd`` hands over the command that a client asked for as one text, SSH_ORIGINAL_COMMAND. It is
taken apart here and never given to a shell: either it is, byte for byte, of the form in which psync
itself asks, or it is refused. There are four such forms:

    PATH/rsync --server [--sender] -sFLAGS           files of one mirror of this client
    PATH/psync-server start --nonce=NONCE            have the daemon run, say where it listens
    PATH/psync-server relay                          this ssh channel, connected to the daemon
    PATH/psync-server discard PROJECT                remove what broken transfers left in a mirror

What stands before the last slash of the first word is ignored; psync-server uses its own rsync and
itself. What rsync may do is said in ``rsyncgate``.
"""

from __future__ import annotations

import posixpath
import re

import msgspec

from psync.daemon.rsyncgate import Asked, Denied, asked, project_id

LONGEST = 4096
"""Bytes of a command; psync's own have some hundred."""

_WORD = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+|'[^']*'(?:\"'\"'[^']*')*")
_UNPRINTABLE = re.compile(rb"[\x00-\x1f\x7f]")
_NONCE = re.compile(rb"--nonce=([A-Za-z0-9_-]{8,64})")


class Start(msgspec.Struct, frozen=True):
    """Have the daemon run.

    Attributes:
        nonce: marks the answer.
    """

    nonce: str


class Relay(msgspec.Struct, frozen=True):
    """Connect the channel to the daemon."""


class Discard(msgspec.Struct, frozen=True):
    """Remove unfinished files.

    Attributes:
        project: ID of the project.
    """

    project: str


Request = Start | Relay | Discard | Asked


def decide(command: bytes | None) -> Request:
    """Return what a command asks for.

    Args:
        command: SSH_ORIGINAL_COMMAND, None where the client wanted a shell or a subsystem.

    Raises:
        Denied: it is none of the four.
    """
    if not command:
        raise Denied("no shell")
    program, *rest = split(command)
    if (transfer := asked([program, *rest])) is not None:
        return transfer
    if posixpath.basename(program) == b"psync-server":
        if rest == [b"relay"]:
            return Relay()
        if len(rest) == 2 and rest[0] == b"start" and (nonce := _NONCE.fullmatch(rest[1])):
            return Start(nonce[1].decode())
        if len(rest) == 2 and rest[0] == b"discard":
            return Discard(project_id(rest[1]))
    raise Denied("this command is not one of psync's")


def split(command: bytes) -> list[bytes]:
    """Take a command apart that was put together with ``psync.sync.shell.quote``.

    Raises:
        Denied: it was not, or it is too long, or has control characters.
    """
    if len(command) > LONGEST:
        raise Denied(f"a command of {len(command)} bytes")
    if _UNPRINTABLE.search(command):
        raise Denied("a command with control characters")
    words = []
    position = 0
    while True:
        word = _WORD.match(command, position)
        if word is None:
            raise Denied("a command that psync would not write so")
        words.append(_unquote(word[0]))
        position = word.end()
        if position == len(command):
            return words
        if command[position : position + 1] != b" ":
            raise Denied("a command that psync would not write so")
        position += 1


def _unquote(word: bytes) -> bytes:
    if not word.startswith(b"'"):
        return word
    # '…', then any number of "'" and '…': what is between is the text, each quoted quote one byte
    return word[1:].replace(b"'\"'\"'", b"\0").replace(b"'", b"").replace(b"\0", b"'")
