"""Where a command stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.elves import elf

from psync.client.place import client_id, find_place
from psync.errors import ProgramNotFound, UsageError
from psync.paths import ClientPaths
from psync.sync.libraries import Libraries


@pytest.fixture
def paths(tmp_path: Path) -> ClientPaths:
    return ClientPaths.from_environ({"HOME": str(tmp_path / "home")})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "game"
    (project / "build").mkdir(parents=True)
    (project / "psync.toml").touch()
    program = project / "build" / "game"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(project)
    return project


def test_program_project_and_directory(project: Path, paths: ClientPaths) -> None:
    place = find_place(b"build/game", paths)
    assert place.program == bytes(project / "build/game")
    assert place.project.root == bytes(project)
    assert place.cwd == place.here == bytes(project)
    plan = place.plan(assets=[b"build"])
    assert plan.program == b"tree/build/game"
    assert plan.cwd == b"tree"
    (tree,) = plan.trees
    assert tree.entries == (b"build",)


def test_assets_are_named_from_where_the_command_is_typed(
    project: Path, paths: ClientPaths
) -> None:
    place = find_place(b"build/game", paths, cwd=b"build")
    assert place.cwd == bytes(project / "build")
    plan = place.plan(assets=[b"psync.toml"], include=[b"build"])
    assert plan.cwd == b"tree/build"
    (tree,) = plan.trees
    assert tree.entries == (b"build", b"psync.toml")


def test_the_project_is_that_of_the_directory_to_run_in(
    project: Path, paths: ClientPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_place(b"game/build/game", paths, cwd=b"game/build").project.root == bytes(project)


def test_a_bare_command_has_no_file(project: Path, paths: ClientPaths) -> None:
    assert find_place(b"python3", paths).program is None
    assert find_place(None, paths).program is None


def test_what_is_named_must_be_there(project: Path, paths: ClientPaths) -> None:
    with pytest.raises(ProgramNotFound, match="build/gmae does not exist"):
        find_place(b"build/gmae", paths)
    with pytest.raises(UsageError, match=r"nowhere is not a directory.*--cwd"):
        find_place(None, paths, cwd=b"nowhere")
    with pytest.raises(UsageError, match=r"nowhere is not a directory.*--project"):
        find_place(None, paths, root=b"nowhere")


def test_a_directory_that_is_gone(
    project: Path, paths: ClientPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="does not exist any more"):
        find_place(None, paths)
    monkeypatch.chdir(project)


def test_the_identity_is_made_once(paths: ClientPaths) -> None:
    first = client_id(paths)
    assert client_id(paths) == first


def test_the_programs_libraries(
    project: Path, paths: ClientPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_place(b"build/game", paths).libraries() == Libraries()  # a script
    assert find_place(None, paths).libraries() == Libraries()
    (project / "build/game").write_bytes(elf(needed=(b"liba.so",)))
    library = project / "lib/liba.so"
    library.parent.mkdir()
    library.write_bytes(elf())
    assert find_place(b"build/game", paths).libraries() == Libraries()
    monkeypatch.setenv("LD_LIBRARY_PATH", "lib")  # relative to where the command is typed
    found = find_place(b"build/game", paths, cwd=b"build").libraries()
    assert found == Libraries((bytes(library),), (bytes(library.parent),))
