"""What psync has rsync do on the daemon host, and nothing else. No I/O.

rsync over there asks for ``rsync --server`` here, over ssh or over the websocket, and this is where
it is decided whether it may have it. With ``-s`` its command line holds nothing but short options;
all else, paths included, is sent first, as arguments that each end with a NUL byte, and an empty
one. Both are taken apart and put together again: allowed is what psync's own rsync sends. The model
is rrsync, which rsync comes with, but which has to take any rsync's options.

    rsync --server -sdlOtpRze.CAPABILITIES            . ROOT/PROJECT/PART/        takes files
    rsync --server --sender -sltpre.CAPABILITIES      . ROOT/PROJECT/PART/NAME…   gives files
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

import msgspec

from psync.model import is_project_id
from psync.protocol.transfers import MAX_ARGUMENTS

PARTS = (b"tree", b"outside")
"""The parts of a mirror that files go to."""

PARTIAL_DIR = b".psync-partial"

MOST_SOURCES = 1000
"""Names that may be asked for at a time."""

LONGEST_NAME = 4095
"""Bytes of a name that is asked for (PATH_MAX, without the NUL at its end)."""

# -s is a must; of the rest any part may be missing. After "e" come capabilities, no remote shell.
# Not among them: whatever follows links (L, k, K), makes devices (D) or changes owners (o, g).
_FLAGS = re.compile(rb"-s([cdIlnOprRStWz]*)(e\d*\.[A-Za-z]*)")
_COMMON = (
    rb"--safe-links|--(?:new|old)-compress|--compress-level=\d{1,3}"
    rb"|--compress-choice=[a-z0-9]{1,20}|--checksum-choice=[a-z0-9]{1,20}(?:,[a-z0-9]{1,20})?"
    rb"|--timeout=\d{1,6}|--info=[A-Z0-9,]{1,300}"
)
_TAKING = re.compile(
    _COMMON + rb"|--delay-updates|--delete-missing-args|--existing|--log-format=(?:X|%i)"
    rb"|(?:-@|--modify-window=)-?\d{1,9}|--partial-dir=\.psync-partial"
)
_GIVING = re.compile(_COMMON + rb"|--list-only|--no-implied-dirs")
_WILD = re.compile(rb"[*?\[]")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class Denied(Exception):
    """That is nothing psync asks for; the argument says what is wrong, for people."""


class Asked(msgspec.Struct, frozen=True):
    """rsync is to be started; its arguments follow.

    Attributes:
        flags: its short options, complete and without ``-s``.
        gives: it is to send files, not to take them.
    """

    flags: bytes
    gives: bool = False


class Job(msgspec.Struct, frozen=True):
    """Files for one part of one mirror, or out of it.

    Attributes:
        project: ID of the project.
        part: one of ``PARTS``.
        argv: arguments of the rsync that is to be started in the directory of that part.
        gives: it sends files, and writes none.
        sources: what is asked for, relative to the part; empty where files are taken.
    """

    project: str
    part: bytes
    argv: tuple[bytes, ...]
    gives: bool = False
    sources: tuple[bytes, ...] = ()


def asked(words: Sequence[bytes]) -> Asked | None:
    """Return what a command asks for; None where it is none of rsync's.

    What stands before the last slash of the first word is ignored; the daemon has its own rsync.

    Args:
        words: the command.

    Raises:
        Denied: it is one that psync does not give.
    """
    if len(words) < 2 or posixpath.basename(words[0]) != b"rsync" or words[1] != b"--server":
        return None
    gives = len(words) > 2 and words[2] == b"--sender"
    rest = words[3:] if gives else words[2:]
    flags = _FLAGS.fullmatch(rest[0]) if len(rest) == 1 else None
    if flags is None:
        raise Denied("these options of rsync are not those that psync uses")
    return Asked(b"-" + flags[1] + flags[2], gives)


def complete(sent: bytes) -> bool:
    """Whether ``sent`` holds all of what rsync sends as its arguments: an empty one ends them."""
    return sent.endswith(b"\0\0")


def job(request: Asked, sent: bytes, root: bytes) -> Job:
    """Return what rsync's arguments come to.

    Names that are asked for are names and no patterns: a wildcard stands for itself, also where it
    is escaped with a backslash, as it has to be for an rsync that reads its own arguments.

    Args:
        request: from the command line.
        sent: the arguments, up to and including the empty one.
        root: absolute path of the directory of all mirrors, as clients are told it.

    Raises:
        Denied: an argument is not one that psync's rsync sends, or a path is no mirror's.
    """
    if len(sent) > MAX_ARGUMENTS or not complete(sent):
        raise Denied("rsync's arguments are not complete")
    name, *words = sent[:-2].split(b"\0")
    if name != b"rsync":
        raise Denied("rsync's arguments are not complete")
    allowed = _GIVING if request.gives else _TAKING
    options: list[bytes] = []
    while words and words[0] != b".":
        word = words.pop(0)
        if word == b"--partial-dir":  # its value is a word of its own
            word += b"=" + (words.pop(0) if words else b"")
        if not allowed.fullmatch(word):
            raise Denied("these options of rsync are not those that psync uses")
        options.append(word)
    if request.gives:
        return _giving(request, options, words[1:], root)
    return _taking(request, options, words[1:], root)


def project_id(name: bytes) -> str:
    """Return a project's ID as text.

    Raises:
        Denied: it is none.
    """
    text = name.decode("latin-1")
    if not is_project_id(text):
        raise Denied("that is not a project's ID")
    return text


def _taking(request: Asked, options: list[bytes], paths: list[bytes], root: bytes) -> Job:
    if len(paths) != 1:
        raise Denied("rsync must write to one directory, and nothing else")
    project, part, name = _place(paths[0], root)
    if name:
        raise Denied("that directory is not one of psync's mirrors")
    # Of links that come with the files, those that lead out are not made, whoever sends them.
    safe = [word for word in options if word != b"--safe-links"]
    argv = (b"--server", request.flags, b"--safe-links", *safe, b".", b"./")
    return Job(project, part, argv)


def _giving(request: Asked, options: list[bytes], paths: list[bytes], root: bytes) -> Job:
    if not 1 <= len(paths) <= MOST_SOURCES:
        raise Denied(f"rsync must read from one to {MOST_SOURCES} names of a mirror")
    places = [_place(path, root) for path in paths]
    project, part, _ = places[0]
    if any(place[:2] != (project, part) for place in places):
        raise Denied("rsync must read from one part of one mirror")
    sources = tuple(_source(name, relative=b"R" in request.flags) for _, _, name in places)
    # "./" keeps a name that begins with "-" from being an option
    argv = (b"--server", b"--sender", request.flags, *options, b".", *(b"./" + s for s in sources))
    return Job(project, part, argv, True, sources)


def _source(name: bytes, *, relative: bool) -> bytes:
    if len(name) > LONGEST_NAME:
        raise Denied(f"a path of {len(name)} bytes")
    parts = [_literal(part) for part in name.split(b"/")]
    if b".." in parts:
        raise Denied("that path leaves the mirror")
    # Without it rsync would call the files after their whole path here, and there refuse them.
    if relative and b"." not in parts[:-1]:
        raise Denied("with --relative a path has to say by /./ where the names of its files begin")
    return b"/".join(parts)


def _literal(part: bytes) -> bytes:
    return _ESCAPED.sub(rb"\1", part) if _WILD.search(part) else part


def _place(path: bytes, root: bytes) -> tuple[str, bytes, bytes]:
    """Take the one form of path apart that psync gives: ROOT/PROJECT/PART/, and maybe a name."""
    above = root.rstrip(b"/") + b"/"
    if path.startswith(above):
        project, _, rest = path.removeprefix(above).partition(b"/")
        part, slash, name = rest.partition(b"/")
        if slash and part in PARTS:
            return project_id(project), part, name
    raise Denied("that directory is not one of psync's mirrors")
