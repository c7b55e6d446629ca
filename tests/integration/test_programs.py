"""Programs and what they need: for the right machine, with their libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.elves import elf
from tests.support.field import Field

FOREIGN = (183, "aarch64") if os.uname().machine != "aarch64" else (62, "x86_64")


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="ELF")
def test_a_program_for_another_cpu_is_refused_and_not_sent(field: Field) -> None:
    field.pair()
    game = field.project / "game"
    game.write_bytes(elf(number=FOREIGN[0]))
    game.chmod(0o755)
    words = f"game was built for {FOREIGN[1]}, and ".encode()
    # at first contact, and later, when the client knows the host
    for _ in range(2):
        done = field.psync("run", "./game")
        assert done.returncode == 126
        assert words in done.stderr
        assert b"build it for " in done.stderr
        assert not [path for path in field.server_home.rglob("game") if path.is_file()]
        kept = field.script("kept", "echo kept\n")
        assert field.psync("run", "./kept").stdout == b"kept\n"
        kept.unlink()
    assert field.psync("run", "--no-sync", "./game").returncode in (125, 126, 127)


def test_a_loader_that_is_not_there_is_named(field: Field) -> None:
    field.pair()
    game = field.project / "game"
    machine = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine)
    loader = (
        b"/lib/ld-musl-riscv64.so.1"  # no such program, but nothing else can be missing anywhere
    )
    if machine is None or Path(os.fsdecode(loader)).exists():
        pytest.skip("an unusual machine")
    game.write_bytes(elf(number=machine, interpreter=loader))
    game.chmod(0o755)
    done = field.psync("run", "./game")
    assert done.returncode == 126
    assert b"needs the dynamic loader /lib/ld-musl-riscv64.so.1, which " in done.stderr
