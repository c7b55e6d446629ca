"""A daemon, a network that can be broken, and a client that has to live with both.

    async with World() as world:
        run = await world.target.start([b"sh", b"-c", b"echo hello"])
        world.proxy.cut()
        assert (await collect(run)).output == b"hello\n"

Daemon, supervisors and programs are processes; the client is psync's own engine in the test's event
loop, so that hundreds of faults cost seconds. What the invariants are stands in ``check``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from tests.faults.proxy import Proxy
from tests.support.daemon import FACTS, Home
from tests.support.waiting import alive, wait_until

from psync.client.run import Gap, RemoteRun
from psync.client.target import Target
from psync.client.targets import FORMAT, TargetFiles, TargetRecord, TargetSpec
from psync.errors import ConnectError, PsyncError
from psync.model import ExitStatus, RunSpec
from psync.paths import ClientPaths
from psync.supervisor import record
from psync.transport.identity import ClientIdentity

TARGET = "there"


def seed_of(case: str) -> random.Random:
    """Return this case's own source of randomness and print its seed.

    ``PSYNC_SEED`` repeats a case that failed.
    """
    seed = int(os.environ.get("PSYNC_SEED") or random.SystemRandom().randrange(2**32))
    print(f"{case}: PSYNC_SEED={seed}")
    return random.Random(seed)


class World:
    """Everything of one test.

    Args:
        sources: where the daemon's psync is, by default this tree's.
        buffer: see ``Proxy``.

    Attributes:
        home: the daemon and its directories.
        proxy: the network between them.
        target: the client.
    """

    def __init__(self, sources: str | None = None, *, buffer: int | None = None) -> None:
        self.home = Home()
        if sources is not None:
            self.home.env["PYTHONPATH"] = sources
        self.proxy = Proxy(0, buffer)
        self.told: list[PsyncError | None] = []
        self.target: Target

    async def __aenter__(self) -> Self:
        self.start_daemon()
        await self.proxy.__aenter__()
        self.target = self.client("desk")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.target.abandon()
            await self.proxy.__aexit__(kind, error, traceback)
        finally:
            await asyncio.to_thread(self.home.close)

    def client(self, name: str, *, through_proxy: bool = True) -> Target:
        """Return a client of that name, which is paired; it connects when it is used."""
        if not (self.home.directory / name).exists():
            self.home.pair(name)
        paired = self.home.directory / name
        base = paired / "xdg"
        paths = ClientPaths.from_environ(
            {
                "HOME": str(base),
                "XDG_CONFIG_HOME": str(base / "config"),
                "XDG_DATA_HOME": str(base / "data"),
                "XDG_STATE_HOME": str(base / "state"),
                "XDG_RUNTIME_DIR": str(base / "runtime"),
            }
        )
        port = self.proxy.port if through_proxy else self.proxy.to
        if not base.exists():
            base.mkdir(mode=0o700)
            os.makedirs(paths.data, mode=0o700)
            os.rename(self._keys(paired), paths.identity)
            files = TargetFiles(paths, TARGET)
            files.write_certificates(
                ca=(paired / "ca.pem").read_bytes(),
                certificate=(paired / "client.pem").read_bytes(),
            )
            files.write(
                TargetRecord(
                    format=FORMAT,
                    host="127.0.0.1",
                    hostname="127.0.0.1",
                    server="/bin/false",
                    server_name=(paired / "name").read_text(),
                    port=port,
                    listen=(f"127.0.0.1:{port}",),
                    facts=FACTS,
                )
            )
        spec = TargetSpec(
            name=TARGET, host="127.0.0.1", connect="direct", address=("127.0.0.1", port)
        )
        return Target(spec, paths, on_connection=self.told.append)

    def _keys(self, paired: os.PathLike[str]) -> str:
        """Return a directory with this client's key alone, as the client itself has it."""
        identity = f"{os.fspath(paired)}/identity"
        os.mkdir(identity, 0o700)
        for name in os.listdir(paired):
            if name not in ("ca.pem", "client.pem", "name", "identity", "xdg"):
                os.link(f"{os.fspath(paired)}/{name}", f"{identity}/{name}")
        assert ClientIdentity.load_or_create(identity)
        return identity

    # -- the daemon --------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start a daemon; it takes the port of the one before."""
        self.proxy.to = self.home.start().port

    def kill_daemon(self, number: int = signal.SIGKILL) -> None:
        """End the daemon and wait until it is gone."""
        self.home.leave(number)

    async def connect(self) -> None:
        """Have the client connected; what cuts its attempts is tried again.

        Without a run that waits for it psync itself does not: a failed attempt is an error.
        """
        while True:
            try:
                await self.target.open()
                return
            except ConnectError:
                continue

    # -- runs --------------------------------------------------------------------------

    async def start(
        self,
        *argv: str,
        env: dict[str, str] | None = None,
        grace: float | None = 300.0,
        target: Target | None = None,
    ) -> RemoteRun:
        """Start a run in the home directory there, with no project; by default as ``target``."""
        run = await (target or self.target).begin(
            RunSpec(
                argv=tuple(word.encode() for word in argv),
                env=tuple((k.encode(), v.encode()) for k, v in (env or {}).items()),
                disconnect_grace=grace,
            )
        )
        await run.started()
        return run

    def check(self) -> None:
        """See whether the invariants hold once all runs are over.

        One request, at most one run; exactly one final state; no process of a run that is over.
        Whether all bytes arrived, ``collect`` and the test see themselves.
        """
        requests = set()
        for directory in self.home.runs():
            assert directory.suffix == "", f"{directory.name} was set aside"
            ticket = msgspec.json.decode((directory / "run.json").read_bytes())
            key = (ticket["client"], ticket["request"])
            assert key not in requests, f"request {key} started two runs"
            requests.add(key)
            _check_ended(directory)


def _check_ended(directory: Path) -> None:
    owner = record.read_owner(str(directory))
    wait_until(lambda: not owner.alive)
    ended = (directory / record.EXIT).exists() and record.read_exit(str(directory)) is not None
    lost = (directory / "lost").exists()
    assert ended != lost, f"{directory.name} has no final state, or two"
    wait_until(lambda: not _processes_of(directory.name))


def _processes_of(run_id: str) -> list[int]:
    """Return the processes whose environment says that they belong to a run."""
    found = []
    mark = f"PSYNC_RUN={run_id}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and alive(int(name)):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    return found


class Collected:
    """What came of a run.

    Attributes:
        output: all bytes, in order.
        gaps: what was announced to be missing.
        status: how it ended.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.gaps: list[tuple[int, int]] = []
        self.end = 0
        self.status: ExitStatus | None = None

    @property
    def output(self) -> bytes:
        return b"".join(self.pieces)


async def collect(
    run: RemoteRun, into: Collected | None = None, on_piece: Callable[[int], None] | None = None
) -> Collected:
    """Take all output of a run and its status; every byte has to come once and in order."""
    got = into or Collected()
    async for piece in run.output():
        assert piece.offset == got.end, f"expected byte {got.end}, got {piece.offset}"
        if isinstance(piece, Gap):
            got.gaps.append((piece.offset, piece.end))
        else:
            got.pieces.append(piece.data)
        got.end = piece.end
        if on_piece is not None:
            on_piece(got.end)
    got.status = await run.wait()
    return got
