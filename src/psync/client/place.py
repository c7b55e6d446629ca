"""Where a command stands: its program, its project, and what has to be sent for it. No asyncio."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from psync.errors import UsageError
from psync.paths import ClientPaths
from psync.sync.libraries import VARIABLE, Libraries, find_libraries
from psync.sync.plan import SyncPlan, plan_sync
from psync.sync.program import resolve_program
from psync.sync.project import Project, find_project
from psync.text import printable
from psync.transport.identity import key_path, read_client_id


class Place(msgspec.Struct, frozen=True):
    """A command and the directory it is given in.

    Attributes:
        project: the project it belongs to.
        program: absolute path of the program, None for a command of the daemon host's PATH.
        here: absolute working directory of this process.
        cwd: absolute directory whose mirror the program is started in.
    """

    project: Project
    program: bytes | None
    here: bytes
    cwd: bytes

    def plan(
        self,
        *,
        assets: Sequence[bytes] = (),
        include: Sequence[bytes] = (),
        exclude: Sequence[bytes] = (),
        strip: bool = False,
        checksum: bool = False,
    ) -> SyncPlan:
        """Decide what to send.

        Args:
            assets: files and directories, relative to ``here``.
            include: files and directories, relative to the project's root.
            exclude: patterns of what to leave out of directories, as in ``.gitignore``.
            strip: send a copy of the program without what only debuggers need.
            checksum: compare all files by content.

        Raises:
            UsageError: see ``plan_sync``.
        """
        return plan_sync(
            self.project,
            cwd=self.cwd,
            program=self.program,
            assets=[os.path.join(self.here, path) for path in assets],
            include=include,
            exclude=exclude,
            strip=strip,
            checksum=checksum,
        )

    def libraries(self) -> Libraries:
        """Return the shared libraries that the program needs and that are not the system's.

        What ``LD_LIBRARY_PATH`` of this process names counts, as it would if it were run here.
        """
        if self.program is None:
            return Libraries()
        return find_libraries(
            self.program,
            root=self.project.root,
            path=os.environb.get(VARIABLE, b""),
            cwd=self.here,
        )


def find_place(
    word: bytes | None, paths: ClientPaths, *, cwd: bytes | None = None, root: bytes | None = None
) -> Place:
    """Find out where a command stands.

    Args:
        word: the program as it was typed, None where there is none to run.
        paths: the client's directories; this client's identity is made on first use.
        cwd: the directory to run in, relative to this process's; None for that one itself.
        root: the project's root where it was named, relative to this process's directory.

    Raises:
        ProgramNotFound, ExecError: the file that ``word`` names is not there, or no program.
        UsageError: a directory that was named is none.
        TrustError, ConfigError: this client's identity cannot be made.
    """
    try:
        here = os.getcwdb()
    except FileNotFoundError:
        raise UsageError(
            "the working directory does not exist any more", hint="change to one that does"
        ) from None
    program = None if word is None else resolve_program(word, here)
    directory = here
    if cwd is not None:
        directory = os.path.realpath(os.path.join(here, cwd))
        if not os.path.isdir(directory):
            raise UsageError(
                f"{printable(cwd)} is not a directory", hint="name one of this machine with --cwd"
            )
    project = find_project(
        start=directory,
        program=program,
        explicit=None if root is None else os.path.join(here, root),
        client_id=client_id(paths),
    )
    return Place(project, program, here, directory)


def client_id(paths: ClientPaths) -> str:
    """Return this client's ID; its identity is made when there is none yet."""
    known = read_client_id(paths.identity)
    # An ID whose key is gone is nobody's: the next key brings another one.
    if known is not None and os.path.exists(key_path(paths.identity)):
        return known
    from psync.transport.identity import ClientIdentity

    return ClientIdentity.load_or_create(paths.identity).client_id
