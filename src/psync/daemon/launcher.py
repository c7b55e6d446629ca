"""The daemon's end of the launcher: the process that forks supervisors.

The launcher is a process of its own that never has threads or an event loop, so that forking it is
safe and what is forked is small. It is started again when it dies; supervisors never notice.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from collections import deque

from psync.errors import PsyncError
from psync.supervisor import wire
from psync.supervisor.launcher import command

LAUNCH_TIMEOUT = 10.0
"""Seconds a supervisor has to come up."""

EXIT_TIMEOUT = 2.0
"""Seconds the launcher has to end after its socket was closed."""

logger = logging.getLogger("psync.launcher")


class LaunchError(PsyncError):
    """No supervisor came up for a run; nothing of it is left."""

    code = "launch"


class Launcher:
    """Starts supervisors, one request at a time in the order they come.

    Args:
        descriptors: soft limit of open descriptors for programs, None for this process's own.
        lock: descriptor of the daemon's lock, see ``supervisor.launcher.command``.
    """

    def __init__(self, descriptors: int | None = None, lock: int | None = None) -> None:
        self._descriptors = descriptors
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._decoder = wire.FrameDecoder(wire.FROM_LAUNCHER)
        self._answers: deque[wire.Frame] = deque()
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the launcher process.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command(theirs.fileno(), self._descriptors, self._lock),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *([] if self._lock is None else [self._lock])],
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._decoder = wire.FrameDecoder(wire.FROM_LAUNCHER)
        self._answers.clear()

    async def launch(self, run_directory: str) -> None:
        """Fork a supervisor for the run in that directory, which holds its spec.json.

        Raises:
            LaunchError: none came up.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(LAUNCH_TIMEOUT):
                    if not self._ready:
                        await self.close()
                        await self.start()
                    answer = await self._ask(wire.Launch(os.fsencode(run_directory)))
            except (OSError, EOFError, TimeoutError, wire.WireError) as error:
                logger.error("the launcher failed: %r", error)
                await self.close()  # the next run starts another one
                raise LaunchError(
                    "the run could not be started: the launcher on the daemon host failed",
                    hint="try again; the daemon's log says more",
                ) from error
        if isinstance(answer, wire.LaunchFailed):
            raise LaunchError(f"the run could not be started: {answer.message}")

    async def close(self) -> None:
        """End the launcher process; runs go on."""
        if self._writer is not None:
            self._writer.close()
            self._writer = self._reader = None
        if self._process is not None:
            process, self._process = self._process, None
            try:
                await asyncio.to_thread(process.wait, EXIT_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def _ready(self) -> bool:
        """Whether there is a launcher, as far as can be told without asking it."""
        return (
            self._process is not None
            and self._process.poll() is None
            and self._reader is not None
            and not self._reader.at_eof()
        )

    async def _ask(self, request: wire.Frame) -> wire.Frame:
        if self._reader is None or self._writer is None:
            raise EOFError("no launcher")
        self._writer.write(request.encode())
        while not self._answers:
            said = await self._reader.read(65536)
            if not said:
                raise EOFError("the launcher has gone")
            self._answers.extend(self._decoder.feed(said))
        return self._answers.popleft()
