"""Copies of programs without what only debuggers need; the original stays here, for them.

    <state>/stripped/<key>/<path in the mirror's part>   a copy; the key is of content and path
    <state>/stripped/seen/<key of the path>              what the file looked like when it was read

A copy is used again when the file is known to be the same: by inode, size and times, to the
nanosecond, where these are old enough to tell, else by its content. A file that was written so
recently that another write might leave no trace in its times is read again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping

import msgspec

from psync.errors import Interrupted
from psync.paths import private_directory, write_atomic
from psync.sync.elf import ElfError, Header, debug_size, parse_header
from psync.sync.machine import same_family
from psync.sync.plan import SyncPlan, Tree
from psync.text import printable

MOST_BYTES = 5 * 10**9
"""Bytes of copies that are kept; the longest unused goes first."""

TIMEOUT = 120.0
"""Seconds that making a copy may take."""

WORTH_A_HINT = 50_000_000
"""Bytes for debuggers in a program from which on the user is told how to leave them out."""

_SURE = 2 * 10**9  # nanoseconds; the coarsest clock of a file system in use (FAT) has 2 s
_TICK = 0.02  # seconds; Linux stamps files with a clock that steps at most every 10 ms

_TRIPLES = {
    "x86_64": ("x86_64-linux-gnu",),
    "i386": ("i686-linux-gnu", "x86_64-linux-gnu"),
    "aarch64": ("aarch64-linux-gnu",),
    "arm": ("arm-linux-gnueabihf", "arm-linux-gnueabi"),
    "riscv64": ("riscv64-linux-gnu",),
    "ppc64le": ("powerpc64le-linux-gnu",),
    "s390x": ("s390x-linux-gnu",),
    "loongarch64": ("loongarch64-linux-gnu",),
}


class StripError(Exception):
    """No copy could be made; says why."""


class _Seen(msgspec.Struct, frozen=True):
    """What was known of a file when it was read.

    Attributes:
        identity: device, inode, size, time of modification, time of change.
        digest: SHA-256 of its content.
        when: when reading it began, in nanoseconds since the epoch.
    """

    identity: tuple[int, int, int, int, int]
    digest: str
    when: int

    @property
    def sure(self) -> bool:
        """Whether a later write must have changed the identity."""
        return max(self.identity[3:]) < self.when - _SURE


class StripCache:
    """The copies of one client.

    Args:
        state: the client's state directory.
        environ: the environment; its PATH is searched for tools.
        most: bytes of copies to keep.
        cancelled: asked now and then.
    """

    def __init__(
        self,
        state: str,
        environ: Mapping[str, str],
        *,
        most: int = MOST_BYTES,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = f"{state}/stripped"
        self._environ = environ
        self._most = most
        self._cancelled = cancelled

    def copy(self, path: bytes, name: bytes) -> bytes | None:
        """Return a directory in which a copy of ``path`` has the relative path ``name``.

        Returns:
            None where there is nothing to leave out, so that the file itself is to be sent.

        Raises:
            StripError: no copy could be made.
            Interrupted: ``cancelled`` said so.
            ConfigError: the state directory cannot be used.
        """
        try:
            header, size = _look(path)
            if header is None or not size:
                return None
            private_directory(self._directory)
            seen = self._read(path)
            place = self._place(seen.digest, name)
            if not os.path.isfile(os.path.join(place, name)):
                self._make(header, path, name, place, seen)
                self._shrink(place)
            # With the original's time the copy is as new as the program, and a newer one is sent.
            os.utime(os.path.join(place, name), ns=(seen.identity[3], seen.identity[3]))
            os.utime(place)
        except OSError as error:
            raise StripError(error.strerror or str(error)) from error
        return place

    def _place(self, digest: str, name: bytes) -> bytes:
        import hashlib

        key = hashlib.sha256(digest.encode() + b"\0" + name).hexdigest()
        return os.fsencode(f"{self._directory}/{key}")

    def _read(self, path: bytes) -> _Seen:
        """Return what the file is now, and read it unless that is known."""
        import hashlib

        key = hashlib.sha256(path).hexdigest()[:32]
        note = f"{private_directory(f'{self._directory}/seen')}/{key}"
        identity = _settled(path)
        try:
            with open(note, "rb") as file:
                known = msgspec.json.decode(file.read(4096), type=_Seen)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            known = None
        if known is not None and known.identity == identity and known.sure:
            return known
        when = time.time_ns()
        with open(path, "rb", buffering=0) as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        found = _Seen(identity, digest, when)
        write_atomic(note, msgspec.json.encode(found))
        return found

    def _make(self, header: Header, path: bytes, name: bytes, place: bytes, seen: _Seen) -> None:
        """Make a copy, all of it or nothing."""
        new = place + b".%d.new" % os.getpid()
        shutil.rmtree(new, ignore_errors=True)
        target = os.path.join(new, name)
        os.makedirs(os.path.dirname(target), mode=0o700)
        try:
            reason = "no strip for it was found here; install binutils or llvm"
            for tool, where in _tools(header, self._environ):
                files = (path, target) if tool.endswith("objcopy") else ("-o", target, path)
                reason = self._run(tool, [where, "--strip-debug", *files])
                if not reason and not os.path.isfile(target):
                    reason = f"{tool} made nothing"
                if not reason:
                    break
            if reason:
                raise StripError(reason)
            if _identity(path) != seen.identity:
                raise StripError("it was written to meanwhile")
            shutil.copymode(path, target)
            if not os.path.isfile(os.path.join(place, name)):  # else another psync was faster
                shutil.rmtree(place, ignore_errors=True)
                os.rename(new, place)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _run(self, tool: str, command: list[str | bytes]) -> str:
        """Run a tool; return why it failed, empty where it did not."""
        end = time.monotonic() + TIMEOUT
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**self._environ, "LC_ALL": "C"},
            )
        except OSError as error:
            return f"{tool} cannot be started: {error.strerror}"
        try:
            while True:
                try:
                    status = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    if self._cancelled():
                        raise Interrupted(
                            "interrupted while syncing; nothing was started"
                        ) from None
                    if time.monotonic() > end:
                        return f"{tool} did not end within {TIMEOUT:.0f} seconds"
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        return f"{tool} failed with status {status}" if status else ""

    def _shrink(self, keep: bytes) -> None:
        """Remove copies that were not used for longest, until what is left may stay."""
        found = []
        for entry in os.scandir(os.fsencode(self._directory)):
            if entry.name == b"seen":
                continue
            size = sum(
                os.lstat(os.path.join(folder, file)).st_size
                for folder, _, files in os.walk(entry.path)
                for file in files
            )
            found.append((entry.stat().st_mtime_ns, size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._most:
                break
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)
                total -= size


def take_copy(
    plan: SyncPlan,
    tree: Tree,
    entries: tuple[bytes, ...],
    cache: StripCache,
    warn: Callable[[str], None],
) -> tuple[tuple[bytes, ...], list[Tree]]:
    """Return what of ``entries`` is sent from where it lies, and what from elsewhere instead.

    Args:
        plan: what is to be sent.
        tree: the part of it that is looked at.
        entries: what of that part is sent.
        cache: has the copies.
        warn: told why the program is sent as it is, where no copy can be made.
    """
    copies: list[Tree] = []
    copied: set[bytes] = set()
    for name in _programs(plan, tree).intersection(entries):
        path = os.path.join(tree.base, name)
        try:
            base = cache.copy(path, name)
        except StripError as error:
            warn(f"{printable(os.path.basename(path))} is sent as it is: {error}")
            base = None
        if base is not None:
            copied.add(name)
            copies.append(Tree(base, (name,), tree.destination))
    return tuple(entry for entry in entries if entry not in copied), copies


def _programs(plan: SyncPlan, tree: Tree) -> set[bytes]:
    """Return what is to be stripped: the program; where there is none to run, what was named."""
    if plan.program is not None:
        part, _, name = plan.program.partition(b"/")
        return {name} if part == tree.destination else set()
    named: set[bytes] = set()
    for one in plan.trees:
        if one.destination == tree.destination:
            named.update(one.entries, one.inner)
    return {name for name in named if os.path.isfile(os.path.join(tree.base, name))}


def strip_hint(path: bytes, state: str) -> str:
    """Return what to tell of a program that is largely for debuggers; once for each content.

    Args:
        path: absolute path of the program.
        state: the client's state directory, where it is noted.
    """
    try:
        _, size = _look(path)
        if size <= WORTH_A_HINT:
            return ""
        import hashlib

        directory = private_directory(f"{private_directory(f'{state}/stripped')}/seen")
        note = f"{directory}/{hashlib.sha256(path).hexdigest()[:32]}.hint"
        now = msgspec.json.encode(_identity(path))
        try:
            with open(note, "rb") as file:
                if file.read(4096) == now:
                    return ""
        except FileNotFoundError:
            pass
        write_atomic(note, now)
    except (OSError, StripError):
        return ""
    return (
        f"{size // 10**6} MB of {printable(os.path.basename(path))} are for debuggers only; "
        "--strip debug sends it without them"
    )


def _look(path: bytes) -> tuple[Header | None, int]:
    """Return a file's header and how much of it is for debuggers."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        header = parse_header(os.pread(descriptor, 64, 0))
        size = debug_size(lambda offset, size: os.pread(descriptor, size, offset))
        return header, min(size, os.fstat(descriptor).st_size)
    except ElfError:
        return None, 0
    finally:
        os.close(descriptor)


def _identity(path: bytes) -> tuple[int, int, int, int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _settled(path: bytes) -> tuple[int, int, int, int, int]:
    """Return the identity once a further write would change it."""
    found = _identity(path)
    if 0 <= time.time_ns() - found[4] < _TICK * 1e9:
        time.sleep(_TICK)
        found = _identity(path)
    return found


def _tools(header: Header, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the tools that may know this kind of file, the best first: name and path."""
    names = [f"{triple}-strip" for triple in _TRIPLES.get(header.machine, ())]
    if same_family(header.machine, os.uname().machine):
        names.insert(0, "strip")
    names += ["llvm-strip", "objcopy", "llvm-objcopy"]
    search = environ.get("PATH", os.defpath)
    found = ((name, shutil.which(name, path=search)) for name in names)
    return [(name, tool) for name, tool in found if tool is not None]
