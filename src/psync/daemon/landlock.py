"""Keep this process, and what it becomes, from files outside one directory (Linux).

The kernel looks at the file itself, so no symbolic link leads around it, also not one that a
program made in the mirror. Landlock needs no privileges and exists since Linux 5.13; psync wants
the second version, 5.19, because the first forbids to rename from one directory into another, as
rsync does. Metadata (mode, times) it does not govern. See landlock(7) and linux/landlock.h, where
the numbers are from.
"""

from __future__ import annotations

import os
import struct
import sys

_CREATE_RULESET = 444  # the same on every architecture that Linux has Landlock on
_ADD_RULE = 445
_RESTRICT_SELF = 446
_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
_IN_DIRECTORY = sum(1 << bit for bit in (4, 5, 6, 7, 8, 9, 10, 11, 12))  # remove, make
_REFER = 1 << 13
_TRUNCATE = 1 << 14  # since version 3

SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
"""Where programs and libraries are; they can be read."""

_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/nsswitch.conf",
          "/etc/passwd", "/etc/group", "/dev/urandom")  # fmt: skip


def confine(directory: int, program: str) -> bool:
    """Let this process write below one directory only, and read there and in ``SYSTEM``.

    It holds for good, also across exec. A program that is not in ``SYSTEM`` may bring its libraries
    from anywhere, so then reading stays free.

    Args:
        directory: open descriptor.
        program: path of the program that is going to be executed.

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
    reading = _READ_FILE if os.path.realpath(program).startswith(_below(SYSTEM)) else 0
    attributes = struct.pack("=Q", writing | reading)
    ruleset = call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:

        def allow(fd: int, rights: int) -> None:
            rule = struct.pack("=Qi", rights, fd)
            kind = ctypes.c_int(_PATH_BENEATH)
            call(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, ctypes.c_uint(0))

        allow(directory, writing | reading)
        for path, rights in (
            ("/dev/null", _WRITE_FILE | reading),
            *((path, reading) for path in (*SYSTEM, *_FILES)),
        ):
            if not rights:
                continue
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
