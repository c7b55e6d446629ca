import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from psync.errors import UsageError
from psync.model import is_project_id
from psync.sync.project import Project, find_project, project_id


def find(
    start: Path, program: Path | None = None, explicit: bytes | None = None, client: str = "me"
) -> Project:
    return find_project(
        start=os.fsencode(start),
        program=None if program is None else os.fsencode(program),
        explicit=explicit,
        client_id=client,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A directory below which nothing says that it belongs to a project."""
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


def test_the_root_is_the_nearest_psync_toml(work: Path) -> None:
    (work / ".git").mkdir()
    inner = work / "My Game!"
    (inner / "a/b").mkdir(parents=True)
    (inner / "psync.toml").touch()
    (inner / "a/.git").mkdir()
    project = find(inner / "a/b")
    assert project.root == os.fsencode(inner)
    assert project.name == "My Game!"
    assert project.id.startswith("my-game-")


@pytest.mark.parametrize("name", [".git", ".hg", ".jj", ".svn"])
def test_else_the_working_copy(work: Path, name: str) -> None:
    (work / name).touch()  # in a git worktree, .git is a file
    (work / "a").mkdir()
    assert find(work / "a", program=work / "a/game").root == os.fsencode(work)


def test_else_the_programs_directory_else_the_start(work: Path) -> None:
    (work / "build").mkdir()
    assert find(work, program=work / "build/game").root == os.fsencode(work / "build")
    assert find(work).root == os.fsencode(work)


def test_an_explicit_root_wins_and_is_relative_to_the_start(work: Path) -> None:
    (work / "psync.toml").touch()
    (work / "other").mkdir()
    assert find(work, explicit=b"other").root == os.fsencode(work / "other")
    with pytest.raises(UsageError, match="nowhere is not a directory"):
        find(work, explicit=b"nowhere")


def test_a_link_to_a_project_is_the_same_project(work: Path) -> None:
    (work / "real").mkdir()
    (work / "real/psync.toml").touch()
    (work / "link").symlink_to("real")
    assert find(work / "link") == find(work / "real")


def test_the_home_directory_is_no_project_by_itself(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(work))
    assert find(work).unbounded
    assert find(Path("/")).unbounded
    (work / "game").mkdir()
    assert not find(work / "game").unbounded
    assert not find(work, explicit=b".").unbounded
    (work / "psync.toml").touch()
    assert not find(work).unbounded


def test_ids_differ_by_client_and_by_place(work: Path) -> None:
    ids = {find(work, client=client).id for client in ("me", "you", "me")}
    assert len(ids) == 2
    (work / "work").mkdir()
    assert find(work / "work").id not in ids


@given(st.text(), st.lists(st.binary(min_size=1).filter(lambda name: b"/" not in name)))
def test_an_id_is_one_harmless_name_and_stable(client: str, names: list[bytes]) -> None:
    client = client.encode("utf-8", "replace").decode()
    root = b"/" + b"/".join(names)
    name = project_id(client, root)
    assert is_project_id(name)
    assert name == project_id(client, root)
    assert name != project_id(client + "x", root)


def test_the_id_that_was_always_given_to_a_project_stays() -> None:
    # Another value here would orphan the mirrors of everybody's projects.
    assert project_id("client-1", b"/home/u/My Game") == "my-game-1ee8f57365a0f598"


@pytest.mark.parametrize("text", ["", ".", "..", "-a", "a/b", "A", "a\n", "a" * 81, "ä"])
def test_what_is_no_id(text: str) -> None:
    assert not is_project_id(text)
