"""Starting the program: pipes, fork, execve, and why it could not be executed.

Fork and exec in Python are safe here because the supervisor has a single thread. What goes wrong in
the child before or in execve comes back through a pipe that execve closes.
"""

from __future__ import annotations

import errno
import os
import signal
import struct
import time

from psync.supervisor.record import ExecFailure, Spec
from psync.supervisor.tree import die_with_parent

_REPORT = struct.Struct("=Bi")  # stage, errno; the path follows
_CWD, _EXEC, _OTHER = range(3)

# A fork elsewhere may hold a freshly written executable open for a moment (golang/go#22315).
_BUSY_PAUSES = (0.001, 0.004, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4)

# What execvp(3) passes over on its way along PATH.
_NEXT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)


class Program:
    """The started program. All descriptors are the supervisor's, non-blocking, and its to close.

    Attributes:
        pid: process, group and session ID.
        stdin: write end.
        stdout: read end.
        stderr: read end.
        report: at its end the program is executed; bytes before it are for ``explain``.
    """

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int, report: int) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.report = report


def start(spec: Spec) -> Program:
    """Fork the program; it is executed when ``report`` ends without a byte.

    Raises:
        OSError: no descriptors or processes left; nothing was started.
    """
    pipes: list[tuple[int, int]] = []
    # A signal between fork and execve must find the program's default action, not our handler.
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pipes.extend(os.pipe() for _ in range(4))
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(spec, parent, pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1])
    except OSError:
        for pair in pipes:
            os.close(pair[0])
            os.close(pair[1])
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for theirs in (pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1]):
        os.close(theirs)
    ours = (pipes[0][1], pipes[1][0], pipes[2][0], pipes[3][0])
    for fd in ours:
        os.set_blocking(fd, False)
    return Program(pid, *ours)


def explain(report: bytes, spec: Spec) -> ExecFailure:
    """Turn what came through ``report`` into the reason for people."""
    stage, number = _REPORT.unpack_from(report)
    path = report[_REPORT.size :]
    reason = os.strerror(number)
    if stage == _CWD:
        return ExecFailure("cwd", number, f"cannot enter the directory {_show(path)}: {reason}")
    if stage == _OTHER:
        return ExecFailure("other", number, f"cannot start {_show(path)}: {reason}")
    full = os.path.join(spec.cwd, path)
    name = _show(path)
    if number in (errno.ENOENT, errno.ENOTDIR):
        if not os.path.isfile(full):
            where = " on PATH" if spec.executable is None and b"/" not in path else ""
            return ExecFailure("not-found", number, f"{name}: no such program{where}")
        return ExecFailure("bad-interpreter", number, f"{name}: {_interpreter(full)}")
    if number == errno.EACCES and os.path.isdir(full):
        return ExecFailure("is-directory", number, f"{name} is a directory")
    if number in (errno.EACCES, errno.EPERM):
        interpreter = _shebang(full)
        if interpreter and os.access(full, os.X_OK):
            message = f"{name}: its interpreter {_show(interpreter)} is not executable: {reason}"
            return ExecFailure("bad-interpreter", number, message)
        return ExecFailure("not-executable", number, f"{name} is not executable: {reason}")
    if number == errno.ENOEXEC:
        return ExecFailure("bad-format", number, f"{name}: {_format(full)}")
    if number == errno.E2BIG:
        message = f"{name}: arguments and environment are too long for this system"
        return ExecFailure("too-long", number, message)
    if number == errno.ETXTBSY:
        return ExecFailure("busy", number, f"{name} is still being written to")
    return ExecFailure("other", number, f"cannot execute {name}: {reason}")


def _become(spec: Spec, parent: int, stdin: int, stdout: int, stderr: int, report: int) -> None:
    """In the child: become the program. Never returns."""
    stage, path = _OTHER, spec.argv[0]
    try:
        try:
            os.setsid()
            die_with_parent()
            if os.getppid() != parent:  # it died before this process could follow it
                os._exit(127)
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            for signum in signal.valid_signals():
                if signum not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            stage, path = _CWD, spec.cwd
            os.chdir(spec.cwd)
            stage = _EXEC
            number, path = _execute(spec)
        except OSError as error:
            number = error.errno or errno.EIO
        except ValueError:  # a NUL byte, or "=" in the name of a variable
            number = errno.EINVAL
        os.write(report, _REPORT.pack(stage, number) + path[:4000])
    finally:  # whatever happened: no second supervisor
        os._exit(127)


def _execute(spec: Spec) -> tuple[int, bytes]:
    """Execute the program, or say why not: error number and the path it is about."""
    env = dict(spec.env)
    name = spec.argv[0]
    if spec.executable is not None or b"/" in name:
        path = spec.executable if spec.executable is not None else name
        return _try(path, spec.argv, env), path
    if not name:
        return errno.ENOENT, name
    worst = (errno.ENOENT, name)
    for directory in env.get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(directory, name) if directory else b"./" + name
        number = _try(path, spec.argv, env)
        if number not in _NEXT:
            return number, path
        # Like execvp: what is there and cannot be executed is told only if nothing better comes.
        # Unlike it: a directory that may not be searched holds nothing, as for a shell.
        if worst[1] == name and number in (errno.EACCES, errno.ENOENT) and os.path.exists(path):
            worst = (number, path)
    return worst


def _try(path: bytes, argv: list[bytes], env: dict[bytes, bytes]) -> int:
    pauses = iter(_BUSY_PAUSES)
    while True:
        try:
            os.execve(path, argv, env)  # noqa: S606 (no shell is the point)
        except OSError as error:
            number = error.errno or errno.EIO
        pause = next(pauses, None)
        if number != errno.ETXTBSY or pause is None:
            return number
        time.sleep(pause)


def _show(path: bytes) -> str:
    return path.decode(errors="backslashreplace")


def _head(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(256)
    except OSError:
        return b""


def _shebang(path: bytes) -> bytes:
    """Return the interpreter that a script's first line names, or nothing."""
    head = _head(path)
    if not head.startswith(b"#!"):
        return b""
    line = head[2:].split(b"\n", 1)[0]
    return line.replace(b"\t", b" ").strip(b" ").split(b" ", 1)[0]


def _interpreter(path: bytes) -> str:
    interpreter = _shebang(path)
    if not interpreter:
        return "it is there, but not the dynamic loader it was linked for"
    if interpreter.endswith(b"\r"):
        return f"its interpreter {_show(interpreter[:-1])} is followed by a carriage return"
    return f"its interpreter {_show(interpreter)} does not exist"


def _format(path: bytes) -> str:
    head = _head(path)
    if head.startswith(b"\x7fELF"):
        return f"it was not built for this machine ({os.uname().machine})"
    if not head:
        return "the file is empty"
    return "neither a program for this machine nor a script that starts with #!"
