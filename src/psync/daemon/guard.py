"""What the client of one connection may do: its rights, and how much of everything.

A client that may run programs runs them as the daemon's user and may do whatever that user may; its
projects limit what it asks psync for, not what its programs do. A client that may only look starts
nothing, stops nothing and writes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

import msgspec

from psync.daemon.audit import Audit
from psync.daemon.clientlist import ClientRecord
from psync.errors import Refused
from psync.model import RunSpec
from psync.text import printable


class ClientLimits(msgspec.Struct, frozen=True):
    """What one client may take up.

    Attributes:
        arguments: bytes of the arguments and the environment of a run, together.
        words: arguments of a run, and as many variables of its environment.
        connections: open ones.
        runs: active ones.
        starts: runs in a minute; as many at once where none was started before.
    """

    arguments: int = 64 << 10
    words: int = 1024
    connections: int = 64
    runs: int = 1024
    starts: int = 6000


class Book:
    """What is counted of clients over all of their connections.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # client: tokens, when

    def start(self, client_id: str, per_minute: int) -> float:
        """Count a start; return 0, or for how many seconds the client has to wait first."""
        now = self._clock()
        rate = per_minute / 60
        tokens, since = self._buckets.get(client_id, (float(per_minute), now))
        tokens = min(float(per_minute), tokens + (now - since) * rate)
        if tokens < 1:
            self._buckets[client_id] = tokens, now
            return (1 - tokens) / rate if rate else math.inf
        self._buckets[client_id] = tokens - 1, now
        return 0.0


class Guard:
    """What the client of one connection may do.

    Each ``check_…`` raises ``Refused``, in words for the client's user, and notes the refusal.

    Args:
        record: the client.
        limits: what it may take up.
        book: what is counted of all clients.
        audit: the audit log.
        address: where the client is.
    """

    def __init__(
        self,
        record: ClientRecord,
        limits: ClientLimits,
        book: Book,
        audit: Audit,
        address: str = "",
    ) -> None:
        self.record = record
        self.limits = limits
        self._book = book
        self._audit = audit
        self._address = address

    # -- rights ------------------------------------------------------------------------

    def check_open(self, project_id: str) -> None:
        """The client wants a project's mirror, to sync into it."""
        # it is asked for before a run, too, whether or not there are files to sync
        self._check_may_run("start runs or sync files")
        self._check_project(project_id)
        self._audit.write("opened", self.record, address=self._address, project=project_id)

    def check_start(self, spec: RunSpec, active: int) -> None:
        """The client wants to start a run.

        Args:
            spec: what to run.
            active: how many runs of this client are active.
        """
        self._check_may_run("start runs")
        self._check_project(spec.project)
        limits = self.limits
        words = (*spec.argv, *(part for pair in spec.env for part in pair))
        size = sum(map(len, words))
        if any(b"\0" in word for word in words):
            raise self.refuse("arguments and environment cannot hold a NUL byte")
        for what, count in (("arguments", len(spec.argv)), ("variables", len(spec.env))):
            if count > limits.words:
                raise self.refuse(
                    f"{count} {what} are over the daemon's limit of {limits.words}",
                    hint="put them into a file, or raise words in [limits] of its server.toml",
                )
        if size > limits.arguments:
            raise self.refuse(
                f"arguments and environment of {size} bytes are over the daemon's limit of "
                f"{limits.arguments}",
                hint="put them into a file, or raise arguments in [limits] of its server.toml",
            )
        if active >= limits.runs:
            raise self.refuse(
                f"this client has {active} active runs on the daemon, and may have {limits.runs}",
                hint="psync ps shows them, psync stop ends one; "
                "or raise runs in [limits] of its server.toml",
            )
        pause = self._book.start(self.record.client_id, limits.starts)
        if pause:
            wait = f"wait {math.ceil(pause)} s" if pause < math.inf else "it may start none"
            raise self.refuse(
                f"this client has started more than {limits.starts} runs in a minute",
                hint=f"{wait}, or raise starts in [limits] of the daemon's server.toml",
            )

    def check_see(self, project_id: str | None) -> bool:
        """Return whether the client may see the runs of a project (None: those of none)."""
        patterns = self.record.projects
        if not patterns:
            return True
        return project_id is not None and any(fnmatchcase(project_id, one) for one in patterns)

    def check_act(self, project_id: str | None) -> None:
        """The client wants to send a run stdin or signals, stop it, or be what keeps it alive."""
        if self.record.role != "run" and self.check_see(project_id):
            raise self.refuse(
                "this client may only look at runs",
                hint="psync attach --read-only does so; "
                f"on the daemon host: psync-server limit {self.record.name} --run",
            )
        self._check_project(project_id)

    def may_act(self, project_id: str | None) -> bool:
        """Return whether ``check_act`` would let the client do so; notes nothing."""
        return self.record.role == "run" and self.check_see(project_id)

    def check_transfer(self, project_id: str) -> None:
        """The client wants to bring files into a project's mirror, or to have some of it."""
        self._check_may_run("sync files")
        self._check_project(project_id)

    def refuse(self, message: str, *, hint: str = "") -> Refused:
        """Return a refusal, which is noted."""
        self._audit.refused(self.record, self._address, message)
        return Refused(message, hint=hint)

    # -- for the audit log -------------------------------------------------------------

    def started(self, run_id: str, spec: RunSpec) -> None:
        """The client has started a run."""
        self._audit.write(
            "started",
            self.record,
            address=self._address,
            run=run_id,
            project=spec.project,
            command=spec.argv,
        )

    def attached(self, run_id: str, how: str = "") -> None:
        """The client has attached to a run that existed; ``how`` in words: read only, say."""
        self._audit.write("attached", self.record, address=self._address, run=run_id, reason=how)

    def stopped(self, run_id: str, how: str) -> None:
        """The client has stopped a run; ``how`` in words: the signal, or that it was killed."""
        self._audit.write("stopped", self.record, address=self._address, run=run_id, reason=how)

    def transferred(self, project_id: str, *, gives: bool) -> None:
        """The client has had rsync started, which takes its files or gives it some."""
        how = "out of the mirror" if gives else "into the mirror"
        self._audit.write(
            "transferred", self.record, address=self._address, project=project_id, reason=how
        )

    # -- inside ------------------------------------------------------------------------

    def _check_may_run(self, what: str) -> None:
        if self.record.role != "run":
            raise self.refuse(
                f"this client may only look at runs, not {what}",
                hint=f"on the daemon host: psync-server limit {self.record.name} --run",
            )

    def _check_project(self, project_id: str | None) -> None:
        if self.check_see(project_id):
            return
        what = "runs without a project" if project_id is None else f"the project {project_id}"
        raise self.refuse(
            f"this client may not use {printable(what)}, only {', '.join(self.record.projects)}",
            hint=f"on the daemon host: psync-server limit {self.record.name} --project PATTERN",
        )
