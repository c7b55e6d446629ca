"""What the forced command of psync's own ssh key allows. No I/O.

``sshd`` hands over the command that a client asked for as one text, SSH_ORIGINAL_COMMAND. It is
taken apart here and never given to a shell: either it is, byte for byte, of the form in which psync
itself asks, or it is refused. There are four such forms:

    PATH/rsync --server -sdlOtpRze.CAPABILITIES      files into one mirror of this client
    PATH/psync-server start --nonce=NONCE            have the daemon run, say where it listens
    PATH/psync-server relay                          this ssh channel, connected to the daemon
    PATH/psync-server discard PROJECT                remove what broken transfers left in a mirror

What stands before the last slash of the first word is ignored; psync-server uses its own rsync and
itself. With ``-s`` rsync sends its other arguments on stdin, so no path stands on the command line;
they are checked by ``transfer``. Allowed is what psync's rsync sends and nothing else. The model is
rrsync, which rsync comes with, but which has to take any rsync's options.
"""

from __future__ import annotations

import posixpath
import re

import msgspec

from psync.model import is_project_id

LONGEST = 4096
"""Bytes of a command; psync's own have some hundred."""

ARGUMENTS = 16 * 1024
"""Bytes of what rsync sends as its arguments."""

PARTS = (b"tree", b"outside")
"""The parts of a mirror that files go to."""

PARTIAL_DIR = b".psync-partial"

_WORD = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+|'[^']*'(?:\"'\"'[^']*')*")
_UNPRINTABLE = re.compile(rb"[\x00-\x1f\x7f]")
_NONCE = re.compile(rb"--nonce=([A-Za-z0-9_-]{8,64})")
# -s is a must; of the rest any part may be missing. After "e" come capabilities, no remote shell.
_FLAGS = re.compile(rb"-s([dlnOtprRz]*)(e\d*\.[A-Za-z]*)")
_OPTIONS = re.compile(
    rb"--delay-updates|--delete-missing-args|--existing|--safe-links|--(?:new|old)-compress"
    rb"|--compress-level=\d{1,3}|--compress-choice=[a-z0-9]{1,20}"
    rb"|--checksum-choice=[a-z0-9]{1,20}(?:,[a-z0-9]{1,20})?"
    rb"|--log-format=(?:X|%i)|--timeout=\d{1,6}|(?:-@|--modify-window=)-?\d{1,9}"
    rb"|--info=[A-Z0-9,]{1,300}|--partial-dir=\.psync-partial"
)


class Denied(Exception):
    """This is nothing that the key is for; the argument says what is wrong, for people."""


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


class Receive(msgspec.Struct, frozen=True):
    """Take files; the arguments follow on stdin.

    Attributes:
        flags: rsync's short options, complete and without ``-s``.
    """

    flags: bytes


class Transfer(msgspec.Struct, frozen=True):
    """Files for one part of one mirror.

    Attributes:
        project: ID of the project.
        part: one of ``PARTS``.
        argv: arguments of the rsync that takes them, in the directory of that part.
    """

    project: str
    part: bytes
    argv: tuple[bytes, ...]


Request = Start | Relay | Discard | Receive


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
    name = posixpath.basename(program)
    if name == b"rsync" and len(rest) == 2 and rest[0] == b"--server":
        flags = _FLAGS.fullmatch(rest[1])
        if flags is None:
            raise Denied("these options of rsync are not those that psync uses")
        return Receive(b"-" + flags[1] + flags[2])
    if name == b"psync-server":
        if rest == [b"relay"]:
            return Relay()
        if len(rest) == 2 and rest[0] == b"start" and (nonce := _NONCE.fullmatch(rest[1])):
            return Start(nonce[1].decode())
        if len(rest) == 2 and rest[0] == b"discard":
            return Discard(_project(rest[1]))
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


def complete(sent: bytes) -> bool:
    """Whether ``sent`` holds all of what rsync sends as its arguments: an empty one ends them."""
    return sent.endswith(b"\0\0")


def transfer(receive: Receive, sent: bytes, root: bytes) -> Transfer:
    """Return the transfer that rsync's arguments describe.

    Args:
        receive: from the command line.
        sent: what came on stdin, up to and including the empty argument.
        root: absolute path of the directory of all mirrors, as clients are told it.

    Raises:
        Denied: an argument is not one that psync's rsync sends, or the path is no mirror's.
    """
    if len(sent) > ARGUMENTS or not complete(sent):
        raise Denied("rsync's arguments are not complete")
    name, *words = sent[:-2].split(b"\0")
    if name != b"rsync":
        raise Denied("rsync's arguments are not complete")
    options: list[bytes] = []
    while words and words[0] != b".":
        word = words.pop(0)
        if word == b"--partial-dir":  # its value is a word of its own
            word += b"=" + (words.pop(0) if words else b"")
        if not _OPTIONS.fullmatch(word):
            raise Denied("these options of rsync are not those that psync uses")
        options.append(word)
    if len(words) != 2:
        raise Denied("rsync must write to one directory, and nothing else")
    project, part = _place(words[1], root)
    # Of links that come with the files, those that lead out are not made, whoever sends them.
    safe = [word for word in options if word != b"--safe-links"]
    argv = (b"--server", receive.flags, b"--safe-links", *safe, b".", b"./")
    return Transfer(project, part, argv)


def _place(path: bytes, root: bytes) -> tuple[str, bytes]:
    """Take the one form of path apart that psync gives: ROOT/PROJECT/PART/."""
    above = root.rstrip(b"/") + b"/"
    if path.startswith(above):
        project, _, part = path.removeprefix(above).partition(b"/")
        if part in (b"tree/", b"outside/"):
            return _project(project), part[:-1]
    raise Denied("that directory is not one of psync's mirrors")


def _project(name: bytes) -> str:
    text = name.decode("latin-1")
    if not is_project_id(text):
        raise Denied("that is not a project's ID")
    return text
