"""The small JSON files of a run directory, and the directory's other names.

    spec.json        what to run; written by the daemon before the launch, read by the supervisor
    supervisor.json  who owns the run; written by the supervisor
    exit.json        how it ended; written once by the supervisor. No exit.json and no living
                     supervisor means the run is lost, never that it exited with 0.
    ctl              the supervisor's unix socket
    cursor, output-*, index-*    the output log (see ``log``)

Each file starts with ``"format": 1`` and is written whole (temporary file, rename) or not at all.
Bytes (argv, environment, paths) are base64; times are seconds since the epoch, durations
seconds of the monotonic clock.
"""

from __future__ import annotations

import json
import os
from binascii import a2b_base64, b2a_base64, crc32

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1

SPEC = "spec.json"
SUPERVISOR = "supervisor.json"
EXIT = "exit.json"
CTL = "ctl"

MIB = 1024 * 1024
LOG_LIMIT = 1024 * MIB
LOG_KEEP = 64 * MIB

# The exit record is reserved on disk before the program starts; an error message is cut so that the
# record fits. A block of any common file system.
EXIT_RESERVED = 4096

_NUMBER = (int, float)
_SPEC_FIELDS: dict[str, tuple[type, ...]] = {
    "argv": (list,),
    "env": (list,),
    "cwd": (str,),
    "executable": (str, type(None)),
    "run_id": (str,),
    "name": (str,),
    "disconnect_grace": (int, float, type(None)),
    "overflow": (str,),
    "log_limit": (int,),
    "log_keep": (int,),
}
_OWNER_FIELDS: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("pid", "start_time", "program_pid", "program_start_time"), (int,)
)
_EXIT_FIELDS: dict[str, tuple[type, ...]] = {
    "code": (int, type(None)),
    "signal": (str, type(None)),
    "exec_error": (dict, type(None)),
    "reason": (str,),
    "output_end": (int,),
    "started": _NUMBER,
    "ended": _NUMBER,
    "duration": _NUMBER,
    "survivors": (int,),
}

_SUN_PATH = 100  # bytes that fit into sockaddr_un on every system psync knows (104 to 108)


class RecordError(Exception):
    """A file of the run directory is damaged, or of a format this version does not know."""


class RecordNewer(RecordError):
    """It is of a later format."""


class Spec:
    """What one supervisor is to run. The daemon has resolved and checked everything.

    Attributes:
        argv: the command, at least one element; ``argv[0]`` is what the program sees as its name.
        executable: absolute path to execute, or None to look ``argv[0]`` up on the PATH in ``env``.
        env: the whole environment, exactly; nothing is added to it.
        cwd: absolute working directory.
        run_id: the run's ID (the supervisor does not interpret it).
        name: a name for people; may be empty (not interpreted either).
        disconnect_grace: seconds the run lives while no client is attached, None for ever. Counts
            from the start if nobody ever attaches.
        overflow: ``"block"`` or ``"drop"``: what happens when ``log_limit`` is reached.
        log_limit: most bytes of unread output (log end minus floor).
        log_keep: bytes of output below the floor that stay readable; beyond them the oldest
            segment is used again.
    """

    def __init__(
        self,
        *,
        argv: list[bytes],
        env: list[tuple[bytes, bytes]],
        cwd: bytes,
        executable: bytes | None = None,
        run_id: str = "",
        name: str = "",
        disconnect_grace: float | None = None,
        overflow: str = "block",
        log_limit: int = LOG_LIMIT,
        log_keep: int = LOG_KEEP,
    ) -> None:
        if not argv:
            raise ValueError("argv is empty")
        if overflow not in ("block", "drop"):
            raise ValueError(f"overflow is block or drop, not {overflow!r}")
        if log_limit <= 0 or log_keep < 0:
            raise ValueError("log_limit is positive and log_keep not negative")
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.executable = executable
        self.run_id = run_id
        self.name = name
        self.disconnect_grace = disconnect_grace
        self.overflow = overflow
        self.log_limit = log_limit
        self.log_keep = log_keep

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Spec({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


class Owner:
    """The supervisor of a run, from supervisor.json.

    Attributes:
        pid: its process ID.
        start_time: its start in clock ticks since boot (/proc/PID/stat, field 22), so that another
            process with the same ID is not taken for it; 0 where the system has no /proc.
        program_pid: process ID, group and session of the program, 0 before it was forked.
        program_start_time: the same for the program.
    """

    def __init__(
        self, pid: int, start_time: int, program_pid: int = 0, program_start_time: int = 0
    ) -> None:
        self.pid = pid
        self.start_time = start_time
        self.program_pid = program_pid
        self.program_start_time = program_start_time

    @property
    def alive(self) -> bool:
        """Whether that very process exists and is no zombie."""
        return is_process(self.pid, self.start_time)


class ExecFailure:
    """Why the program could not be executed.

    Attributes:
        kind: ``"not-found"``, ``"not-executable"``, ``"is-directory"``, ``"bad-interpreter"``,
            ``"bad-format"``, ``"cwd"``, ``"too-long"``, ``"busy"`` or ``"other"``.
        errno: the system's number.
        message: names the thing; bytes that are no UTF-8 are escaped with backslashes.
    """

    def __init__(self, kind: str, errno: int, message: str) -> None:
        self.kind = kind
        self.errno = errno
        self.message = message

    @property
    def code(self) -> int:
        """The exit status that stands for it: 127 not found, else 126."""
        return 127 if self.kind == "not-found" else 126


class Exit:
    """How a run ended. ``code`` or ``signal`` is set, never both.

    Attributes:
        code: the program's exit status; 126 or 127 with ``exec_error``.
        signal: the name of the signal that ended the program, ``"SIGKILL"`` or ``"SIGRTMIN+3"``.
        exec_error: why the program was never executed, or None.
        reason: what made it end: ``"exited"`` (by itself, a signal included), ``"stopped"`` (Stop,
            Terminate or Kill, or SIGTERM to the supervisor), ``"disconnected"`` (the disconnect
            policy) or ``"exec-failed"``.
        output_end: length of all output, in bytes.
        started: wall clock when the program was forked.
        ended: wall clock when the program ended.
        duration: seconds between the two, monotonic.
        survivors: processes that could not be killed (another user's, or stuck in the kernel).
    """

    def __init__(
        self,
        *,
        code: int | None,
        signal: str | None = None,
        exec_error: ExecFailure | None = None,
        reason: str = "exited",
        output_end: int = 0,
        started: float = 0.0,
        ended: float = 0.0,
        duration: float = 0.0,
        survivors: int = 0,
    ) -> None:
        if (code is None) == (signal is None):
            raise ValueError("a run ends with a code or with a signal")
        self.code = code
        self.signal = signal
        self.exec_error = exec_error
        self.reason = reason
        self.output_end = output_end
        self.started = started
        self.ended = ended
        self.duration = duration
        self.survivors = survivors


def write_spec(run_dir: str, spec: Spec) -> None:
    """Write spec.json.

    Raises:
        OSError: it could not be written; there is no spec.json then.
    """
    value = dict(vars(spec))
    value["argv"] = [_pack(arg) for arg in spec.argv]
    value["env"] = [[_pack(name), _pack(text)] for name, text in spec.env]
    value["cwd"] = _pack(spec.cwd)
    value["executable"] = None if spec.executable is None else _pack(spec.executable)
    _write(run_dir, SPEC, value)


def read_spec(run_dir: str) -> Spec:
    """Read spec.json.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it is damaged.
    """
    value = _read(run_dir, SPEC, _SPEC_FIELDS)
    try:
        executable = value.pop("executable")
        return Spec(
            argv=[_unpack(arg) for arg in value.pop("argv")],
            env=[(_unpack(name), _unpack(text)) for name, text in value.pop("env")],
            cwd=_unpack(value.pop("cwd")),
            executable=None if executable is None else _unpack(executable),
            **value,
        )
    except (TypeError, ValueError) as error:
        raise RecordError(f"{_path(run_dir, SPEC)}: {error}") from error


def write_owner(run_dir: str, owner: Owner) -> None:
    """Write supervisor.json (not synced to disk: after a crash of the host nobody owns the run)."""
    _write(run_dir, SUPERVISOR, dict(vars(owner)))


def read_owner(run_dir: str) -> Owner:
    """Read supervisor.json.

    Raises:
        FileNotFoundError: no supervisor has come up.
        RecordError: it is damaged.
    """
    return Owner(**_read(run_dir, SUPERVISOR, _OWNER_FIELDS))


def reserve_exit(run_dir: str) -> None:
    """Take the disk space of the exit record, so that a full disk cannot prevent it.

    Raises:
        OSError: there is no space even for that.
    """
    fd = os.open(_temporary(run_dir, EXIT), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, b"\n" * EXIT_RESERVED)
    finally:
        os.close(fd)


def write_exit(run_dir: str, record: Exit) -> None:
    """Write exit.json over the space that ``reserve_exit`` took, for every process to see.

    It survives the death of any process at once, a crash of the host from ``sync_exit`` on. Synced
    before the rename it would be safe against a power cut a little earlier, and every run would
    seem to end later by what a sync takes, which on a small board is a lot.

    Raises:
        OSError: the disk failed; there is no exit.json then, and it may be tried again.
    """
    value = dict(vars(record))
    if record.exec_error is not None:
        value["exec_error"] = {**vars(record.exec_error)}
        # The message may name a path of 4 KiB, each byte of it up to six characters of JSON.
        value["exec_error"]["message"] = record.exec_error.message[:500]
    _write(run_dir, EXIT, value, checked=True)


def sync_exit(run_dir: str) -> None:
    """Make exit.json and its name permanent.

    Raises:
        OSError: the disk failed.
    """
    for path in (_path(run_dir, EXIT), run_dir):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def read_exit(run_dir: str) -> Exit:
    """Read exit.json.

    Raises:
        FileNotFoundError: there is none: the run goes on, or is lost.
        RecordError: it is damaged.
    """
    value = _read(run_dir, EXIT, _EXIT_FIELDS, checked=True)
    try:
        failure = value.pop("exec_error")
        return Exit(exec_error=None if failure is None else ExecFailure(**failure), **value)
    except (TypeError, ValueError) as error:
        raise RecordError(f"{_path(run_dir, EXIT)}: {error}") from error


def process_start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is no such process."""
    return _stat(pid)[1]


def is_process(pid: int, start_time: int) -> bool:
    """Tell whether ``pid`` is still the process that started at ``start_time``, and no zombie."""
    if start_time:
        state, started = _stat(pid)
        return started == start_time and state not in (b"Z", b"X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def connect_path(run_dir: str) -> tuple[str, int | None]:
    """Return a path for ``connect()`` to the run's ``ctl``, however deep the run directory lies.

    The second value is a descriptor, or None; the caller closes it once connected (or failed).

    Raises:
        OSError: there is no run directory, or its path is long and the system has no /proc.
    """
    path = _path(run_dir, CTL)
    if len(os.fsencode(path)) < _SUN_PATH:
        return path, None
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY)
    return f"/proc/self/fd/{fd}/{CTL}", fd


def _stat(pid: int) -> tuple[bytes, int]:
    """Return state and start time: /proc/PID/stat, fields 3 and 22 (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return b"", 0
    fields = stat[stat.rfind(b")") + 2 :].split()  # the name before it may hold anything
    return fields[0], int(fields[19])


def _path(run_dir: str, name: str) -> str:
    return f"{run_dir}/{name}"


def _temporary(run_dir: str, name: str) -> str:
    return f"{run_dir}/.{name}.tmp"


def _pack(value: bytes) -> str:
    return b2a_base64(value, newline=False).decode()


def _unpack(value: str) -> bytes:
    return a2b_base64(value, strict_mode=True)  # its Error is a ValueError


def _checksum(text: bytes) -> bytes:
    """Return the CRC-32 of a record as white space, a tab for each one and a blank for each zero.

    Versions of psync read each other's records and accept no field that they do not know. White
    space behind the object they skip, as every reader of JSON does.
    """
    return f"{crc32(text):032b}\n".translate({48: " ", 49: "\t"}).encode()


def _write(run_dir: str, name: str, value: dict[str, object], *, checked: bool = False) -> None:
    text = json.dumps({"format": FORMAT, **value}).encode() + b"\n"
    if checked:
        text += _checksum(text)
    temporary = _temporary(run_dir, name)
    # Not truncated before it is written: what was reserved stays reserved.
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        done = 0
        while done < len(text):
            done += os.pwrite(fd, text[done:], done)
        os.ftruncate(fd, len(text))
    finally:
        os.close(fd)
    os.rename(temporary, _path(run_dir, name))


def _read(
    run_dir: str, name: str, fields: dict[str, tuple[type, ...]], *, checked: bool = False
) -> dict[str, Any]:
    path = _path(run_dir, name)
    with open(path, "rb") as file:
        text = file.read()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: not of format {FORMAT}")
    number = value.pop("format", None)
    if type(number) is int and number > FORMAT:
        raise RecordNewer(f"{path} is of format {number}")
    if number != FORMAT:
        raise RecordError(f"{path}: not of format {FORMAT}")
    line, _, rest = text.partition(b"\n")
    if checked and rest and rest != _checksum(line + b"\n"):  # version 0.1.0 wrote none
        raise RecordError(f"{path}: does not agree with its checksum")
    if value.keys() != fields.keys():
        raise RecordError(f"{path}: has other fields than it must have")
    for field, kinds in fields.items():
        if type(value[field]) not in kinds:
            raise RecordError(f"{path}: {field} is of the wrong type")
    return value
