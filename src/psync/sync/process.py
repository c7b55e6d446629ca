"""One external process from start to end: fed, read as it writes, stopped with all it started."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

TERMINATE_GRACE = 2.0
"""Seconds a process has after SIGTERM before it is killed."""

FAILURE_DRAIN = 2.0
"""Seconds to wait for the end of the output of a process that failed: rsync ends when its ssh
closes stdout, and what the other side said of the reason may still be in that ssh."""

_CHUNK = 65536
_TICK = 0.1  # how often to see whether ``cancel`` was called, which no descriptor announces
_TICK_WITHOUT_PIDFD = 0.01  # nor the end of the process, on systems other than Linux


class Child:
    """A running process, owned by whoever made this object.

    It is started at once; ``wait`` must be called, and reaps it. ``cancel`` may be called at any
    time from any thread and from a signal handler.

    Attributes:
        cancelled: ``cancel`` was called.
        ended: it has ended and is reaped.

    Args:
        argv: the command; the first element is looked up on PATH.
        env: its environment, None for ours.
        feed: what it reads on stdin, which is then closed; None if ``give`` says so later.
        detached: give it a session of its own. Then the terminal's Ctrl-C does not reach it, it
            cannot ask anything on the terminal, and ``wait`` ends with no process of it left.
        pass_fds: descriptors that it inherits, under the same numbers.

    Raises:
        OSError: as from ``subprocess.Popen``; nothing was started.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        feed: bytes | None = b"",
        detached: bool,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.cancelled = False
        self.ended = False
        self._detached = detached
        self._feed = memoryview(feed or b"")
        self._popen = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL if feed == b"" else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=detached,
            pass_fds=pass_fds,
            bufsize=0,
        )
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        if feed is not None:
            self._write()  # what fits into the pipe need not wait for ``wait``, nor its end

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._popen.pid

    def give(self, feed: bytes) -> None:
        """Say what it reads on stdin, where that was left open; before ``wait``."""
        self._feed = memoryview(feed)
        self._write()

    def cancel(self) -> None:
        """Have ``wait`` stop the process: SIGTERM, a grace, SIGKILL."""
        self.cancelled = True

    def wait(
        self,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        timeout: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> int:
        """Read until the process ends, and return its exit status (-n for signal n).

        What a process that it left behind writes later is not waited for, but for a moment after
        a failure. Whatever happens, also an exception of a callback, the process is gone and
        reaped when this returns.

        Args:
            on_stdout: called with what it writes there, as it comes.
            on_stderr: likewise.
            timeout: seconds, after which the process is stopped.
            cancelled: asked several times a second; true is as good as ``cancel``.

        Raises:
            TimeoutError: it was stopped because the time was over.
        """
        try:
            timed_out = not self._pump(on_stdout, on_stderr, timeout, cancelled)
            return_code = self._end()
        except BaseException:
            self._signal(signal.SIGKILL)
            self._end()
            raise
        finally:
            for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
                if stream is not None:
                    stream.close()
        if timed_out:
            raise TimeoutError
        return return_code

    def _pump(
        self,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        timeout: float | None,
        cancelled: Callable[[], bool],
    ) -> bool:
        """Serve the process until it ended; return whether it did so in time."""
        assert self._popen.stdout is not None and self._popen.stderr is not None
        readers = {
            self._popen.stdout.fileno(): on_stdout,
            self._popen.stderr.fileno(): on_stderr,
        }
        deadline = None if timeout is None else time.monotonic() + timeout
        in_time, stopping = True, False
        pidfd = _pidfd(self._popen.pid)
        tick = _TICK_WITHOUT_PIDFD if pidfd is None else _TICK
        with selectors.DefaultSelector() as selector:
            for fd in (*readers, *([] if pidfd is None else [pidfd])):
                selector.register(fd, selectors.EVENT_READ)
            stdin = self._popen.stdin
            if stdin is not None and not stdin.closed:
                selector.register(stdin.fileno(), selectors.EVENT_WRITE, stdin)
            try:
                while not self._ended():
                    for key, _ in selector.select(tick):
                        if key.fd in readers:
                            if _read(key.fd, readers[key.fd]) == b"":
                                selector.unregister(key.fd)
                        elif key.data is not None and self._write():
                            selector.unregister(key.fd)
                    self.cancelled = self.cancelled or cancelled()
                    overdue = deadline is not None and time.monotonic() >= deadline
                    if stopping and overdue:
                        self._signal(signal.SIGKILL)
                        deadline = None
                    elif not stopping and (self.cancelled or overdue):
                        in_time = self.cancelled
                        stopping, deadline = True, time.monotonic() + TERMINATE_GRACE
                        self._signal(signal.SIGTERM)
                if pidfd is not None:
                    selector.unregister(pidfd)
                if not stopping and self._failed():
                    _drain(selector, readers, FAILURE_DRAIN)
            finally:
                if pidfd is not None:
                    os.close(pidfd)
        for fd, callback in readers.items():
            while _read(fd, callback):
                pass
        return in_time

    def _write(self) -> bool:
        """Write what the pipe takes, then close it; return whether that was all."""
        if self._popen.stdin is None or self._popen.stdin.closed:
            return True
        while self._feed:
            try:
                self._feed = self._feed[os.write(self._popen.stdin.fileno(), self._feed) :]
            except BlockingIOError:
                return False
            except BrokenPipeError:  # it ended, or does not want it; its status will tell
                self._feed = memoryview(b"")
        self._popen.stdin.close()
        return True

    def _ended(self) -> bool:
        """Whether the process has ended, without reaping it: its group's ID must stay taken."""
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._popen.pid, flags) is not None
        except AttributeError:  # macOS, before Python 3.13
            return self._popen.poll() is not None
        except ChildProcessError:
            return True

    def _failed(self) -> bool:
        """Whether a process that has ended did so in any other way than with 0."""
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            result = os.waitid(os.P_PID, self._popen.pid, flags)
        except AttributeError:  # macOS, before Python 3.13
            return self._popen.poll() != 0
        except ChildProcessError:
            return False
        return result is None or (result.si_code, result.si_status) != (os.CLD_EXITED, 0)

    def _end(self) -> int:
        if self._detached:
            self._signal(signal.SIGKILL)  # what it may have left behind in its session's group
        status = self._popen.wait()
        self.ended = True
        return status

    def _signal(self, number: int) -> None:
        try:
            if self._detached:
                os.killpg(self._popen.pid, number)
            else:
                os.kill(self._popen.pid, number)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):  # EPERM: macOS, only zombies left
                raise


class Tail:
    """The first and the last part of an output, whatever its length.

    Args:
        limit: bytes to keep of each of the two.
    """

    def __init__(self, limit: int = 16384) -> None:
        self._limit = limit
        self._head = b""
        self._tail = b""
        self._dropped = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        room = self._limit - len(self._head)
        self._head += data[:room]
        tail = self._tail + data[max(room, 0) :]
        self._dropped = self._dropped or len(tail) > self._limit
        self._tail = tail[-self._limit :]

    def value(self) -> bytes:
        """What is kept, with a line break where something is missing."""
        return self._head + (b"\n" if self._dropped else b"") + self._tail


def _read(fd: int, callback: Callable[[bytes], None]) -> bytes | None:
    """Pass on what can be read now and return it: empty at the end, None when there is nothing."""
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    if data:
        callback(data)
    return data


def _drain(
    selector: selectors.BaseSelector,
    readers: Mapping[int, Callable[[bytes], None]],
    timeout: float,
) -> None:
    """Read until all outputs have ended, at most for ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    left = [key.fd for key in selector.get_map().values() if key.fd in readers]
    while left and (seconds := deadline - time.monotonic()) > 0:
        for key, _ in selector.select(seconds):
            if key.fd not in readers:  # stdin, of no use any more
                selector.unregister(key.fd)
            elif _read(key.fd, readers[key.fd]) == b"":
                selector.unregister(key.fd)
                left.remove(key.fd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or an old or a strict one
        return None
