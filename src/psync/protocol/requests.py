"""Numbered requests of a client, about anything but one attachment, and their answers."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from psync.model import RunInfo, Stream
from psync.protocol.base import (
    Control,
    Name,
    Offset,
    ProjectID,
    RequestNumber,
    RunID,
    Seconds,
    Text,
    Word,
)

PAGE_RUNS = 50
"""Most runs in one ``RunList``; with shortened commands they fit into a message."""


class OpenProject(Control, frozen=True, kw_only=True):
    """Client: make sure the mirror of this project exists and is mine.

    Attributes:
        request: number that the answer repeats.
        project: the project's ID.
        source: the project's root on the client, for people.
        host: the client's host name, for people.
    """

    TYPE = 0x10
    request: RequestNumber
    project: ProjectID
    source: bytes
    host: Name


class ProjectOpened(Control, frozen=True, kw_only=True):
    """Daemon: the mirror exists.

    Attributes:
        request: the request answered.
        path: absolute path of the project's directory on the daemon host.
    """

    TYPE = 0x11
    request: RequestNumber
    path: bytes


class RequestRefused(Control, frozen=True, kw_only=True):
    """Daemon: a numbered request was refused; the connection goes on."""

    TYPE = 0x12
    request: RequestNumber
    code: Word
    message: Text
    hint: Text = ""


class ListRuns(Control, frozen=True, kw_only=True):
    """Client: which runs are there? The newest first.

    Attributes:
        request: number that the answer repeats.
        match: only these: the beginning of an ID, a run's whole name, or ``-1`` for the newest run;
            empty for all.
        active: only runs that have not ended.
        before: only runs older than this one: the last of the page before.
    """

    TYPE = 0x13
    request: RequestNumber
    match: Name = ""
    active: bool = False
    before: RunID | None = None


class RunList(Control, frozen=True, kw_only=True):
    """Daemon: these runs, at most ``PAGE_RUNS``.

    Attributes:
        request: the request answered.
        runs: the newest first.
        more: there are older ones; ask again with ``before``.
    """

    TYPE = 0x14
    request: RequestNumber
    runs: Annotated[tuple[RunInfo, ...], Meta(max_length=PAGE_RUNS)]
    more: bool = False


class Locate(Control, frozen=True, kw_only=True):
    """Client: where in a run's output is that? Both given, the later of the two places counts.

    Attributes:
        request: number that the answer repeats.
        run: the run's ID.
        lines: the beginning of the last so many lines.
        since: the first output at or after this time, in seconds since the epoch.
        stream: count only lines of this stream, None of both.
    """

    TYPE = 0x15
    request: RequestNumber
    run: RunID
    lines: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    since: Seconds | None = None
    stream: Stream | None = None


class Located(Control, frozen=True, kw_only=True):
    """Daemon: there.

    Attributes:
        request: the request answered.
        offset: the place; never below ``oldest``.
        oldest: the first byte of output that is still there.
        end: length of the output so far.
    """

    TYPE = 0x16
    request: RequestNumber
    offset: Offset
    oldest: Offset
    end: Offset


class RenewCertificate(Control, frozen=True, kw_only=True):
    """Client: my certificate ends soon; sign a new one for the same key.

    Attributes:
        request: number that the answer repeats.
        csr: certificate request (PEM) for the key of the certificate in use.
    """

    TYPE = 0x17
    request: RequestNumber
    csr: Annotated[bytes, Meta(max_length=16 * 1024)]


class CertificateRenewed(Control, frozen=True, kw_only=True):
    """Daemon: here it is. The old one is accepted until the new one is used for the first time.

    Attributes:
        request: the request answered.
        certificate: the new certificate (PEM).
        expires: when it ends, in seconds since the epoch.
    """

    TYPE = 0x18
    request: RequestNumber
    certificate: Annotated[bytes, Meta(max_length=16 * 1024)]
    expires: Seconds
