"""A transfer out of a mirror: an rsync whose output is read line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from psync.errors import DestinationError, Interrupted
from psync.sync.blame import rsync_error, unescape, unescaped
from psync.sync.progress import OutputParser
from psync.sync.rsync import STALL_TIMEOUT, Remote, Transfer, operand
from psync.sync.shell import quote, rsh_word
from psync.text import printable

LISTING = ("-ii", "--out-format=%i %l %B %n")
"""Has rsync say a line for everything there is."""

_OPTIONS = (
    "-rlpt",
    "--omit-dir-times",
    "--modify-window=-1",
    f"--timeout={STALL_TIMEOUT}",
    "--info=nonreg1,stats2,progress2",
    "--no-human-readable",
    "--outbuf=N",
    *LISTING,
)
_ITEM = re.compile(
    rb"(?P<what>[.<>ch*])(?P<kind>[fdLDS]).{9} (?P<size>\d+) (?P<mode>[\w-]{9}) (?P<name>.+)"
)
_NOT_REGULAR = re.compile(rb'skipping non-regular file "(.*)"')
_SAID = re.compile(
    rb'(?:rsync: )?(?:\[(?P<side>\w+)\] )?(?P<what>[^"]*)"(?P<name>.*)"(?P<rest>[^"]*?)'
    rb"(?:failed)?: (?P<reason>[^:]*) \((?P<errno>\d+)\)"
)
_VANISHED = re.compile(rb'file has vanished: "(.*)"')
_DISCARDED = re.compile(rb"ERROR: (.*) failed verification -- update (?:discarded|put into .*)\.")


class Item(msgspec.Struct, frozen=True):
    """Something in the mirror.

    Attributes:
        kind: ``f`` a file, ``d`` a directory, ``L`` a link, ``?`` anything else.
        name: relative to the directory that is read.
        size: bytes.
        mode: its nine permissions as ``ls`` shows them.
        same: it is here already, and the same.
    """

    kind: str
    name: bytes
    size: int = 0
    mode: bytes = b""
    same: bool = False


class Failure(msgspec.Struct, frozen=True):
    """What rsync said of one file.

    Attributes:
        name: as rsync called it, whole on the side that speaks.
        reason: for people.
        errno: of the system there, 0 where it is not told.
        here: this side speaks, which takes the files.
        doing: what failed, in rsync's words.
    """

    name: bytes
    reason: str
    errno: int = 0
    here: bool = False
    doing: str = ""


class Reader(OutputParser):
    """Reads the output of an rsync that was asked for ``LISTING``.

    Args:
        on_item: called with everything that is there.
    """

    def __init__(self, on_item: Callable[[Item], None]) -> None:
        super().__init__()
        self._on_item = on_item

    def _line(self, line: bytes) -> None:
        if found := _ITEM.fullmatch(line):
            name = unescaped(found["name"])
            kind = found["kind"].decode()
            self._on_item(
                Item(
                    kind=kind if kind in "fdL" else "?",
                    name=name.rstrip(b"/") if kind == "d" else name,
                    size=int(found["size"]),
                    mode=found["mode"],
                    same=found["what"] == b"." and kind != "d",
                )
            )
        elif found := _NOT_REGULAR.fullmatch(line):
            self._on_item(Item("?", unescaped(found[1])))
        else:
            super()._line(line)


def reading_argv(
    directory: bytes,
    destination: bytes,
    *,
    rsync: str,
    remote: Remote | None,
    rules: Sequence[bytes] | None,
    options: Sequence[str | bytes] = (),
) -> tuple[list[str | bytes], bytes]:
    """Return the command line that brings what a directory of the mirror holds, and its stdin.

    Args:
        directory: absolute path of the directory there.
        destination: absolute path of a directory here.
        rsync: path of the rsync here.
        remote: how to get there, None where it is this machine.
        rules: patterns of what is wanted, None for all of it.
        options: further options, before the patterns.
    """
    argv: list[str | bytes] = [rsync, *_OPTIONS, *options]
    feed = b""
    if rules is not None:
        argv += ["--from0", "--include-from=-", "--exclude=*"]
        feed = b"".join(rule + b"\0" for rule in rules)
    source = directory.rstrip(b"/") + b"/"
    if remote is not None:
        argv += ["-s", *(["-z", "--compress-level=1"] if remote.compress else [])]
        argv += ["-e", b" ".join(map(rsh_word, remote.shell))]
        argv.append(b"--rsync-path=" + quote(remote.rsync))
        source = operand(remote.address) + source
    return [*argv, "--", source, destination.rstrip(b"/") + b"/"], feed


class Reading(Transfer):
    """A running rsync that brings files here; see ``Transfer`` for the arguments.

    ``read`` must be called, and reaps it.
    """

    def read(
        self,
        on_item: Callable[[Item], None],
        on_output: Callable[[OutputParser], None] = lambda _parser: None,
    ) -> list[Failure]:
        """Wait until rsync has ended; return what it could not bring.

        When this returns or raises, no process of it is left.

        Args:
            on_item: called with everything that is there.
            on_output: called when there was some output.

        Raises:
            Interrupted: ``cancel`` was called.
            DestinationError: this machine cannot take the files.
            PsyncError: as ``Transfer.wait``.
        """
        said: list[bytes] = []
        room = 1 << 20
        parser = Reader(on_item)

        def on_stdout(data: bytes) -> None:
            parser.feed(data)
            on_output(parser)

        def on_stderr(data: bytes) -> None:
            nonlocal room
            said.append(data[:room])
            room -= len(said[-1])

        try:
            status = self._child.wait(on_stdout, on_stderr)
        finally:
            carried = self._end_carriage()
        words = carried.said + b"".join(said)
        if self._child.cancelled and status != 0:
            raise Interrupted("interrupted; what had arrived whole by then is kept")
        if status != 0 and carried.error is not None:
            raise carried.error
        failures = _failures(words)
        for failure in failures:
            if failure.here and failure.errno in (28, 122):  # ENOSPC, EDQUOT
                raise DestinationError(
                    f"the disk is full on this machine: {failure.reason} for "
                    f"{printable(failure.name)}",
                    hint="free some space, or name another directory with --into",
                )
        if status not in (0, 23, 24) or (status == 23 and not failures):
            raise rsync_error(
                status,
                words,
                mirror=self._mirror,
                host=self._host,
                destination=self._destination,
                ssh=self._carriage is None,
            )
        return failures


def _failures(said: bytes) -> list[Failure]:
    found = []
    for line in said.splitlines():
        line = line.strip()
        if match := _VANISHED.fullmatch(line):
            found.append(Failure(_name(match[1]), "it went away meanwhile", errno=2))
        elif match := _DISCARDED.fullmatch(line):
            found.append(Failure(_name(match[1]), "it changes all the time"))
        elif match := _SAID.fullmatch(line):
            found.append(
                Failure(
                    _name(match["name"]),
                    unescape(match["reason"]),
                    int(match["errno"]),
                    here=(match["side"] or b"").lower() in (b"receiver", b"generator"),
                    doing=match["what"].strip().decode("ascii", "replace"),
                )
            )
    return found


def _name(said: bytes) -> bytes:
    """Take a path as rsync wrote it; one that a daemon confined has ``/./`` in it."""
    return re.sub(rb"/(?:\./)+", b"/", unescaped(said))
