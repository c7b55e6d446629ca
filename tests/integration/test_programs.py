"""Programs and what they need: for the right machine, with their libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
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


# -- shared libraries --------------------------------------------------------------------------


def compiled(path: Path, source: str, *options: str | Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".c").write_text(source)
    subprocess.run(
        ["gcc", "-o", path, f"{path}.c", *options], check=True, capture_output=True, timeout=60
    )
    return path


def library(path: Path, name: str, source: str, *options: str | Path) -> Path:
    return compiled(path, source, "-shared", "-fPIC", f"-Wl,-soname,{name}", *options)


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler")


@needs_gcc
def test_libraries_of_the_build_are_sent_and_found(paired: Field) -> None:
    project = paired.project
    outside = paired.directory / "toolchain"
    inner = library(outside / "libinner.so", "libinner.so", "int inner(void) { return 40; }\n")
    library(
        project / "target/deps/libouter.so",
        "libouter.so",
        "int inner(void); int outer(void) { return inner() + 2; }\n",
        inner,
    )
    compiled(
        project / "target/game",
        "int outer(void); int main(void) { return outer(); }\n",
        project / "target/deps/libouter.so",
        "-Wl,--allow-shlib-undefined",
    )
    (project / ".gitignore").write_text("/target\n")
    search = {"LD_LIBRARY_PATH": f"{project}/target/deps:{outside}"}
    done = paired.psync("run", "-e", "LD_LIBRARY_PATH=/own", "./target/game", env=search)
    assert (done.stderr, done.returncode) == (b"", 42)
    mirror = paired.mirror()
    assert (mirror / "tree/target/deps/libouter.so").is_file()
    assert (mirror / f"outside{inner}").is_file()
    assert not list(mirror.rglob("libc.so*"))
    assert not (mirror / "tree/target/game.c").exists()

    # what is found over there is what was sent, and a new one is sent again
    library(outside / "libinner.so", "libinner.so", "int inner(void) { return 5; }\n")
    assert paired.psync("run", "./target/game", env=search).returncode == 7
    assert paired.psync("run", "--no-sync", "./target/game", env=search).returncode == 7
    done = paired.psync("run", "--no-sync", "./target/game")
    assert done.returncode == 127
    assert b"libouter.so" in done.stderr

    paired.python("shown", "import os; print(os.environ['LD_LIBRARY_PATH'])\n")
    assert paired.psync("run", "-e", "LD_LIBRARY_PATH=/own", "./shown").stdout == b"/own\n"


@needs_gcc
def test_libraries_beside_the_program_need_no_variable(paired: Field) -> None:
    project = paired.project
    real = library(project / "lib/libside.so.1.0", "libside.so.1", "int side(void) { return 9; }\n")
    (project / "lib/libside.so.1").symlink_to(real.name)
    compiled(
        project / "bin/aside",
        "int side(void); int main(void) { return side(); }\n",
        real,
        "-Wl,-rpath,$ORIGIN/../lib",
    )
    done = paired.psync("run", "bin/aside")
    assert (done.stderr, done.returncode) == (b"", 9)


# -- stripping ---------------------------------------------------------------------------------


@needs_gcc
@pytest.mark.skipif(shutil.which("strip") is None, reason="no strip")
def test_a_stripped_copy_is_sent_and_the_original_kept(paired: Field) -> None:
    def mirrored() -> bytes:
        return (paired.mirror() / "tree/build/big").read_bytes()

    def build(status: int) -> bytes:
        source = f"int main(void) {{ return {status}; }}\n"
        return compiled(paired.project / "build/big", source, "-g").read_bytes()

    original = build(4)
    assert paired.psync("run", "./build/big").returncode == 4
    assert mirrored() == original
    done = paired.psync("run", "--strip", "debug", "./build/big")
    assert (done.stderr, done.returncode) == (b"", 4)
    assert len(mirrored()) < len(original)
    assert b".debug_info" not in mirrored()
    assert (paired.project / "build/big").read_bytes() == original

    build(5)
    (paired.project / "psync.toml").write_text('[sync]\nstrip = "debug"\n')
    try:
        # among other files, and again when nothing has changed
        for _ in range(2):
            done = paired.psync("run", "-A", "build", "./build/big")
            assert (done.stderr, done.returncode) == (b"", 5)
            assert b".debug_info" not in mirrored()
            assert (paired.mirror() / "tree/build/big.c").is_file()
    finally:
        (paired.project / "psync.toml").write_text("")
    assert paired.psync("run", "./build/big").returncode == 5
    assert b".debug_info" in mirrored()


def test_a_program_that_is_mostly_for_debuggers_is_told_once(paired: Field) -> None:
    machine = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine)
    if machine is None:
        pytest.skip("an unusual machine")
    large = paired.project / "large"
    large.write_bytes(elf(number=machine, sections=((b".debug_info", 60_000_000),)))
    large.chmod(0o755)
    hint = b"60 MB of large are for debuggers only; --strip debug sends it without them"
    assert hint in paired.psync("run", "./large").stderr
    (paired.mirror() / "tree/large").unlink()  # so that it is sent again
    assert hint not in paired.psync("run", "./large").stderr
    large.unlink()
