"""Shared libraries that a program brings along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.elves import elf

from psync.sync import libraries
from psync.sync.libraries import Libraries, find_libraries


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path.resolve() / "game"
    root.mkdir()
    return root


def put(path: Path, *needed: str, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [os.fsencode(name) for name in needed]
    path.write_bytes(elf(needed=names, kind=3, **options))  # type: ignore[arg-type]
    return path


def find(root: Path, program: Path, path: str | Path = "") -> tuple[list[Path], list[Path]]:
    found = find_libraries(
        os.fsencode(program), root=os.fsencode(root), path=os.fsencode(path), cwd=os.fsencode(root)
    )
    return (
        [Path(os.fsdecode(file)) for file in found.files],
        [Path(os.fsdecode(directory)) for directory in found.directories],
    )


def test_what_the_variable_names_and_all_that_needs(root: Path) -> None:
    program = put(root / "bin/game", "liba.so", "libc.so.6")
    a = put(root / "deps/liba.so", "libb.so", "libc.so.6")
    b = put(root / "more/libb.so", "liba.so")  # a circle
    put(root / "deps/libunused.so")
    paths = f"{root}/none:{root}/more:{root}/deps"
    assert find(root, program, paths) == ([a, b], [root / "more", root / "deps"])
    assert find(root, program, "none;more;deps") == ([a, b], [root / "more", root / "deps"])
    assert find(root, program) == ([], [])


def test_a_script_and_a_damaged_program_have_none(root: Path) -> None:
    script = root / "script"
    script.write_text("#!/bin/sh\n")
    assert find(root, script, root) == ([], [])
    script.write_bytes(elf(needed=(b"a",))[:90])
    assert find(root, script, root) == ([], [])
    assert find(root, root / "gone", root) == ([], [])


def test_the_system_keeps_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = put(root / "game", "liba.so", "libb.so")
    outside = root.parent / "usr/lib"
    put(outside / "liba.so", "libb.so")
    b = put(root / "libb.so")
    monkeypatch.setattr(libraries, "_SYSTEM", (os.fsencode(root.parent / "usr"),))
    # found there first, so it is not looked for any further
    assert find(root, program, f"{outside}:{root}") == ([b], [root])
    (root / "liba.so").symlink_to(outside / "liba.so")
    assert find(root, program, root) == ([b], [root])
    monkeypatch.setattr(libraries, "_SYSTEM", (os.fsencode(root.parent),))
    assert find(root, program, outside) == ([], [])
    assert find(root, program, root)[0] == [b]  # the project is never the system's


def test_a_directory_outside_of_the_project_that_the_user_names(root: Path) -> None:
    program = put(root / "game", "libstd.so")
    std = put(root.parent / "toolchain/libstd.so")
    assert find(root, program, std.parent) == ([std], [std.parent])


@pytest.mark.parametrize("kind", ["rpath", "runpath"])
def test_relative_to_the_program_needs_no_variable(root: Path, kind: str) -> None:
    program = put(root / "bin/game", "liba.so", **{kind: b"$ORIGIN/../lib:${ORIGIN}"})
    a = put(root / "lib/liba.so", "libb.so", **{kind: b"$ORIGIN/deep"})
    b = put(root / "lib/deep/libb.so")
    assert find(root, program) == ([a, b], [])


@pytest.mark.parametrize("kind", ["rpath", "runpath"])
def test_an_absolute_place_in_the_project_is_told_to_the_loader(root: Path, kind: str) -> None:
    program = put(root / "bin/game", "liba.so", **{kind: os.fsencode(root / "lib")})
    a = put(root / "lib/liba.so")
    assert find(root, program) == ([a], [root / "lib"])


def test_a_program_cannot_name_files_outside_of_the_project(root: Path) -> None:
    secret = put(root.parent / "secret/liba.so")
    for word in (os.fsencode(secret.parent), b"$ORIGIN/../secret"):
        program = put(root / "game", "liba.so", runpath=word)
        assert find(root, program) == ([], [])
    (root / "lib").symlink_to(secret.parent)
    assert find(root, put(root / "game", "liba.so", runpath=b"$ORIGIN/lib")) == ([], [])


def test_rpath_comes_first_and_counts_for_what_is_brought_along(root: Path) -> None:
    program = put(root / "game", "liba.so", rpath=b"$ORIGIN/one")
    a = put(root / "one/liba.so", "libb.so")
    b = put(root / "one/libb.so")
    put(root / "two/liba.so")
    put(root / "two/libb.so")
    assert find(root, program, root / "two") == ([a, b], [])


def test_runpath_comes_last_and_is_not_handed_on(root: Path) -> None:
    program = put(root / "game", "liba.so", "libc.so", runpath=b"$ORIGIN/one")
    put(root / "one/liba.so")
    a = put(root / "two/liba.so", "libb.so")
    put(root / "one/libb.so")
    c = put(root / "one/libc.so")
    assert find(root, program, root / "two") == ([a, c], [root / "two"])


def test_a_library_for_another_machine_is_passed_over(root: Path) -> None:
    program = put(root / "game", "liba.so")
    put(root / "one/liba.so", number=183)
    (root / "two").mkdir()
    (root / "two/liba.so").write_text("/* a linker script */")
    (root / "three/liba.so").mkdir(parents=True)
    a = put(root / "four/liba.so")
    assert find(root, program, "one:two:three:four") == ([a], [root / "four"])


def test_ways_through_links_are_made_straight(root: Path) -> None:
    real = put(root / "build/liba.so.1.2")
    (root / "build/liba.so.1").symlink_to(real.name)
    (root / "lib").symlink_to("build")
    found = ([root / "build/liba.so.1"], [root / "build"])
    assert find(root, put(root / "game", "liba.so.1"), root / "lib") == found
    assert find(root, put(root / "game", "liba.so.1", runpath=b"$ORIGIN/lib")) == found


def test_odd_names(root: Path) -> None:
    program = put(root / "game", "./libx.so", "/etc/passwd", "..", runpath=b"$ORIGIN:$LIB/x:rel::")
    put(root / "libx.so")
    assert find(root, program, f"{root}/$ORIGIN") == ([], [])


def test_where_the_mirrors_are() -> None:
    found = Libraries((), (b"/p/lib", b"/p", b"/x/y"))
    assert found.library_path(b"/p") == (b"tree/lib", b"tree", b"outside/x/y")
