"""Keep a process from files outside one directory (Linux). Standard library only.

The kernel looks at the file itself, so no symbolic link leads around it, also not one that a
program made in the mirror. Landlock needs no privileges and exists since Linux 5.13; psync wants
the second version, 5.19, because the first forbids to rename from one directory into another, as
rsync does. Metadata (mode, times) it does not govern. See landlock(7) and linux/landlock.h, where
the numbers are from.

This module is also a program of its own, since it is not safe to do all this between fork and exec
of a process that may have threads: ``command`` starts it, and it becomes the one that is confined.
"""

from __future__ import annotations

import os
import struct
import sys

TYPE_CHECKING = False  # what typing has under this name, without importing it
if TYPE_CHECKING:
    from collections.abc import Sequence

_CREATE_RULESET = 444  # the same on every architecture that Linux has Landlock on
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
_IN_DIRECTORY = sum(1 << bit for bit in (4, 5, 6, 7, 8, 9, 10, 11, 12))  # remove, make
_REFER = 1 << 13
_TRUNCATE = 1 << 14  # since version 3

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
"""Where programs and libraries are; they can be read."""

_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/dev/urandom")

FAILED = 126
"""Exit status of the program that this module is, where the other could not be started."""


def confine(directory: int, program: str, *, writes: bool = True) -> bool:
    """Let this process write below one directory only, and read there and in ``SYSTEM``.

    It holds for good, also across exec. A program that is not in ``SYSTEM`` may bring its libraries
    from anywhere, so then reading stays free.

    Args:
        directory: open descriptor.
        program: path of the program that is going to be executed.
        writes: it may write there; else nowhere.

    Returns:
        Whether the kernel can do it; if not, nothing is changed.

    Raises:
        OSError: it can, and did not.
    """
    if sys.platform != "linux":
        return False
    import ctypes

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long

    def call(number: int, *arguments: object) -> int:
        result: int = syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    zero = ctypes.c_size_t(0)
    try:
        version = call(_CREATE_RULESET, None, zero, ctypes.c_uint(_VERSION))
    except OSError:
        return False
    if version < 2:
        return False
    writing = _WRITE_FILE | _IN_DIRECTORY | _REFER | (_TRUNCATE if version >= 3 else 0)
    reading = 0
    if os.path.realpath(program).startswith(_below(SYSTEM)):
        reading = _READ_FILE | _READ_DIRECTORY
    attributes = struct.pack("=Q", writing | reading)
    ruleset = call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:

        def allow(fd: int, rights: int) -> None:
            if not rights:
                return
            rule = struct.pack("=Qi", rights, fd)
            kind = ctypes.c_int(_PATH_BENEATH)
            call(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, ctypes.c_uint(0))

        # What is no directory takes only the rights that files have.
        allow(directory, (writing if writes else 0) | reading)
        for path, rights in (
            ("/dev/null", _WRITE_FILE | (reading & _READ_FILE)),
            *((path, reading) for path in SYSTEM),
            *((path, reading & _READ_FILE) for path in _FILES),
        ):
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # this system has none
            try:
                allow(fd, rights)
            finally:
                os.close(fd)
        # prctl is a system call like the others, but its number is not the same everywhere
        if ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no new privileges")
        call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)
    return True


def _below(directories: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{directory}/" for directory in directories)


def command(directory: int, argv: Sequence[str | bytes], *, writes: bool) -> list[str | bytes]:
    """Return the command line that executes another one in a directory, confined to it.

    Args:
        directory: open descriptor, which the process has to inherit.
        argv: what to execute; the first word is its path.
        writes: see ``confine``.
    """
    python: list[str | bytes] = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    return [*python, str(directory), "write" if writes else "read", *argv]


def _main(directory: str, may: str, *argv: str) -> int:
    fd = int(directory)
    try:
        os.fchdir(fd)
        confine(fd, argv[0], writes=may == "write")
        os.close(fd)
        os.execv(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        print(f"psync-server: {argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
