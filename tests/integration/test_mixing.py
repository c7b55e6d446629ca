"""Two clients, two checkouts, two targets, two users: nobody gets another one's files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.field import SOURCES, Field
from tests.support.waiting import alive, wait_until

NOBODY = 65534

SHOW = "cat data; ls\n"


@pytest.fixture
def shared(paired: Field) -> Field:
    paired.script("show", SHOW)
    (paired.project / "data").write_text("ours\n")
    return paired


def run(field: Field, *words: str, **options: Any) -> str:
    done = field.psync("run", "-A", "data", *words, "./show", **options)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def second_client(field: Field, name: str) -> dict[str, str]:
    """The environment of another client machine, paired with the same daemon."""
    home = field.directory / name
    home.mkdir()
    env = {"HOME": str(home), "PSYNC_TARGET": ""}
    assert field.sshd is not None
    done = field.psync("pair", field.sshd.alias, "--name", "there", env=env)
    assert done.returncode == 0, done.stderr
    return {**env, "PSYNC_TARGET": "there"}


def test_two_clients_with_a_project_at_the_same_place(shared: Field) -> None:
    other = second_client(shared, "home-2")
    assert run(shared) == "ours\ndata\nshow\n"
    (shared.project / "data").write_text("theirs\n")
    assert run(shared, env=other) == "theirs\ndata\nshow\n"
    # what one has there, the other has not touched
    done = shared.psync("run", "--no-sync", "./show")
    assert done.stdout == b"ours\ndata\nshow\n"


def test_two_checkouts_of_one_repository(shared: Field) -> None:
    other = shared.directory / "elsewhere" / shared.project.name
    shutil.copytree(shared.project, other)
    (other / "data").write_text("other branch\n")
    (shared.project / "data").write_text("this branch\n")
    for _ in range(2):
        assert run(shared) == "this branch\ndata\nshow\n"
        assert run(shared, cwd=other) == "other branch\ndata\nshow\n"


def test_two_checkouts_at_once(shared: Field) -> None:
    other = shared.directory / "beside" / shared.project.name
    shutil.copytree(shared.project, other)
    said: dict[Path, list[str]] = {shared.project: [], other: []}

    def again(where: Path) -> None:
        for number in range(4):
            (where / "data").write_text(f"{where.parent.name} {number}\n")
            said[where].append(run(shared, cwd=where))

    threads = [threading.Thread(target=again, args=(where,)) for where in said]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for where, texts in said.items():
        assert texts == [f"{where.parent.name} {number}\ndata\nshow\n" for number in range(4)]


def test_one_project_on_two_targets(shared: Field) -> None:
    """What one target is known to have says nothing about another one."""
    (shared.project / "data").write_text("first\n")
    assert run(shared) == "first\ndata\nshow\n"
    assert run(shared, "--on", "local") == "first\ndata\nshow\n"
    (shared.project / "data").write_text("second\n")
    assert run(shared, "--on", "local") == "second\ndata\nshow\n"
    done = shared.psync("run", "--no-sync", "./show")
    assert done.stdout == b"first\ndata\nshow\n"
    assert run(shared) == "second\ndata\nshow\n"


def test_two_names_of_one_target(shared: Field) -> None:
    assert shared.sshd is not None
    done = shared.psync("pair", shared.sshd.alias, "--name", "again")
    assert done.returncode == 0, done.stderr
    for number in range(3):
        for name in ("there", "again"):
            (shared.project / "data").write_text(f"{name} {number}\n")
            assert run(shared, "--on", name) == f"{name} {number}\ndata\nshow\n"


@pytest.fixture
def nobodys_home(shared: Field) -> Iterator[Path]:
    """A home directory of another user, who can read the project."""
    for path in (shared.directory, shared.project):
        path.chmod(0o755)
    home = shared.directory / "nobody"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    yield home
    daemon = home / ".local/share/psync/local/state/daemon.json"
    if daemon.exists():
        import json

        pid = json.loads(daemon.read_bytes())["pid"]
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_two_users_with_one_project(shared: Field, nobodys_home: Path) -> None:
    interpreter = _interpreter_for_all()
    if interpreter is None:
        pytest.skip("there is no interpreter of this version that everybody may execute")
    (shared.project / "data").write_text("shared\n")
    mine = run(shared, "--on", "local")
    done = subprocess.run(
        [
            interpreter,
            "-P",
            "-m",
            "psync.cli.main",
            "run",
            "--on",
            "local",
            "-A",
            "data",
            "./show",
        ],
        cwd=shared.project,
        env={
            **shared.env,
            "HOME": str(nobodys_home),
            "XDG_RUNTIME_DIR": "",
            "PSYNC_TARGET": "",
            "PYTHONPATH": f"{SOURCES}:{sysconfig.get_path('purelib')}",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=50,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    assert (done.stdout.decode(), done.stderr, done.returncode) == (mine, b"", 0)
    projects = nobodys_home / ".local/share/psync/local/data/projects"
    (mirror,) = projects.iterdir()
    assert {path.stat().st_uid for path in mirror.rglob("*")} == {NOBODY}
    assert mirror.name not in {
        path.name for path in (shared.local_home / "data/projects").iterdir()
    }


def _interpreter_for_all() -> str | None:
    """A Python that another user can execute, with the libraries of this one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        needed = (path, SOURCES, sysconfig.get_path("purelib"))
        if os.path.exists(path) and all(map(_readable_by_all, needed)):
            return path
    return None


def _readable_by_all(path: str) -> bool:
    above = [path, *map(str, Path(path).parents)]
    return all(os.stat(one).st_mode & 0o001 for one in above)
