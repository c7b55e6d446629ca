"""An rsync that the daemon started: confined to one part of a mirror, in a session of its own.

It ends by itself, or is told to (SIGTERM, on which rsync keeps what is unfinished where the next
transfer finds it) and killed after ``GRACE``. Either way all its processes are gone before it is
reaped; the number of the process, by which they are found, is nobody else's until then.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable

from psync.daemon import landlock
from psync.daemon.rsyncgate import Job

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL, and for what is left of rsync when its first process has
ended."""

PIPE = 1024 * 1024
"""Bytes that a pipe holds, where the system lets it."""

MOST_ERRORS = 64 * 1024
"""Bytes of stderr that are kept for the client; more of it is thrown away."""

logger = logging.getLogger("psync.transfers")


class RsyncServer:
    """One ``rsync --server`` and the pipes to it.

    Args:
        rsync: path of the executable.
        job: what it is to do.
        directory: open descriptor of the part of the mirror.
        on_error: called with pieces of its stderr.
        on_ended: called once, when all of it is gone, with its exit status; -n for signal n.

    Attributes:
        stdin: where it reads from, non-blocking; the owner closes it.
        stdout: what it writes, non-blocking; the owner closes it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        rsync: str,
        job: Job,
        directory: int,
        on_error: Callable[[bytes], None],
        on_ended: Callable[[int], None],
    ) -> None:
        self._on_error = on_error
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        argv = landlock.command(directory, [rsync, *job.argv], writes=not job.gives)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            # Of the environment rsync needs nothing but this, and some variables are options.
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            pass_fds=[directory],
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self.stdin, self.stdout, self._stderr = (
            self._process.stdin,
            self._process.stdout,
            self._process.stderr,
        )
        for pipe in (self.stdin, self.stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)
        for pipe in (self.stdin, self.stdout):
            _enlarge(pipe.fileno())
        self._errors = 0
        self._ending = self._killed = self._exited = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._stderr.fileno(), self._read_errors)
        self._pidfd = self._watch()

    @property
    def pid(self) -> int:
        """Its process ID, which is also that of its process group."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether all of it is gone."""
        return self._process.returncode is not None and self._stderr.closed

    def terminate(self) -> None:
        """Have it end: SIGTERM now, SIGKILL after ``GRACE``. Again, it does nothing."""
        if self._ending or self.ended:
            return
        self._ending = True
        self._signal(signal.SIGTERM)
        if self._timer is None:
            self._timer = self._loop.call_later(GRACE, self.kill)

    def kill(self) -> None:
        """End it at once."""
        if self.ended:
            return
        self._killed = True
        self._signal(signal.SIGKILL)
        if self._exited:
            self._end()

    # -- inside ------------------------------------------------------------------------

    def _watch(self) -> int:
        """Have ``_on_exit`` called when the process has ended; return the descriptor for it."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux, or too old
            name = f"wait for rsync {self.pid}"
            threading.Thread(target=self._wait, name=name, daemon=True).start()
            return -1
        self._loop.add_reader(pidfd, self._on_exit)
        return pidfd

    def _wait(self) -> None:
        self._process.wait()
        try:
            self._loop.call_soon_threadsafe(self._on_exit)
        except RuntimeError:  # the loop is closed, nobody wants to know any more
            pass

    def _on_exit(self) -> None:
        """The first process has ended; others of it may still put away what is unfinished."""
        if self._pidfd != -1:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._exited = True
        if self._stderr.closed or self._killed:
            self._end()
        elif self._timer is None:
            self._timer = self._loop.call_later(GRACE, self.kill)

    def _read_errors(self) -> None:
        try:
            said = os.read(self._stderr.fileno(), 4096)
        except BlockingIOError:
            return
        if said:
            room = MOST_ERRORS - self._errors
            if room > 0:
                self._errors += len(said)
                self._on_error(said[:room])
            return
        # Every process of it has this open, so none is left, or it does not matter.
        self._close_errors()
        if self._exited:
            self._end()

    def _close_errors(self) -> None:
        if not self._stderr.closed:
            self._loop.remove_reader(self._stderr.fileno())
            self._stderr.close()

    def _end(self) -> None:
        self._signal(signal.SIGKILL)
        if self._timer is not None:
            self._timer.cancel()
        self._close_errors()
        status = self._process.wait()  # it has ended, so this takes no time
        self._on_ended(status)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # all gone
        except PermissionError:  # macOS says so of a group of zombies
            pass


def _enlarge(pipe: int) -> None:
    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if set_size is None:
        return
    try:
        fcntl.fcntl(pipe, set_size, PIPE)
    except OSError as error:  # there is a limit for each user; it is of use, not needed
        logger.debug("a pipe stays small: %s", error)
