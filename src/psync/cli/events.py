"""psync's own words as JSON: one object a line, each with the name of its ``event``.

``psync sync --json`` writes them on stdout, ``psync run --json`` and ``psync watch --json`` on
stderr, where psync's prose would be; a program's own output stays as it is. Fields are never taken
away and keep their meaning; there may be new ones, and new events.

    event             fields
    sync-started      target, project: their names
    waiting           message; pid and command of the process that syncs the same project, or null
    progress          bytes, total, rate, left, files, file
    warning           message: what was left out, and why
    sync-ended        files, bytes, removed, seconds, skipped
    run-started       run: its ID
    run-ended         run, status, signal
    connection-lost   message: why; psync tries to connect again
    connected         message: there is a connection again
    error             code, message, hint, exit_status
    message           message: anything else, for people

bytes         of sync-ended: sent to the other side, all told; of progress: of the files' contents
total         bytes of all files that will be sent; null where that is not known
rate, left    bytes per second of the files' contents; seconds until all is sent, or null
files         regular files that were sent
file          the file that is being sent, relative to the project's root, or null
removed       files and directories that were removed from the mirror
skipped       both sides were known to be unchanged, and no rsync was started
status        what psync exits with for it: the program's own, 128 + n for signal n, 255 if lost
signal        name of the signal that ended the program, or null
code          names the kind of error, such as not-paired; hint: what to type next, or empty

A path is text, for people: bytes that are not UTF-8 and control characters are written ``\\xff``.
Where that is not the path itself, a second field has it in base64: ``file_base64``.
"""

from __future__ import annotations

import os
import select
import threading

from psync.text import printable

Value = str | int | float | bool | bytes | None


class _Stream:
    """Where events go; nowhere at first."""

    def __init__(self) -> None:
        self.fd: int | None = None
        self.failure: OSError | None = None
        self.lock = threading.Lock()


_stream = _Stream()


def use_json(fd: int) -> None:
    """Have psync speak JSON from now on.

    Args:
        fd: 1 for stdout, 2 for stderr.
    """
    _stream.fd, _stream.failure = fd, None


def is_json() -> bool:
    """Whether psync speaks JSON."""
    return _stream.fd is not None


def failure() -> OSError | None:
    """Return why events could not be written, if that was so; that nobody reads is no reason."""
    return _stream.failure


def emit(event: str, *, wait: bool = True, **fields: Value) -> None:
    """Write an event, if psync speaks JSON. Never raises; callable from any thread.

    Args:
        event: its name.
        wait: False drops it if it cannot be written at once, for use in an event loop.
        fields: of the table. ``bytes`` are a path, empty ones none.
    """
    if _stream.fd is None:
        return
    import msgspec

    said: dict[str, Value] = {"event": event}
    for name, value in fields.items():
        if isinstance(value, bytes):
            said.update(_path(name, value))
        else:
            said[name] = round(value, 3) if isinstance(value, float) else value
    line = msgspec.json.encode(said) + b"\n"
    try:
        write(_stream.fd, line, wait=wait)
    except BrokenPipeError:
        pass
    except OSError as error:
        _stream.failure = error


def write(fd: int, line: bytes, *, wait: bool = True) -> None:
    """Write a line and nothing of another thread's in between; drop it where that would wait.

    Raises:
        OSError: it could not be written.
    """
    if not _stream.lock.acquire(blocking=wait):
        return
    try:
        if not wait:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            if not poll.poll(0):
                return
        while line:
            line = line[os.write(fd, line) :]
    finally:
        _stream.lock.release()


def _path(name: str, path: bytes) -> dict[str, Value]:
    if not path:
        return {name: None}
    text = printable(path)
    if os.fsencode(text) == path and "\\" not in text:
        return {name: text}
    from base64 import b64encode

    return {name: text, f"{name}_base64": b64encode(path).decode()}
