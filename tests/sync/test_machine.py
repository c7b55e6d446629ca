"""Programs that the daemon host cannot execute are told from those that it may."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from tests.support.elves import elf

from psync.errors import ExecError
from psync.model import HostFacts
from psync.sync.machine import check_program, fits, program_path
from psync.sync.plan import plan_sync
from psync.sync.project import Project

LOADER = b"/lib64/ld-linux-x86-64.so.2"
HOST = HostFacts("deck", "Linux", "x86_64", b"/p", None, "/s", "psync-server 1", loaders=(LOADER,))


def check(folder: Path, content: bytes, outside: bool = False, **facts: object) -> None:
    root = folder / "project"
    root.mkdir(exist_ok=True)
    program = (folder if outside else root) / "game"
    program.write_bytes(content)
    project = Project("project-1", os.fsencode(root), "project")
    plan = plan_sync(project, cwd=project.root, program=os.fsencode(program), assets=(), include=())
    assert program_path(plan) == os.fsencode(program)
    host = msgspec.structs.replace(HOST, **facts)
    try:
        check_program(plan, host)
    except ExecError:
        assert not fits(plan, host)
        raise
    assert fits(plan, host)


AARCH64, ARM, I386, X86, RISCV = (
    elf(number=number, bits=bits)
    for number, bits in ((183, 64), (40, 32), (3, 32), (62, 64), (243, 64))
)


@pytest.mark.parametrize(
    ("program", "machine"),
    [
        (X86, "x86_64"),
        (X86, "amd64"),
        (I386, "x86_64"),  # the kernel over there knows whether it has that option
        (I386, "i686"),
        (ARM, "aarch64"),
        (ARM, "armv7l"),
        (AARCH64, "arm64"),
        (elf(number=8, bits=32, little=False), "mips"),
        (elf(number=247), "x86_64"),  # unknown here
        (AARCH64, "vax"),
        (b"#!/bin/sh\n", "x86_64"),
        (b"MZ" + bytes(80), "x86_64"),  # some hosts run even that
        (b"\x7fELF\x02\x01", "x86_64"),
    ],
)
@pytest.mark.parametrize("outside", [False, True])
def test_what_may_run_passes(tmp_path: Path, program: bytes, machine: str, outside: bool) -> None:
    check(tmp_path, program, outside, machine=machine, loaders=())


@pytest.mark.parametrize(
    ("program", "machine", "built"),
    [
        (AARCH64, "x86_64", "aarch64"),
        (ARM, "x86_64", "arm"),
        (X86, "aarch64", "x86_64"),
        (I386, "aarch64", "i386"),
        (RISCV, "x86_64", "riscv64"),
        (elf(number=21, little=False), "ppc64le", "ppc64"),
        (elf(number=22, little=False), "aarch64", "s390x"),
    ],
)
def test_another_cpu_is_refused(tmp_path: Path, program: bytes, machine: str, built: str) -> None:
    with pytest.raises(ExecError) as caught:
        check(tmp_path, program, machine=machine)
    assert caught.value.message == f"game was built for {built}, and deck is {machine}"
    assert caught.value.hint.startswith(f"build it for {machine}")
    assert caught.value.exit_status == 126


def test_the_hint_names_a_target(tmp_path: Path) -> None:
    with pytest.raises(ExecError) as caught:
        check(tmp_path, AARCH64)
    assert "cargo build --target x86_64-unknown-linux-gnu" in caught.value.hint


def test_what_is_emulated_over_there_passes(tmp_path: Path) -> None:
    program = elf(number=183, interpreter=b"/lib/ld-linux-aarch64.so.1")
    check(tmp_path, program, emulated=("aarch64",))


@pytest.mark.parametrize("head", [b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xce"])
def test_another_system_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(ExecError, match="built for macOS, and deck runs Linux"):
        check(tmp_path, head + bytes(80))
    check(tmp_path, head + bytes(80), system="Darwin")
    with pytest.raises(ExecError, match="deck runs macOS"):
        check(tmp_path, X86, system="Darwin")
    check(tmp_path, X86, system="FreeBSD", machine="amd64")


def test_a_missing_loader_is_refused(tmp_path: Path) -> None:
    check(tmp_path, elf(interpreter=LOADER))
    check(tmp_path, elf(interpreter=b"/nix/store/x/ld.so"))  # nobody has asked for that one
    musl = elf(interpreter=b"/lib/ld-musl-x86_64.so.1")
    check(tmp_path, musl, loaders=())  # an older daemon does not say
    with pytest.raises(ExecError, match=r"needs the dynamic loader /lib/ld-musl-x86_64.so.1, "):
        check(tmp_path, musl)
    with pytest.raises(ExecError, match="32-bit C library"):
        check(tmp_path, elf(number=3, bits=32, interpreter=b"/lib/ld-linux.so.2"))


def test_a_dump_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(ExecError, match="memory dump"):
        check(tmp_path, elf(kind=4))


def test_what_is_damaged_is_left_to_the_kernel(tmp_path: Path) -> None:
    check(tmp_path, elf(interpreter=b"/lib/ld-musl-x86_64.so.1")[:100])


def test_what_is_not_known_refuses_nothing(tmp_path: Path) -> None:
    check(tmp_path, AARCH64, system="", machine="")


def test_only_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def count(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal read
        data = pread(descriptor, size, offset)
        read += len(data)
        return data

    pread = os.pread
    monkeypatch.setattr(os, "pread", count)
    check(tmp_path, elf(interpreter=LOADER, needed=(b"libc.so.6",)) + bytes(50_000_000))
    assert 64 <= read < 20_000


def test_a_bare_command_and_a_program_that_went_away_pass(tmp_path: Path) -> None:
    project = Project("project-1", os.fsencode(tmp_path), "project")
    for program in (None, os.fsencode(tmp_path / "gone")):
        plan = plan_sync(project, cwd=project.root, program=program, assets=[b"x"], include=())
        check_program(plan, HOST)
