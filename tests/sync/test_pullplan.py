"""What comes from where and goes where, and what it may not write over."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from psync.errors import UsageError
from psync.sync.project import Project
from psync.sync.pullplan import MARKER, PullPlan, check_destination, make_destination, plan_pull

PROJECT = Project(id="p-0123456789abcdef", root=b"/proj", name="proj")


def groups(plan: PullPlan) -> list[tuple[bytes, bytes, bytes, tuple[bytes, ...]]]:
    return [(one.part, one.base, one.prefix, one.names) for one in plan.groups]


@pytest.mark.parametrize(
    ("here", "typed", "group"),
    [
        (b"/proj", b"saves/x", (b"tree", b"", b"", (b"saves/x",))),
        (b"/proj", b"saves/", (b"tree", b"", b"", (b"saves",))),
        (b"/proj", b"./a/../b", (b"tree", b"", b"", (b"b",))),
        (b"/proj", b".", (b"tree", b"", b"", (b".",))),
        (b"/proj", b"-rf", (b"tree", b"", b"", (b"-rf",))),
        (b"/proj/sub", b"x", (b"tree", b"sub", b"", (b"x",))),
        (b"/proj/sub", b".", (b"tree", b"sub", b"", (b".",))),
        (b"/proj/sub", b"../x", (b"tree", b"", b"", (b"x",))),
        (b"/proj/sub", b"../subway", (b"tree", b"", b"", (b"subway",))),
        (b"/proj/sub", b"/proj/sub/x", (b"tree", b"sub", b"", (b"x",))),
        (b"/proj", b"/var/x", (b"outside", b"", b"outside", (b"var/x",))),
        (b"/else/where", b"x", (b"outside", b"else/where", b"", (b"x",))),
        (b"/else/where", b"/proj/x", (b"tree", b"", b"", (b"x",))),
    ],
)
def test_where_names_come_from(
    here: bytes, typed: bytes, group: tuple[bytes, bytes, bytes, tuple[bytes, ...]]
) -> None:
    assert groups(plan_pull(PROJECT, here, [typed], into=b"/into")) == [group]


def test_names_of_one_directory_come_together() -> None:
    plan = plan_pull(PROJECT, b"/proj/sub", [b"a", b"b", b"../c", b"a"], into=b"/into")
    assert groups(plan) == [
        (b"tree", b"sub", b"", (b"a", b"b")),
        (b"tree", b"", b"", (b"c",)),
    ]


def test_over_the_source_everything_goes_where_it_belongs() -> None:
    plan = plan_pull(PROJECT, b"/proj/sub", [b"a", b"../c"], over_source=True)
    assert (plan.into, groups(plan)) == (b"/proj", [(b"tree", b"", b"", (b"sub/a", b"c"))])
    with pytest.raises(UsageError, match="outside of the project"):
        plan_pull(PROJECT, b"/proj", [b"/etc/x"], over_source=True)


@pytest.mark.parametrize("typed", [b"", b".git/config", b"a/.psync-partial/b", b".GIT"])
def test_what_cannot_be_pulled(typed: bytes) -> None:
    with pytest.raises(UsageError):
        plan_pull(PROJECT, b"/proj", [typed])


@pytest.fixture(params=["git", "no git"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "proj"
    (root / "src").mkdir(parents=True)
    (root / "build").mkdir()
    (root / "build/out").touch()
    (root / "src/main.c").touch()
    (root / ".gitignore").write_text("build/\n*.log\nshots/\n")
    if request.param == "git":
        subprocess.run(["git", "init", "-q", str(root)], check=True, timeout=30)
    return root


def refuses(root: Path, *typed: str, into: str | None = None, exclude: bytes = b"") -> bool:
    project = Project(id=PROJECT.id, root=os.fsencode(root), name="proj")
    plan = plan_pull(
        project,
        os.fsencode(root),
        [os.fsencode(name) for name in typed],
        into=None if into is None else os.fsencode(into),
    )
    try:
        check_destination(plan, exclude=[exclude] if exclude else [], environ=os.environ)
    except UsageError as error:
        assert "--overwrite-source" in error.hint
        return True
    return False


def test_what_may_be_written_over(project: Path, tmp_path: Path) -> None:
    assert refuses(project, "src/main.c", into=".")
    assert refuses(project, "src", into=".")
    assert refuses(project, "new", into=".")
    assert refuses(project, ".", into=".")
    assert refuses(project, "x", into="new/directory")
    assert refuses(project, "*.log", into=".")  # nobody knows what comes
    assert not refuses(project, "a.log", into=".")
    assert not refuses(project, "src/main.c", into="build")
    assert not refuses(project, "*", into="build/deeper")
    assert not refuses(project, "x", into="shots")  # not there yet
    assert not refuses(project, "src/main.c", into=str(tmp_path / "else"))
    assert not refuses(project, "src", into="src", exclude=b"/src")


def test_the_default_is_made_so_that_it_is_left_alone(project: Path) -> None:
    assert not refuses(project, ".")
    here = os.fsencode(project)
    plan = plan_pull(Project(id=PROJECT.id, root=here, name="proj"), here, [b"."])
    make_destination(plan)
    assert (project / "pulled/.gitignore").read_bytes() == MARKER
    assert plan.keep == {b".gitignore", b".psyncignore"}
    assert not refuses(project, ".")
    (project / "pulled/x").touch()
    make_destination(plan)
    assert not refuses(project, ".", "x")
    (project / "pulled/.gitignore").unlink()
    assert refuses(project, "x")


def test_a_file_is_no_destination(project: Path) -> None:
    here = os.fsencode(project)
    plan = plan_pull(
        Project(id=PROJECT.id, root=here, name="proj"), here, [b"x"], into=b"src/main.c"
    )
    with pytest.raises(UsageError, match="no directory"):
        make_destination(plan)


def test_what_is_sent_from_outside_is_not_written_over(tmp_path: Path) -> None:
    source = os.fsencode(tmp_path / "assets")
    plan = plan_pull(PROJECT, b"/proj", [b"x"], into=source + b"/deep")
    with pytest.raises(UsageError):
        check_destination(plan, sources=[source], environ=os.environ)
    check_destination(plan, sources=[source + b"2"], environ=os.environ)
