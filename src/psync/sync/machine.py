"""Can the daemon host execute this program? Asked of the program's first bytes before it is sent.

Refused is only what cannot be: another kind of CPU that nothing over there emulates, another
system's format, a dynamic loader that is known to be missing. What may work, such as a 32-bit
program on a 64-bit CPU, is left to the kernel over there. So is what a script's ``#!`` names:
whether that is there only the daemon host knows, and it says so when it executes the program.
"""

from __future__ import annotations

import os

from psync.errors import ExecError
from psync.model import HostFacts
from psync.sync.elf import LONGEST_NAME, Elf, ElfError, Header, parse_elf, parse_header
from psync.sync.plan import OUTSIDE, TREE, SyncPlan
from psync.text import printable

# Machines that may execute each other's programs, now and then with the help of an option.
_FAMILIES = (
    {"x86_64", "amd64", "x32", "i386", "i486", "i586", "i686"},
    {"aarch64", "arm64", "arm", "armv8l", "armv7l", "armv6l", "armv5tel", "armv5tejl"},
    {"aarch64_be", "armeb", "armv7b", "armv8b"},
    {"riscv64", "riscv32"},
    {"ppc64le"},
    {"ppc64", "ppc"},
    {"s390x", "s390"},
    {"loongarch64", "loongarch32"},
    {"mips64el", "mipsel", "mips64", "mips"},  # uname -m does not tell their byte orders apart
    {"sparc64", "sparc"},
)
_FAMILY = {name: number for number, names in enumerate(_FAMILIES) for name in names}

_MACH_O = (
    *(b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf"),
    *(b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe"),
)

_TRIPLES = {"x86_64", "aarch64", "i686", "s390x"}
"""Machines whose Rust triple is MACHINE-unknown-linux-gnu."""


def program_path(plan: SyncPlan) -> bytes | None:
    """Return where the program of a plan is on this machine, None for a bare command."""
    if plan.program is None:
        return None
    part, _, path = plan.program.partition(b"/")
    assert part in (TREE, OUTSIDE)
    return os.path.join(plan.project.root if part == TREE else b"/", path)


def same_family(one: str, other: str) -> bool:
    """Whether two machines, as ``uname -m`` calls them, are CPUs of one kind."""
    return one == other or _FAMILY.get(one, one) == _FAMILY.get(other, other)


def fits(plan: SyncPlan, facts: HostFacts) -> bool:
    """Whether ``check_program`` lets the program pass."""
    try:
        check_program(plan, facts)
    except ExecError:
        return False
    return True


def check_program(plan: SyncPlan, facts: HostFacts) -> None:
    """Make sure that the daemon host may be able to execute what is to be sent.

    Reads a few kilobytes of the program, however large it is.

    Args:
        plan: what is to be sent.
        facts: what the daemon says about its host. Words it does not say count as unknown.

    Raises:
        ExecError: it cannot; says what the program is, what the host is and what to do.
    """
    path = program_path(plan)
    if path is None or not facts.system:
        return
    name, host = printable(os.path.basename(path)), printable(facts.hostname)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return  # rsync has the words for it
    try:
        head = os.pread(descriptor, 64, 0)
        _check_system(head, name, host, facts)
        header = parse_header(head)
        if header is None:
            return
        if header.core:
            raise ExecError(f"{name} is a memory dump", hint="name the program itself")
        emulated = header.machine in facts.emulated
        if not emulated:
            _check_cpu(header, name, host, facts)
        if emulated or facts.system != "Linux":
            return
        _check_loader(parse_elf(lambda at, size: os.pread(descriptor, size, at)), name, host, facts)
    except (OSError, ElfError):
        return  # what is damaged may still be good enough for the kernel over there
    finally:
        os.close(descriptor)


def _check_system(head: bytes, name: str, host: str, facts: HostFacts) -> None:
    system = printable(facts.system)
    if head[:4] in _MACH_O and facts.system != "Darwin":
        raise ExecError(
            f"{name} was built for macOS, and {host} runs {system}",
            hint=f"build it for {system} on {printable(facts.machine)}{_such_as(facts)}",
        )
    if head[:4] == b"\x7fELF" and facts.system == "Darwin":
        raise ExecError(
            f"{name} was built for Linux or the like, and {host} runs macOS",
            hint=f"build it for macOS on {printable(facts.machine)}",
        )


def _check_cpu(header: Header, name: str, host: str, facts: HostFacts) -> None:
    ours, theirs = _FAMILY.get(header.machine), _FAMILY.get(facts.machine)
    if ours is None or theirs is None or ours == theirs:
        return
    raise ExecError(
        f"{name} was built for {header.machine}, and {host} is {facts.machine}",
        hint=f"build it for {facts.machine}{_such_as(facts)}",
    )


def _check_loader(elf: Elf | None, name: str, host: str, facts: HostFacts) -> None:
    if elf is None or elf.interpreter is None or len(elf.interpreter) >= LONGEST_NAME:
        return
    # Only of these does the daemon say whether they are there; where it has none, it said nothing.
    if elf.interpreter not in LOADERS or not facts.loaders or elf.interpreter in facts.loaders:
        return
    loader = printable(elf.interpreter)
    if elf.header.bits == 32 and facts.machine in ("x86_64", "aarch64"):
        hint = "install the 32-bit C library there, or build it for " + facts.machine
    else:
        hint = "build it for the C library that is there, or link it statically"
    raise ExecError(f"{name} needs the dynamic loader {loader}, which {host} lacks", hint=hint)


def _such_as(facts: HostFacts) -> str:
    if facts.system != "Linux" or facts.machine not in _TRIPLES:
        return ""
    return f", such as with cargo build --target {facts.machine}-unknown-linux-gnu"


LOADERS = (
    b"/lib64/ld-linux-x86-64.so.2",
    b"/libx32/ld-linux-x32.so.2",
    b"/lib/ld-linux.so.2",
    b"/lib/ld-linux-aarch64.so.1",
    b"/lib/ld-linux-armhf.so.3",
    b"/lib/ld-linux.so.3",
    b"/lib/ld-linux-riscv64-lp64d.so.1",
    b"/lib64/ld64.so.2",
    b"/lib64/ld64.so.1",
    b"/lib/ld64.so.1",
    b"/lib64/ld-linux-loongarch-lp64d.so.1",
    *(
        b"/lib/ld-musl-" + name + b".so.1"
        for name in (b"x86_64", b"i386", b"aarch64", b"armhf", b"arm", b"riscv64", b"powerpc64le")
    ),
    b"/lib/ld-musl-s390x.so.1",
    b"/lib/ld-musl-loongarch64.so.1",
)
"""Dynamic loaders of the usual C libraries for Linux; a daemon says which of them its host has."""
