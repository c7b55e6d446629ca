"""Projects on the daemon host: one directory each, with a marker that says whose it is.

    <projects root>/<project id>/project.json   the marker, written here
    <projects root>/<project id>/tree/          mirror of what lies below the project's root
    <projects root>/<project id>/outside/       mirror of what lies outside, by absolute path
    <projects root>/<project id>/unfinished, note   see ``seals``

rsync writes only inside directories that carry the marker, and runs start only there.
"""

from __future__ import annotations

import errno
import os
import stat
import time

import msgspec

from psync.daemon.mark import unfinished
from psync.daemon.seals import Seals
from psync.errors import ConfigError, DestinationError, Refused
from psync.model import is_project_id
from psync.paths import private_directory, write_atomic
from psync.text import printable

FORMAT = 1
"""Version of the marker's format."""

LONGEST_PATH = 4095
"""Bytes that a path may have for the kernel (PATH_MAX, without the NUL at its end)."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Marker(msgspec.Struct, frozen=True):
    """What ``project.json`` holds.

    Attributes:
        format: version of this format.
        client: ID of the client whose project this is.
        source: the project's root on that client.
        host: that client's host name, for people.
        created: seconds since the epoch.
    """

    format: int
    client: str
    source: bytes
    host: str
    created: float


class Projects:
    """The mirrors below one directory.

    Args:
        root: absolute path of the directory; made when missing.

    Attributes:
        seals: whether the mirrors are whole, and what they were like then.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.seals = Seals()

    def directory(self, project: str) -> str:
        """Return the path of a project's directory, whether it exists or not.

        Raises:
            Refused: that is not a project's ID.
        """
        if not is_project_id(project):
            raise Refused(f"{printable(project)} is not a project's ID")
        return os.path.join(self.root, project)

    def open(self, project: str, *, client: str, source: bytes, host: str) -> str:
        """Make the project's directory unless it is there; return its path.

        Raises:
            Refused: the ID is not one, the source no path, or the project is another client's.
            DestinationError: the directory cannot be made, or is not a project's.
        """
        path = self.directory(project)
        marker = self._marker(path)
        if marker is not None:
            if marker.client != client:
                raise Refused(
                    f"the project {project} belongs to another client of this daemon",
                    hint="copies of one client identity must not share a project",
                )
            return path
        if len(source) > LONGEST_PATH:
            raise Refused(f"a project's root of {len(source)} bytes is longer than a path may be")
        try:
            private_directory(self.root)
            private_directory(path)
            for name in ("tree", "outside"):
                os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
            write_atomic(
                os.path.join(path, "project.json"),
                msgspec.json.encode(Marker(FORMAT, client, source, host, time.time())),
            )
        except (OSError, ConfigError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.message
            raise DestinationError(
                f"{printable(path)} cannot be made on the daemon host: {reason}",
                hint="make room there and make it writable, or set projects in server.toml",
            ) from error
        return path

    def check(self, project: str, *, client: str) -> str:
        """Return the path of a project's directory.

        Raises:
            Refused: there is no such project, or it is another client's.
        """
        path = self.directory(project)
        marker = self._marker(path)
        if marker is None or marker.client != client:
            raise Refused(
                f"nothing was ever synced for the project {project}", hint="run without --no-sync"
            )
        return path

    def check_whole(self, directory: str) -> None:
        """Raise unless a run may start in a project's mirror.

        Raises:
            Refused: a sync has begun there and not ended.
        """
        if unfinished(directory):
            raise Refused(
                "the last sync of this project has not ended, so its files may be old and new ones",
                hint="wait for it, or run psync sync again (psync run does, without --no-sync)",
            )

    def resolve(self, directory: str, path: bytes) -> str:
        """Return the absolute path of something in a project's mirror.

        Args:
            directory: what ``open`` or ``check`` returned.
            path: relative, beginning with ``tree`` or ``outside``.

        Raises:
            Refused: the path leaves the mirror, by its words or through a symbolic link.
        """
        parts = path.split(b"/")
        if parts[0] not in (b"tree", b"outside") or b".." in parts or b"\0" in path:
            raise Refused(f"{printable(path)} is not a path in a project's mirror")
        absolute = os.path.join(directory, os.fsdecode(path))
        if len(os.fsencode(absolute)) > LONGEST_PATH:
            raise Refused(
                f"the mirror {printable(directory)} makes a path of {len(os.fsencode(absolute))} "
                f"bytes, and {LONGEST_PATH} is the most: {printable(path)}",
                hint="shorten it, or the path of the mirrors (projects in server.toml there)",
            )
        _check_inside(directory, os.path.dirname(absolute) if len(parts) > 1 else absolute, path)
        return absolute

    def working_directory(self, directory: str, path: bytes) -> str:
        """Return the absolute path of a directory in the mirror, made where nothing is there yet.

        A run's working directory is the mirror of the client's, also where no file was ever sent.

        Raises:
            Refused: as ``resolve``.
            DestinationError: it cannot be made.
        """
        absolute = self.resolve(directory, path)
        # The client's working directory has no links in its path, so its mirror has none either.
        _check_inside(directory, absolute, path)
        if os.path.isdir(absolute):
            return absolute
        try:
            _make_directories(directory, absolute, path)
        except FileExistsError:
            pass  # a file is there; starting the run says so
        except OSError as error:
            raise DestinationError(
                f"{printable(absolute)} cannot be made on the daemon host: {error.strerror}",
                hint="look at that path there; removing it and syncing again is safe",
            ) from error
        return absolute

    def _marker(self, path: str) -> Marker | None:
        try:
            with open(os.path.join(path, "project.json"), "rb") as file:
                return msgspec.json.decode(file.read(64 * 1024), type=Marker)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DestinationError(
                f"the marker of {printable(path)} on the daemon host is damaged: {error}",
                hint="remove that directory on the daemon host and sync again",
            ) from error


def _check_inside(directory: str, absolute: str, path: bytes) -> None:
    inside, real = _real(directory), _real(absolute)
    if not f"{real}/".startswith(f"{inside}/"):
        raise _leaves(path)


def _make_directories(directory: str, absolute: str, path: bytes) -> None:
    """Make what is missing of ``absolute``, which is inside ``directory``.

    A link that appears on the way meanwhile is not followed. Nor does the depth matter, as it would
    for ``os.makedirs``, which calls itself for every directory.

    Raises:
        Refused: such a link is there.
        FileExistsError: ``absolute`` is no directory.
        OSError: it cannot be made.
    """
    top = _real(directory)
    names = os.path.relpath(_real(absolute), top).split("/")
    if names[0] == "..":
        raise _leaves(path)
    at = os.open(top, _DIRECTORY)
    try:
        for depth, name in enumerate(names, 1):
            try:
                os.mkdir(name, dir_fd=at)
            except FileExistsError:
                pass
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=at)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(name, at):
                    raise _leaves(path) from error
                if error.errno == errno.ENOTDIR and depth == len(names):
                    raise FileExistsError from error
                raise
            os.close(at)
            at = inner
    finally:
        os.close(at)


def _is_link(name: str, directory: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _real(path: str) -> str:
    """Return the path without links.

    Raises:
        Refused: it changes while it is looked at.
    """
    try:
        return os.path.realpath(path)
    except OSError as error:  # what was a link a moment ago is none any more
        raise Refused(
            f"{printable(path)} cannot be looked at on the daemon host: {error.strerror}",
            hint="something changes links there; end it, then try again",
        ) from error


def _leaves(path: bytes) -> Refused:
    return Refused(f"{printable(path)} leaves the project's mirror through a link")
