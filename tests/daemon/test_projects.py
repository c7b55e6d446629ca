"""Mirrors: whose they are, and what leaves them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from psync.daemon.projects import Marker, Projects
from psync.errors import DestinationError, Refused


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(str(tmp_path / "projects"))


def opened(projects: Projects, name: str = "game") -> str:
    return projects.open(name, client="desk-1", source=b"/src/\xff", host="desk")


def test_a_project_is_private_and_marked(projects: Projects) -> None:
    path = opened(projects)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert sorted(os.listdir(path)) == ["outside", "project.json", "tree"]
    marker = msgspec.json.decode(Path(path, "project.json").read_bytes(), type=Marker)
    assert (marker.client, marker.source, marker.host) == ("desk-1", b"/src/\xff", "desk")
    Path(path, "tree/file").touch()
    assert opened(projects) == path == projects.check("game", client="desk-1")
    assert Path(path, "tree/file").exists()
    assert msgspec.json.decode(Path(path, "project.json").read_bytes(), type=Marker) == marker


def test_it_belongs_to_one_client(projects: Projects) -> None:
    opened(projects)
    with pytest.raises(Refused, match="another client"):
        projects.open("game", client="laptop-2", source=b"/src", host="laptop")
    with pytest.raises(Refused, match="ever synced"):
        projects.check("game", client="laptop-2")
    with pytest.raises(Refused, match="ever synced"):
        projects.check("other", client="desk-1")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "A", "-x", "x\n", "x" * 81, "é"])
def test_what_is_no_id(projects: Projects, name: str) -> None:
    with pytest.raises(Refused, match="not a project's ID"):
        opened(projects, name)
    assert not os.path.exists(projects.root)


def test_a_directory_that_cannot_be_made(projects: Projects) -> None:
    Path(projects.root).touch()
    with pytest.raises(DestinationError, match="cannot be made"):
        opened(projects)


@pytest.mark.parametrize(
    "path", [b"tree", b"tree/a", b"outside/usr/lib/x", b"tree/\xff", b"tree/."]
)
def test_paths_that_stay_inside(projects: Projects, path: bytes) -> None:
    directory = opened(projects)
    assert os.fsencode(projects.resolve(directory, path)) == os.fsencode(directory) + b"/" + path


@pytest.mark.parametrize(
    "path", [b"", b"/", b"/tree", b"..", b"tree/../..", b"tree/a/..", b"project.json", b"tree/\0"]
)
def test_paths_that_are_none_of_a_mirror(projects: Projects, path: bytes) -> None:
    directory = opened(projects)
    with pytest.raises(Refused, match="not a path in"):
        projects.resolve(directory, path)


def test_links_that_lead_out(projects: Projects, tmp_path: Path) -> None:
    directory = opened(projects)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (Path(directory) / "tree/out").symlink_to(elsewhere)
    (Path(directory) / "tree/in").symlink_to("real")
    (Path(directory) / "tree/real").mkdir()
    with pytest.raises(Refused, match="link"):
        projects.resolve(directory, b"tree/out/x")
    with pytest.raises(Refused, match="link"):
        projects.working_directory(directory, b"tree/out")
    with pytest.raises(Refused, match="link"):
        projects.working_directory(directory, b"tree/out/new")
    assert list(elsewhere.iterdir()) == []
    assert projects.resolve(directory, b"tree/in/x").endswith("tree/in/x")
    assert os.path.isdir(projects.working_directory(directory, b"tree/in/new"))
    # the mirror itself may be reached through a link, and may not be one
    os.rename(f"{directory}/outside", tmp_path / "moved")
    os.symlink(tmp_path / "moved", f"{directory}/outside")
    with pytest.raises(Refused, match="link"):
        projects.resolve(directory, b"outside/x")
    linked = tmp_path / "linked"
    linked.symlink_to(projects.root)
    assert Projects(str(linked)).resolve(f"{linked}/game", b"tree/x")


def test_a_file_where_the_working_directory_should_be(projects: Projects) -> None:
    directory = opened(projects)
    Path(directory, "tree/file").touch()
    assert projects.working_directory(directory, b"tree/file").endswith("tree/file")
    with pytest.raises(DestinationError, match="cannot be made"):
        projects.working_directory(directory, b"tree/file/below")
