"""Which file is the program, and can it be executed: asked before anything is sent.

A symbolic link is resolved, the whole path of it, before the program is placed in the mirror: the
kernel does the same, so ``/proc/self/exe`` and everything found relative to it are where the
program has them on the client. ``argv[0]`` stays what the user typed, as with ``exec``.
"""

from __future__ import annotations

import errno
import os
import stat

from psync.errors import ExecError, ProgramNotFound
from psync.text import printable

# What the kernel reads of a file to find out how to execute it (BINPRM_BUF_SIZE, Linux 5.1+).
_HEAD = 256


def resolve_program(word: bytes, cwd: bytes) -> bytes | None:
    """Return the absolute path of the program that ``word`` names, or None for a bare command.

    A word with a slash names a file, and so does one that is the name of a file in ``cwd``. Any
    other word is a command to be looked up on the daemon host's PATH.

    Args:
        word: PROGRAM as the user typed it.
        cwd: absolute working directory.

    Raises:
        ProgramNotFound: there is no such file.
        ExecError: the file is there and cannot be executed, or not be read.
    """
    shown = printable(word)
    if not word:
        raise ProgramNotFound("the program's name is empty", hint="name a program to run")
    path = os.path.join(cwd, word)
    try:
        status = os.stat(path)
    except OSError as error:
        if b"/" not in word and not os.path.islink(path):
            return None
        raise _unreachable(path, shown, error) from error
    if stat.S_ISDIR(status.st_mode):
        if b"/" not in word and word not in (b".", b".."):
            return None
        raise ExecError(f"{shown} is a directory", hint="name the program in it")
    if not stat.S_ISREG(status.st_mode):
        raise ExecError(f"{shown} is not a regular file", hint="name a program or a script")
    if not os.access(path, os.X_OK):
        raise ExecError(f"{shown} is not executable", hint=f"chmod +x {shown}")
    _check_head(path, shown)
    return os.path.realpath(path)


def _unreachable(path: bytes, shown: str, error: OSError) -> ExecError | ProgramNotFound:
    if error.errno == errno.ENOENT and os.path.islink(path):
        return ProgramNotFound(
            f"{shown} is a symbolic link to {printable(os.readlink(path))}, which does not exist",
            hint="build the program, or correct the link",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ProgramNotFound(
            f"{shown} does not exist",
            hint="build it or correct the path; a name without a slash is looked up on the "
            "daemon host",
        )
    if error.errno == errno.ELOOP:
        return ExecError(f"{shown} is a loop of symbolic links", hint="correct the links")
    return ExecError(
        f"{shown} cannot be reached: {error.strerror}", hint="check the directories above it"
    )


def _check_head(path: bytes, shown: str) -> None:
    """Look at the first bytes as the kernel would."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ExecError(
            f"{shown} cannot be read: {error.strerror}", hint=f"chmod +r {shown}"
        ) from error
    if not head:
        raise ExecError(f"{shown} is empty", hint="build it again")
    if not head.startswith(b"#!"):
        if not any(byte < 9 or 13 < byte < 32 for byte in head):  # plain text
            raise ExecError(
                f"{shown} is text without an interpreter line",
                hint="begin it with a line such as #!/bin/sh",
            )
        return
    line = head[2:].partition(b"\n")[0]
    words = line.split(maxsplit=1)
    if not words:
        raise ExecError(
            f"{shown} has an interpreter line that names none",
            hint="begin it with a line such as #!/bin/sh",
        )
    if line.endswith(b"\r"):
        raise ExecError(
            f"{shown} has lines that end as on Windows, which makes its interpreter "
            f"{printable(line.strip(b' '))}",
            hint=f"convert it: sed -i 's/\\r$//' {shown}",
        )
    if b"/" not in words[0]:
        raise ExecError(
            f"{shown} names its interpreter {printable(words[0])} without a directory",
            hint=f"begin it with #!/usr/bin/env {printable(words[0])}",
        )
