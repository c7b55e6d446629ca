"""psync's shared ssh connection to a daemon host.

One ssh process per destination, a *master*, holds an authenticated connection for ten minutes after
its last use; commands, transfers and forwardings go through its control socket in a few
milliseconds. The user's ssh configuration holds throughout; only what would get in the way of a
program (a terminal, a RemoteCommand, the user's own forwardings and masters) is switched off.

The control socket is in a private directory under a short name. It is asked before each use; where
nothing answers, ssh connects directly.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence

from psync.errors import Interrupted, SSHError, ToolMissing
from psync.paths import private_directory
from psync.sync import mux
from psync.sync.blame import ssh_error
from psync.sync.destination import SSHTarget
from psync.sync.process import Child, Tail
from psync.sync.shell import quote
from psync.text import printable

__all__ = ["RemoteCommandFailed", "SSHTarget", "SharedConnection"]

IDLE = 600
"""Seconds that the shared connection stays open unused."""

OPEN_TIMEOUT = 300.0
"""Seconds to log in, including those that the user needs to answer ssh's questions."""

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes that a remote command of psync's own may print."""

_ANSWER_TIMEOUT = 2.0  # seconds for a master, a process on this machine, to answer
_LOOPBACK = b"127.0.0.1"
_LOCK_POLL = 0.05

# Found by ssh before it reads the user's configuration, so these win; the first value counts.
_OPTIONS = (
    "ControlMaster=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ConnectTimeout=20",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=INFO",  # at QUIET, ssh fails without a word
)
_MASTER_OPTIONS = (
    "ControlMaster=yes",
    f"ControlPersist={IDLE}",
    "ExitOnForwardFailure=no",
    "StreamLocalBindUnlink=yes",
    *_OPTIONS[1:],
)
_WANTS = re.compile(rb"(?i)\b(confirm|touch|tap|presence|press|enter|pin)\b")
_NO_SHARING = re.compile(
    rb"[Cc]ontrol ?(Socket|Path|Master|Persist)|unix_listener|mux_|multiplex"
    rb"|unknown option|invalid option|illegal option"
)


class RemoteCommandFailed(SSHError):
    """ssh worked; the command over there ended with another status than 0.

    Attributes:
        status: its exit status; 127 usually says that the remote shell found no such command.
        stdout: what it printed.
        stderr: what it complained of, the first and last part.
    """

    def __init__(self, message: str, *, status: int, stdout: bytes, stderr: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr


class SharedConnection:
    """The shared connection to one destination; several processes of a user may use the same one.

    Methods block; each may be called from any thread, though not two at a time on one object
    (``cancel`` excepted).

    Args:
        target: where to connect.
        on_notice: called with each line of ssh that wants the user to do something while it logs in
            ("Confirm user presence for key"); questions it asks on the terminal itself.
    """

    def __init__(
        self,
        target: SSHTarget,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> None:
        self.target = target
        self._on_notice = on_notice
        self._sharing = True
        self._cancelled = False
        self._child: Child | None = None
        self._only_key: tuple[str, ...] | None = None
        identity = "\0".join((target.destination, *target.command, *filter(None, (target.key,))))
        self._name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16].encode()
        self.control_path = os.path.join(target.control_dir, self._name)

    def is_open(self) -> bool:
        """Whether a master answers at the control socket. Takes well under a millisecond."""
        if not self._sharing:
            return False
        try:
            mux.alive(self.control_path, _ANSWER_TIMEOUT)
        except mux.MuxError:
            return False
        return True

    def open(self) -> None:
        """Log in unless the connection is open; ssh asks on the user's terminal what it must.

        Where ssh can log in but not share (another ssh than OpenSSH, a file system without
        sockets), this returns all the same; ``is_open`` stays false and everything but ``forward``
        connects directly.

        Raises:
            SSHError: ssh could not log in; the message has its words. Nothing is left behind.
            ToolMissing: there is no ssh.
            ConfigError: the control directory is somebody else's.
            Interrupted: ``cancel`` was called.
        """
        if not self._sharing or self.is_open():
            return
        private_directory(os.fsdecode(self.target.control_dir), exclusive=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open(self.control_path + b".lock", flags, 0o600)
        except OSError as error:
            raise SSHError(
                f"{printable(self.target.control_dir)} cannot be used for control sockets: "
                f"{error.strerror}",
                hint="free some space there, or set XDG_RUNTIME_DIR to another directory",
            ) from error
        try:
            self._lock(lock)
            if self.is_open():  # the process that held the lock opened it
                return
            for path in self._sockets():
                os.unlink(path)
            self._log_in()
        finally:
            os.close(lock)

    def forward(self, port: int) -> bytes:
        """Make a unix socket here lead to loopback port ``port`` over there; return its path.

        The connection must be open. A socket that led to another port goes away; connections made
        through it stay.

        Raises:
            SSHError: the connection is not open, or does not allow forwarding.
        """
        path = self.control_path + b"-%d" % port
        for old in self._sockets():
            if old not in (path, self.control_path):
                self._cancel_forward(old)
        self._ask_forward(path, port)
        if not os.path.exists(path):  # cleaned up by somebody, while the master thinks it is there
            self._cancel_forward(path)
            self._ask_forward(path, port)
        return path

    def close(self) -> None:
        """End the shared connection and all that goes over it, whoever uses it."""
        try:
            mux.terminate(self.control_path, _ANSWER_TIMEOUT)
        except mux.MuxError:
            pass
        for path in self._sockets():
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def cancel(self) -> None:
        """Have ``open`` or ``run`` give up, from another thread or a signal handler; for good."""
        self._cancelled = True
        if self._child is not None:
            self._child.cancel()

    def options(self) -> list[str | bytes]:
        """The ssh command with its options, without a destination.

        It goes through the shared connection where that is open now, directly otherwise.
        """
        path, command = b"none", self.target.command
        if self.is_open():
            path = b'"%s"' % self.control_path.replace(b"%", b"%%")
        else:  # the master has logged in already, and needs no key
            command = self._command()
        return [
            *command,
            b"-oControlPath=" + path,
            *(f"-o{option}" for option in _OPTIONS),
            *self.target.port_options,
        ]

    def argv(self, remote: Sequence[bytes | str] | None = None) -> list[str | bytes]:
        """Return the command line that runs ``remote`` over there, each argument as it is given."""
        command: list[str | bytes] = [*self.options(), "--", self.target.address]
        if remote is not None:
            command.append(b" ".join(quote(os.fsencode(word)) for word in remote))
        return command

    def run(
        self, remote: Sequence[bytes | str], *, input: bytes = b"", timeout: float = 60.0
    ) -> bytes:
        """Run a command over there and return its stdout, which may begin with noise.

        The output of the remote shell's start-up files comes along, so the command must frame what
        it says.

        Args:
            remote: the command and its arguments; they reach it exactly as given.
            input: its stdin.
            timeout: seconds.

        Raises:
            SSHError: ssh failed, or the time was over.
            RemoteCommandFailed: the command ended with another status than 0.
            ToolMissing: there is no ssh.
            Interrupted: ``cancel`` was called.
        """
        output = bytearray()

        def collect(data: bytes) -> None:
            output.extend(data)
            if len(output) > OUTPUT_LIMIT:
                raise SSHError(
                    f"a command on {self.target.destination} printed more than {OUTPUT_LIMIT} bytes"
                )

        said = Tail()
        try:
            status = self._execute(self.argv(remote), input, collect, said.feed, timeout)
        except TimeoutError:
            raise SSHError(
                f"{self.target.destination} did not answer within {timeout:.0f} s",
                hint=f"try it by hand: ssh {self.target.destination} true",
            ) from None
        stderr = said.value()
        if status == 255:
            raise ssh_error(stderr, self.target.destination)
        if status != 0:
            lines = [line for line in stderr.splitlines() if line.strip()]
            reason = printable(lines[-1].strip()) if lines else f"exit status {status}"
            raise RemoteCommandFailed(
                f"{printable(remote[0])} on {self.target.destination} failed: {reason}",
                status=status,
                stdout=bytes(output),
                stderr=stderr,
            )
        return bytes(output)

    def _execute(
        self,
        argv: Sequence[str | bytes],
        feed: bytes,
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        timeout: float,
    ) -> int:
        """Run an ssh command to its end, in the foreground so that it can ask the user."""
        self._check_cancelled()
        try:
            self._child = Child(argv, feed=feed, detached=False)
        except OSError as error:
            command = printable(self.target.command[0])
            raise ToolMissing(
                f"ssh cannot be started on this machine: {command}: {error.strerror}",
                hint="install it, for example: sudo apt install openssh-client; or correct "
                "PSYNC_SSH",
            ) from error
        try:
            if self._cancelled:
                self._child.cancel()
            status = self._child.wait(on_stdout, on_stderr, timeout)
        finally:
            self._child = None
        self._check_cancelled()
        return status

    def _log_in(self) -> None:
        path = b'"%s"' % self.control_path.replace(b"%", b"%%")
        argv: list[str | bytes] = [*self._command(), b"-oControlPath=" + path, "-N", "-f"]
        argv += [f"-o{option}" for option in _MASTER_OPTIONS]
        argv += [*self.target.port_options, "--", self.target.address]
        said = Tail()
        notices = _Lines(self._on_notice)

        def on_stderr(data: bytes) -> None:
            said.feed(data)
            notices.feed(data)

        try:
            status = self._execute(argv, b"", lambda data: None, on_stderr, OPEN_TIMEOUT)
        except TimeoutError:
            raise SSHError(
                f"logging in to {self.target.destination} took more than {OPEN_TIMEOUT:.0f} s",
                hint=f"try it by hand: ssh {self.target.destination} true",
            ) from None
        if status == 0:
            self._sharing = self.is_open()
        elif _NO_SHARING.search(said.value()):
            self._sharing = False
        else:
            raise ssh_error(said.value(), self.target.destination)

    def _command(self) -> tuple[str, ...]:
        """The ssh command for a login: with nothing but the target's own key, where it has one."""
        if self.target.key is None:
            return self.target.command
        if self._only_key is None:
            from psync.sync.onlykey import only_key_command

            self._only_key = only_key_command(self.target)
        return self._only_key

    def _lock(self, lock: int) -> None:
        """Wait for another psync that is logging in to the same host, at most as long as it may."""
        deadline = time.monotonic() + OPEN_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self._check_cancelled()
                if time.monotonic() > deadline:
                    raise SSHError(
                        f"another psync has been logging in to {self.target.destination} for "
                        f"{OPEN_TIMEOUT:.0f} s",
                        hint="answer or end it, then run this again",
                    ) from None
                time.sleep(_LOCK_POLL)

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted("interrupted while ssh was at work")

    def _sockets(self) -> list[bytes]:
        """The control socket and those of forwardings, as far as they exist, dead or alive."""
        try:
            names = os.listdir(self.target.control_dir)
        except FileNotFoundError:
            return []
        ours = re.compile(re.escape(self._name) + rb"(-\d+)?")
        return [
            os.path.join(self.target.control_dir, name) for name in names if ours.fullmatch(name)
        ]

    def _ask_forward(self, path: bytes, port: int) -> None:
        try:
            mux.forward(self.control_path, path, _LOOPBACK, port, _ANSWER_TIMEOUT)
        except mux.MuxError as error:
            raise SSHError(
                f"ssh cannot forward a connection to {self.target.destination}: "
                f"{printable(str(error))}",
                hint='allow AllowTcpForwarding in its sshd_config, or use connect = "direct"',
            ) from error

    def _cancel_forward(self, path: bytes) -> None:
        port = int(path.rpartition(b"-")[2])
        try:
            mux.cancel(self.control_path, path, _LOOPBACK, port, _ANSWER_TIMEOUT)
        except mux.MuxError:
            pass  # it was of an earlier master
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


class _Lines:
    """Passes on the whole lines of an output that want something of the user, made harmless."""

    def __init__(self, callback: Callable[[str], None] | None) -> None:
        self._callback = callback
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._callback is None:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-4096:]
        for line in lines:
            if _WANTS.search(line):
                self._callback(printable(line.strip()))
