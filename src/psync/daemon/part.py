"""One part of one mirror, opened for rsync: nothing that is on the way there may be a link."""

from __future__ import annotations

import os

import msgspec

from psync.daemon.projects import Marker
from psync.daemon.rsyncgate import Denied, Job
from psync.daemon.unfinished import remove_unfinished
from psync.text import printable

MISSING = 11
"""rsync's exit status where it cannot get at its directory."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NoMirror(Exception):
    """The daemon has made no mirror of this project yet; the argument is what rsync says of it."""


def open_part(root: str, job: Job, client: str) -> int:
    """Return an open descriptor of the directory that an rsync is for.

    Args:
        root: absolute path of the directory of all mirrors.
        job: what it is to do.
        client: ID of the client that asks.

    Raises:
        Denied: it is not that client's, cannot be used, or a link leads out of it.
        NoMirror: there is none.
    """
    part = os.fsdecode(job.part)
    mirror = open_mirror(root, job.project, client)
    try:
        if not job.gives:
            try:
                os.mkdir(part, 0o700, dir_fd=mirror)
            except FileExistsError:
                pass
        directory = os.open(part, _DIRECTORY, dir_fd=mirror)
    except OSError as error:
        raise Denied(f"{part} of {job.project} cannot be used: {error.strerror}") from error
    finally:
        os.close(mirror)
    try:
        _check_sources(os.path.join(os.fsencode(root), job.project.encode(), job.part), job)
    except BaseException:
        os.close(directory)
        raise
    return directory


def open_mirror(root: str, project: str, client: str) -> int:
    """Return an open descriptor of a project's directory that belongs to this client.

    Every step is relative to the one before and follows no link (the root itself may be one), so
    nothing can be put in its place meanwhile.

    Raises:
        Denied: it is another client's, or no mirror.
        NoMirror: there is none.
    """
    try:
        above = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            mirror = os.open(project, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    except FileNotFoundError as error:
        raise _missing(root, project) from error
    except OSError as error:
        raise Denied(f"{project} is not a mirror that can be used") from error
    try:
        owner = _owner(mirror)
        if owner is None:
            raise _missing(root, project)
        if owner != client:
            raise Denied(f"the project {project} belongs to another client")
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        os.close(mirror)
        raise Denied(f"{project} is not a mirror that can be used") from error
    except BaseException:
        os.close(mirror)
        raise
    return mirror


def discard_unfinished(root: str, project: str, client: str) -> None:
    """Remove the directories of unfinished files in a mirror, as far as possible; follows no links.

    Raises as ``open_mirror``.
    """
    mirror = open_mirror(root, project, client)
    try:
        remove_unfinished(mirror)
    finally:
        os.close(mirror)


def _owner(mirror: int) -> str | None:
    """Return the ID of the client that a mirror belongs to; None where nothing says so."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open("project.json", flags, dir_fd=mirror)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(os.read(fd, 64 * 1024), type=Marker).client
    finally:
        os.close(fd)


def _missing(root: str, project: str) -> NoMirror:
    # rsync's own words for it, by which psync knows that the daemon has to make it
    path = printable(os.path.join(root, project))
    return NoMirror(f'rsync: [Receiver] mkdir "{path}" failed: No such file or directory (2)')


def _check_sources(part: bytes, job: Job) -> None:
    """Make sure that no link on the way to what is asked for leads out of the part.

    Links are sent as links, so only those on the way are followed. One that is put there later is
    the business of ``landlock``.
    """
    for source in job.sources:
        above, name = os.path.split(os.path.join(part, source))
        followed = above if name not in (b"", b".") else os.path.join(above, name)
        try:
            inside, real = os.path.realpath(part), os.path.realpath(followed)
        except OSError as error:
            raise Denied(f"{printable(source)} cannot be read: {error.strerror}") from error
        if not (real + b"/").startswith(inside + b"/"):
            raise Denied(f"{printable(source)} leaves the mirror through a link")
