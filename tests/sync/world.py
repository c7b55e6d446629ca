"""A project, a client's state and a daemon host's mirrors, for tests of whole syncs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.sshd import PrivateSSHD

from psync.model import Tool
from psync.sync.endpoint import Endpoint, LocalEndpoint, SSHEndpoint
from psync.sync.engine import Sync
from psync.sync.plan import SyncPlan, plan_sync
from psync.sync.program import resolve_program
from psync.sync.project import Project, find_project
from psync.sync.rsync import Progress, Summary
from psync.sync.ssh import SharedConnection, SSHTarget
from psync.sync.tools import find_rsync

# Passes the first bytes on to the real rsync, says so in a file, then lets the rest disappear: a
# network that stalls half-way, once.
_STALLING_RSYNC = """\
#!{python}
import os, subprocess, sys
if os.path.exists({marker!r}):
    os.execvp("rsync", ["rsync", *sys.argv[1:]])
rsync = subprocess.Popen(["rsync", *sys.argv[1:]], stdin=subprocess.PIPE)
left = {count}
while left:
    data = os.read(0, min(65536, left))
    if not data:
        break
    rsync.stdin.write(data)
    rsync.stdin.flush()
    left -= len(data)
open({marker!r}, "w").close()
while os.read(0, 65536):
    pass
rsync.stdin.close()
sys.exit(rsync.wait())
"""


class World:
    """One client with a project, and the place its mirror goes to.

    Attributes:
        root: the project's directory on the client.
        projects: the directory of the mirrors, with a name that is hard to quote.
        state: the client's state directory.
        warnings: what syncs left out.
        progress: what they said while they worked.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "my project"
        self.projects = directory / "it's the $HOME of `mirrors` ü"
        self.state = str(directory / "state")
        self.warnings: list[str] = []
        self.progress: list[Progress] = []
        self.root.mkdir()
        (self.root / "psync.toml").touch()
        self.projects.mkdir()
        self.endpoint: Endpoint = LocalEndpoint(projects_root=os.fsencode(self.projects))
        self.make_mirror()

    @property
    def project(self) -> Project:
        return find_project(
            start=os.fsencode(self.root), program=None, explicit=None, client_id="client"
        )

    @property
    def mirror(self) -> Path:
        return self.projects / self.project.id

    def make_mirror(self) -> None:
        """What the daemon does when a client opens a project."""
        for part in ("tree", "outside"):
            (self.mirror / part).mkdir(parents=True)

    def file(self, name: str | bytes, content: bytes = b"content", mode: int = 0o644) -> Path:
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def program(self, name: str = "build/game", content: bytes = b"#!/bin/sh\n") -> Path:
        return self.file(name, content, 0o755)

    def plan(
        self,
        program: str | None = None,
        assets: Sequence[str | bytes] = (),
        include: Sequence[bytes] = (),
        cwd: Path | None = None,
        exclude: Sequence[bytes] = (),
    ) -> SyncPlan:
        here = os.fsencode(cwd or self.root)
        return plan_sync(
            self.project,
            cwd=here,
            program=None if program is None else resolve_program(os.fsencode(program), here),
            assets=[os.fsencode(name) for name in assets],
            include=include,
            exclude=exclude,
        )

    def sync(self, plan: SyncPlan | None = None, **options: object) -> Sync:
        return Sync(
            plan or self.plan(),
            endpoint=self.endpoint,
            state=self.state,
            on_progress=self.progress.append,
            on_warning=self.warnings.append,
            **options,  # type: ignore[arg-type]
        )

    def over_ssh(self, connection: SharedConnection, rsync: Tool | None = None) -> None:
        """Reach the mirrors over ssh from now on."""
        self.endpoint = SSHEndpoint(
            connection,
            projects_root=os.fsencode(self.projects),
            rsync=rsync or find_rsync(self.state, os.environ),
            host="laptop",
        )

    def stalling_rsync(self, count: int) -> tuple[Tool, Path]:
        """An rsync for the other side that stalls after ``count`` bytes, and how it says so."""
        marker = self.directory / "stalled"
        script = self.directory / "stalling rsync"
        script.write_text(
            _STALLING_RSYNC.format(python=sys.executable, marker=str(marker), count=count)
        )
        script.chmod(0o755)
        return Tool(path=str(script), version="3.2.7"), marker

    def mirrored(self) -> dict[str, bytes]:
        """All files of the mirror but psync's own mark, with their contents."""
        return {
            str(path.relative_to(self.mirror)): path.read_bytes()
            for path in self.mirror.rglob("*")
            if path.is_file() and path.name != ".psync-mirror"
        }


class Going:
    """A sync that is carried out in a thread."""

    def __init__(self, sync: Sync) -> None:
        self.sync = sync
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(sync.wait)
        self._pool.shutdown(wait=False)

    @property
    def pids(self) -> list[int]:
        return self.sync.pids

    def cancel(self) -> None:
        self.sync.cancel()

    def wait(self) -> Summary:
        return self._done.result(timeout=280)  # rsync gives a stalled link up after 120


def shared(sshd: PrivateSSHD, directory: Path) -> SharedConnection:
    """A connection to ``sshd`` with a control directory of its own; not open yet."""
    return SharedConnection(SSHTarget(sshd.alias, tuple(sshd.ssh), os.fsencode(directory)))


def processes_naming(text: str) -> list[str]:
    """The command lines of living processes in which ``text`` occurs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()  # a zombie's is empty
            except OSError:
                continue
            if os.fsencode(text) in line:
                found.append(line.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found
