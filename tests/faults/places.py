"""Projects on every way to a daemon: on this machine, over ssh, over the daemon's own connection.

    with Field() as field:
        field.pair()
        place = Place(field, "websocket")
        place.file("data", b"x")
        assert place.psync("sync").returncode == 0
        assert (place.tree / "data").read_bytes() == b"x"

Each has a mirror of its own, so that tests can share the daemon.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.support.field import Field, lines
from tests.support.waiting import wait_until

MIB = 1 << 20
TRANSPORTS = ("local", "ssh", "websocket")

_numbers = itertools.count(1)


class Place:
    """A project of a field, and a way to its mirror.

    Args:
        field: a paired one.
        transport: one of ``TRANSPORTS``.
    """

    def __init__(self, field: Field, transport: str) -> None:
        self.field = field
        self.transport = transport
        self.local = transport == "local"
        field.project = self.root = field.directory / f"p{next(_numbers)}x"
        self.root.mkdir()
        (self.root / "psync.toml").write_text('[sync]\ninclude = ["."]\n')
        field.env["PSYNC_TARGET"] = "local" if self.local else "there"
        text = field.config.read_text().partition("transport = ")[0]
        if not self.local:
            text += f'transport = "{transport}"\n'
        field.config.write_text(text)

    def close(self) -> None:
        """Remove the project and its mirror: they may be big."""
        shutil.rmtree(self.root, ignore_errors=True)
        for mirror in self.projects.glob(f"{self.root.name}-*"):
            shutil.rmtree(mirror, ignore_errors=True)

    @property
    def home(self) -> Path:
        """The daemon's home."""
        return self.field.local_home if self.local else self.field.server_home

    @property
    def projects(self) -> Path:
        """Where all mirrors of that daemon are."""
        return self.home / "data/projects"

    @property
    def mirror(self) -> Path:
        """The project's directory there."""
        (found,) = self.projects.glob(f"{self.root.name}-*")
        return found

    @property
    def tree(self) -> Path:
        """What lies below the project's root, there."""
        return self.mirror / "tree"

    @property
    def state(self) -> Path:
        """The client's state directory."""
        return self.field.home / ".local/state/psync"

    def file(self, name: str | bytes, content: bytes = b"content", mode: int = 0o644) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def script(self, text: str) -> Path:
        return self.file("x", b"#!/bin/sh\n" + text.encode(), 0o755)

    def psync(self, *words: str | bytes) -> subprocess.CompletedProcess[bytes]:
        return self.field.psync(*words, cwd=self.root)

    def start(self, *words: str | bytes) -> subprocess.Popen[bytes]:
        return self.field.start(*words, cwd=self.root)

    def good(self, *words: str | bytes) -> bytes:
        """Run a psync that must succeed; return its output."""
        done = self.psync(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def complaint(self, *words: str | bytes) -> str:
        """Run a psync that must fail; return the one line that it said."""
        done = self.psync(*words)
        assert (done.returncode, done.stdout) == (125, b""), done
        (line,) = lines(done.stderr)
        assert line.startswith("psync: ")
        assert "Traceback" not in line
        return line

    def mirrored(self) -> dict[bytes, bytes]:
        """All files of the tree there with their contents, but psync's own mark."""
        return contents(self.tree)

    def sent(self) -> dict[bytes, bytes]:
        """All files here with their contents."""
        return contents(self.root)

    def check(self) -> None:
        """Sync, and compare both sides."""
        self.good("sync")
        there, here = self.mirrored(), self.sent()
        differing = {name for name in {*there, *here} if there.get(name) != here.get(name)}
        assert not differing, sorted(differing)

    def daemon(self) -> int:
        """Return the process ID of the daemon."""
        known = self.field.daemon(self.home)
        assert known is not None
        return int(known["pid"])

    # -- rsync --------------------------------------------------------------------------------

    def rsyncs(self, *, there: bool = False) -> list[int]:
        """Return the rsyncs of this place, on both sides or over there only."""
        found = []
        mirror, root = (os.fsencode(os.path.realpath(p)) for p in (self.projects, self.root))
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                cwd = os.readlink(os.fsencode(f"/proc/{name}/cwd"))
            except OSError:
                continue
            if not words.partition(b"\0")[0].endswith(b"rsync"):
                continue
            inside = cwd.startswith(mirror + b"/" + os.path.basename(root) + b"-")
            if inside or (not there and (cwd == root or root + b"/" in words)):
                found.append(int(name))
        return found

    def log_rsyncs(self) -> None:
        """Have the rsyncs of this machine counted that a client starts."""
        directory = self.field.directory / "bin"
        directory.mkdir(exist_ok=True)
        here = self.field.env["PATH"].removeprefix(f"{directory}:")
        real = shutil.which("rsync", path=here)
        rsync = directory / "rsync"
        rsync.write_text(f'#!/bin/sh\necho >> "{directory}/count"\nexec {real} "$@"\n')
        rsync.chmod(0o755)
        (directory / "count").touch()
        if not self.field.env["PATH"].startswith(f"{directory}:"):
            self.field.env["PATH"] = f"{directory}:{self.field.env['PATH']}"

    def rsyncs_started(self) -> int:
        """Return how many were started since ``log_rsyncs``."""
        return len((self.field.directory / "bin/count").read_bytes())

    def freeze(self) -> list[int]:
        """Wait for an rsync that works in the mirror, and stop all of it: it cannot end now."""
        wait_until(lambda: self.rsyncs(there=True))
        found: set[int] = set()
        while new := set(self.rsyncs(there=True)) - found:
            signal_all(new, signal.SIGSTOP)
            found |= new
        return sorted(found)

    def all_gone(self) -> None:
        """Wait until no rsync of this place is left on either side."""
        wait_until(lambda: not self.rsyncs())


def contents(directory: Path) -> dict[bytes, bytes]:
    """All files below a directory with their contents, but psync's own mark."""
    top = os.fsencode(directory)
    found = {}
    for above, _, names in os.walk(top):
        for name in names:
            path = os.path.join(above, name)
            if name != b".psync-mirror" and not os.path.islink(path):
                found[os.path.relpath(path, top)] = Path(os.fsdecode(path)).read_bytes()
    return found


def signal_all(pids: Sequence[int] | set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def mounted(directory: Path, *words: str) -> Iterator[None]:
    """Have something mounted on a directory, or skip the test."""
    if os.geteuid():
        pytest.skip("only root may mount")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", *words, str(directory)], capture_output=True, timeout=30, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr!r}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True, timeout=30)


def disk(size: int) -> list[str]:
    """What to mount for a disk of so many KiB."""
    return ["-t", "tmpfs", "-o", f"size={size}k,mode=700", "tmpfs"]


def fill(directory: Path) -> Path:
    """Leave not one byte on the disk of a directory; return the file that takes it all."""
    path = directory / "all-the-rest"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path
