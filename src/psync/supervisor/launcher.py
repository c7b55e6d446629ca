"""The launcher: a small process that forks one supervisor per run.

The daemon starts it early, with ``command()`` and one end of a connected unix stream socket pair
(``pass_fds``), keeps the other end, and writes one ``wire.Launch`` per run. Answers come in the
order of the requests: ``wire.Launched`` once the supervisor listens on ``ctl``, its cursor and
supervisor.json are there and the program is forked (if it cannot be executed the run ends with an
exit record that says so), or ``wire.LaunchFailed``, and then nothing is left of it but files.

All modules a supervisor needs are imported before the first request (by ``serve``, so that the
daemon pays nothing when it imports this module for ``command``), and ``gc.freeze`` keeps the
collector's hands off them, so that supervisors share their pages. The launcher ends when its socket
does; supervisors have their own session and do not notice.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from psync.supervisor import wire

_READY_TIMEOUT = 20.0  # seconds; a disk that hangs must not hang every later launch


def command(fd: int, descriptors: int | None = None, lock: int | None = None) -> list[str]:
    """Return the argv that starts a launcher which serves the inherited descriptor ``fd``.

    Isolated and without ``site``: less memory in every supervisor and a faster start. The standard
    streams should be ``/dev/null`` (stderr may be the daemon's log; supervisors do not keep it).

    Args:
        fd: the launcher's end of the socket pair.
        descriptors: soft limit of open descriptors for programs, None for the daemon's own.
        lock: an inherited descriptor that is kept open for as long as a launch is going on, also
            when the daemon dies meanwhile. With the daemon's lock behind it there is never a next
            daemon that wonders whether a run will begin.
    """
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = (
        f"import sys; sys.path.insert(0, {source!r}); "
        f"from psync.supervisor.launcher import serve; serve({fd}, {descriptors}, {lock})"
    )
    return [sys.executable, "-I", "-S", "-c", code]


def serve(fd: int, descriptors: int | None = None, lock: int | None = None) -> None:
    """Be the launcher: serve the connected stream socket ``fd`` until its end; see ``command``."""
    import ctypes  # noqa: F401  (not used here: every supervisor needs it)

    import psync.supervisor.supervise  # noqa: F401

    # What the daemon's own starter let it inherit must not stay open as long as the longest run.
    for name in os.listdir("/dev/fd"):
        if int(name) not in (0, 1, 2, fd, lock):
            try:
                os.close(int(name))
            except OSError:  # the listing's own
                pass
    for kept in (fd, lock):
        if kept is not None:
            os.set_inheritable(kept, False)
    # Ctrl-C on a foreground daemon is the daemon's; it ends the launcher by closing the socket.
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    if descriptors is not None:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    gc.collect()
    gc.freeze()
    daemon = socket.socket(fileno=fd)
    decoder = wire.FrameDecoder(wire.TO_LAUNCHER)
    while True:
        try:
            data = daemon.recv(65536)
            if not data:
                return
            for frame in decoder.feed(data):
                assert isinstance(frame, wire.Launch)
                daemon.sendall(_launch(os.fsdecode(frame.run_dir), daemon, lock).encode())
        except (OSError, wire.WireError):  # the daemon is gone, or not one
            return


def _launch(run_dir: str, daemon: socket.socket, lock: int | None) -> wire.Frame:
    try:
        said, say = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(said)
            os.close(say)
            raise
    except OSError as error:
        return wire.LaunchFailed(error.errno or 0, f"cannot start a supervisor: {error.strerror}")
    if pid == 0:
        try:
            os.close(said)
            daemon.close()
            _be_supervisor(run_dir, say, lock)
        finally:
            os._exit(1)
    os.close(say)
    answer = b""
    try:
        poll = select.poll()
        poll.register(said, select.POLLIN)
        while True:
            if not poll.poll(_READY_TIMEOUT * 1000):
                os.kill(pid, signal.SIGKILL)
                return wire.LaunchFailed(0, "the supervisor did not come up in time")
            data = os.read(said, 65536)
            answer += data
            if answer == b"\0":
                return wire.Launched(pid)
            if not data:
                break
    finally:
        os.close(said)
    number, _, message = answer.decode(errors="surrogateescape").partition(" ")
    return wire.LaunchFailed(int(number or 0), message or "the supervisor died before it was ready")


def _be_supervisor(run_dir: str, say: int, lock: int | None) -> None:
    """In the child: supervise, and say or write down what went wrong. Returns when it is over."""
    from psync.supervisor.supervise import prepare

    os.setsid()
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    try:
        supervisor = prepare(run_dir)
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else 0
        os.write(say, f"{number or 0} {error}".encode(errors="surrogateescape")[:4000])
        return
    os.write(say, b"\0")
    os.close(say)
    if lock is not None:
        os.close(lock)  # from here on the run's own files say what it is
    try:
        supervisor.run()
        os._exit(0)
    except Exception:  # a fault of psync's own, for whoever looks into the run directory
        import traceback

        fd = os.open(f"{run_dir}/supervisor-error", os.O_WRONLY | os.O_CREAT, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            traceback.print_exc(file=file)
