"""One transfer: rsync's command line and its process.

What the options promise:

- a file is written under another name and renamed, so that one that is being executed is replaced;
  what an interrupted transfer leaves is in ``.psync-partial`` directories only, and is used again
  (unless the disk was full, see ``engine``);
- all files change their names together at the end (``--delay-updates``);
- a file is the same when size and time are, to the nanosecond: a rebuild within the second is sent;
- owner and group are the daemon's, nothing is set-user-ID, and nobody else may write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from psync.errors import Interrupted, ToolMissing
from psync.sync.blame import MirrorMissing, dangling_links, rsync_error
from psync.sync.carrier import Carriage, Carried
from psync.sync.linkrate import Measured
from psync.sync.plan import Tree
from psync.sync.process import Child, Tail
from psync.sync.progress import OutputParser, Progress
from psync.sync.project import VCS
from psync.sync.shell import quote, rsh_word
from psync.text import printable

__all__ = ["MirrorMissing", "Progress", "Remote", "Summary", "Transfer", "rsync_argv"]

PARTIAL_DIR = ".psync-partial"
"""Where unfinished files wait, beside their places."""

STALL_TIMEOUT = 120
"""Seconds without a byte in either direction after which rsync gives up."""

_OPTIONS = (
    "-pt",
    "--omit-dir-times",
    "--chmod=Du+rwx,Fu+rw,go-w,a-s",
    "--modify-window=-1",
    f"--partial-dir={PARTIAL_DIR}",
    "--delay-updates",
    f"--timeout={STALL_TIMEOUT}",
    "--from0",
    "--files-from=-",
    "--info=name1,nonreg1,symsafe1,stats2,progress2",
    "--no-human-readable",
    "--outbuf=N",
)
_REMOVAL = (
    "--dirs",
    "--existing",
    "--omit-dir-times",
    "--delete-missing-args",
    f"--timeout={STALL_TIMEOUT}",
    "--from0",
    "--files-from=-",
    "--info=del1,stats2",
    "--no-human-readable",
    "--outbuf=N",
)
_DRY = ("--dry-run", "--out-format=%i %n")
_KEPT_VARIABLES = ("RSYNC_CHECKSUM_LIST", "RSYNC_COMPRESS_LIST")


class Remote(msgspec.Struct, frozen=True):
    """How rsync reaches the other side.

    Attributes:
        shell: the remote shell with its options, without a destination: ssh, or psync's own.
        address: ``[user@]host``.
        rsync: path of the rsync over there.
        carriage: carries the bytes of the one transfer that this is for, where ssh does not.
        compress: whether the way there is likely to be slower than compressing.
        whole: send files whole, also where the other side has something similar.
    """

    shell: tuple[bytes, ...]
    address: str
    rsync: bytes
    carriage: Carriage | None = None
    compress: bool = True
    whole: bool = False


class Summary(msgspec.Struct, frozen=True):
    """What a sync did.

    Attributes:
        files: regular files that were sent; 0 when nothing had changed.
        bytes_sent: bytes that went to the other side, rsync's protocol included.
        seconds: how long it took.
        removed: files and directories that were removed.
        sent_names: of a dry run, what would be sent, as paths in the mirror.
        removed_names: likewise what would be removed.
        skipped: both sides were known to be unchanged; no rsync was started.
    """

    files: int
    bytes_sent: int
    seconds: float
    removed: int = 0
    sent_names: tuple[bytes, ...] = ()
    removed_names: tuple[bytes, ...] = ()
    skipped: bool = False


def rsync_argv(
    tree: Tree,
    *,
    rsync: str,
    mirror: bytes,
    remote: Remote | None,
    dry: bool = False,
    sparse: bool = False,
) -> tuple[list[str | bytes], bytes]:
    """Return rsync's command line and what it reads on stdin.

    Args:
        tree: what to copy; but for one to be followed, directories in it bring nothing along.
        rsync: path of the rsync here.
        mirror: absolute path of the project's directory on the other side.
        remote: how to get there, None where it is this machine.
        dry: only say what would be sent.
        sparse: where a file holds nothing but zeros, take up no room for it.
    """
    argv: list[str | bytes] = [rsync, *_OPTIONS, *(_DRY if dry else [])]
    # Only what a link points to is looked into by rsync itself; everything else is listed.
    argv += ["-r", "--copy-links"] if tree.follow else ["--dirs", "--links", "--safe-links"]
    argv += ["--checksum"] if tree.checksum else []
    argv += ["--sparse"] if sparse else []
    argv += [b"--exclude=" + name for name in VCS]
    # "./" keeps a name that begins with "-", "#" or ";" from meaning anything.
    entries = [b"." if name == b"." else b"./" + name for name in (*tree.entries, *tree.empty)]
    argv += _operands(os.path.join(tree.base, b""), tree.destination, mirror, remote)
    return argv, b"".join(name + b"\0" for name in entries)


def mark_argv(
    mark: bytes, part: bytes, *, rsync: str, mirror: bytes, remote: Remote | None, dry: bool
) -> tuple[list[str | bytes], bytes]:
    """Return the command line that puts a mark into a part of the mirror, and its stdin.

    Args:
        mark: absolute path of the file.
        part: of the mirror.
        rsync, mirror, remote: as for ``rsync_argv``.
        dry: only look; a file is counted as sent if the mark is not there.
    """
    source, name = os.path.split(mark)
    # The directory that the mark lies in here says nothing of the one that it goes to.
    argv: list[str | bytes] = [rsync, *_OPTIONS, "--no-perms", *(["--dry-run"] if dry else [])]
    argv += _operands(os.path.join(source, b""), part, mirror, remote)
    return argv, b"./" + name + b"\0"


def removal_argv(
    names: Sequence[bytes],
    skeleton: bytes,
    part: bytes,
    *,
    rsync: str,
    mirror: bytes,
    remote: Remote | None,
    dry: bool = False,
) -> tuple[list[str | bytes], bytes]:
    """Return the command line that removes exactly these names, and its stdin.

    rsync removes what it is told to send and what is not there (``--delete-missing-args``), of
    directories only empty ones. Directories on the way are real ones in ``skeleton``, so that rsync
    goes through no link that a program may have put in their place.

    Args:
        names: relative to the part.
        skeleton: absolute path of a directory that holds the directories on the way, nothing else.
        part: of the mirror.
        rsync, mirror, remote: as for ``rsync_argv``.
        dry: only say what would be removed.
    """
    argv: list[str | bytes] = [rsync, *_REMOVAL, *(["--dry-run"] if dry else [])]
    argv += _operands(os.path.join(skeleton, b""), part, mirror, remote)
    return argv, b"".join(b"./" + name + b"\0" for name in names)


def opening_argv(
    names: Sequence[bytes],
    skeleton: bytes,
    part: bytes,
    *,
    rsync: str,
    mirror: bytes,
    remote: Remote | None,
) -> tuple[list[str | bytes], bytes]:
    """Return the command line that gives their owner all rights in directories, and its stdin.

    Args:
        names: of directories, relative to the part.
        skeleton: absolute path of a directory that holds them, and nothing else.
        part: of the mirror.
        rsync, mirror, remote: as for ``rsync_argv``.
    """
    argv: list[str | bytes] = [rsync, "--perms", "--chmod=D700", *_REMOVAL]
    argv += _operands(os.path.join(skeleton, b""), part, mirror, remote)
    return argv, b"".join(b"./" + name + b"\0" for name in names)


def _operands(
    source: bytes, part: bytes, mirror: bytes, remote: Remote | None
) -> list[str | bytes]:
    argv: list[str | bytes] = []
    destination = os.path.join(mirror, part, b"")
    if remote is not None:
        argv += ["-s", *(["-z", "--compress-level=1"] if remote.compress else [])]
        argv += ["--whole-file"] if remote.whole else []
        argv += ["-e", b" ".join(map(rsh_word, remote.shell))]
        argv.append(b"--rsync-path=" + quote(remote.rsync))
        destination = operand(remote.address) + destination
    return [*argv, "--", source, destination]


class Transfer:
    """One running rsync, owned by whoever started it. ``wait`` must be called, and reaps it.

    Args:
        argv: its command line.
        feed: its stdin; None if ``give`` says so later, before ``wait``.
        mirror: the project's directory on the other side, for messages.
        host: the other side's name, None where it is this machine.
        environ: the environment to start from.
        destination: what ssh calls the other side, where that is not the same.
        remote: how rsync reaches the other side, None where it is this machine.
        removal: it removes files and sends none.
        part: of the mirror; what the names of a summary begin with.

    Raises:
        ToolMissing: rsync cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        feed: bytes | None,
        *,
        mirror: bytes,
        host: str | None,
        environ: Mapping[str, str],
        destination: str = "",
        remote: Remote | None = None,
        removal: bool = False,
        part: bytes = b"",
    ) -> None:
        self._removal = removal
        self._part = part
        self._mirror = mirror
        self._host = host
        self._destination = destination
        self._carriage = None if remote is None else remote.carriage
        self._began = time.monotonic()
        self._ended = 0.0
        self._flowing = 0.0  # when rsync said its first word: there is a connection, files go
        self._parser = OutputParser()
        inherited = () if self._carriage is None else (self._carriage.fd,)
        try:
            # Out of the terminal's reach: psync decides what Ctrl-C does to a transfer.
            self._child = Child(
                argv, env=_environment(environ), feed=feed, detached=True, pass_fds=inherited
            )
        except OSError as error:
            self._end_carriage()
            raise ToolMissing(
                f"rsync cannot be started on this machine: {printable(os.fsencode(argv[0]))}: "
                f"{error.strerror}",
                hint="install it, for example: sudo apt install rsync",
            ) from error
        if self._carriage is not None:
            self._carriage.started()

    @property
    def pid(self) -> int:
        """rsync's process ID, which is also that of its process group."""
        return self._child.pid

    @property
    def measured(self) -> Measured:
        """What the transfer tells of the link, once ``wait`` has returned."""
        return Measured(
            wire=self._parser.bytes_sent,
            content=self._parser.content,
            literal=self._parser.literal,
            seconds=self._ended - self._flowing if self._flowing else 0.0,
            created=self._parser.created,
        )

    def give(self, feed: bytes) -> None:
        """Say what it reads on stdin: what is to be sent is known now."""
        self._began = time.monotonic()
        self._child.give(feed)

    def cancel(self) -> None:
        """Have ``wait`` stop rsync with its ssh; from any thread or a signal handler."""
        self._child.cancel()

    def wait(
        self,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Wait until rsync has ended with everything in place.

        When this raises, no process of the transfer is left, every file in the mirror is the old
        one or the whole new one, and the next transfer continues with what had arrived.

        Args:
            on_progress: called about once a second while data flows, and at the end.
            on_warning: called for each thing that was left out on purpose.
            timeout: seconds for all of it; None leaves it to rsync to notice a stalled link.

        Raises:
            Interrupted: ``cancel`` was called.
            MirrorMissing: the daemon has no directory for this project yet.
            DestinationError: the other side cannot take the files.
            ToolMissing: there is no fitting rsync on the other side.
            SSHError: the connection failed or broke.
            ConnectionLost, Refused: where the connection to the daemon carries the files.
            SyncError: anything else; names the files where it is about files.
        """
        said = Tail()

        def on_stdout(data: bytes) -> None:
            self._flowing = self._flowing or time.monotonic()
            before = self._parser.progress
            self._parser.feed(data)
            progress = self._parser.progress
            if on_progress is not None and progress is not None and progress != before:
                on_progress(progress)
            self._warn(on_warning)

        try:
            status = self._child.wait(on_stdout, said.feed, timeout)
        except TimeoutError:
            status = 30  # rsync's own status for it
        finally:
            self._ended = time.monotonic()
            carried = self._end_carriage()
        words = carried.said + said.value()
        if self._child.cancelled and status != 0:
            raise Interrupted("interrupted while syncing; nothing was started")
        if status != 0 and carried.error is not None:
            raise carried.error
        if status == 23 and (links := dangling_links(words)):
            self._parser.warnings += [f"not sent: the link {link} leads nowhere" for link in links]
            self._warn(on_warning)
        elif status != 0:
            raise rsync_error(
                status,
                words,
                mirror=self._mirror,
                host=self._host,
                destination=self._destination,
                ssh=self._carriage is None,
            )
        return Summary(
            files=self._parser.files,
            bytes_sent=self._parser.bytes_sent,
            seconds=self._ended - self._began,
            removed=len(self._parser.removed) if self._removal else 0,
            sent_names=tuple(os.path.join(self._part, name) for name in self._parser.sent),
            removed_names=tuple(self._parser.removed) if self._removal else (),
        )

    def reap(self) -> None:
        """Wait for the end without interest in the outcome; a no-op after ``wait``."""
        if not self._child.ended:
            try:
                self._child.wait(lambda data: None, lambda data: None)
            finally:
                self._end_carriage()

    def _end_carriage(self) -> Carried:
        """rsync here is gone: have the one over there gone as well."""
        if self._carriage is None:
            return Carried()
        self._carriage.started()
        return self._carriage.end()

    def _warn(self, on_warning: Callable[[str], None] | None) -> None:
        warnings, self._parser.warnings = self._parser.warnings, []
        if on_warning is not None:
            for warning in warnings:
                on_warning(warning)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Our environment, less what would change rsync's options, with words that can be matched."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith("RSYNC_") or name in _KEPT_VARIABLES
    }
    return {**kept, "LC_ALL": "C"}


def operand(address: str) -> bytes:
    """Return ``[user@]host`` as rsync takes it before a path."""
    user, at, host = address.rpartition("@")
    return os.fsencode(f"{user}{at}[{host}]:" if ":" in host else f"{address}:")
