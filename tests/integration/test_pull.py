"""``psync pull``, over each way to a mirror."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field, lines
from tests.support.waiting import wait_until

ODD = [b"slot 1", b"-rf", b"co:lon", b"new\nline", b"\xff\xfe", b"back\\slash", b"it's", b"a[1]"]


@pytest.fixture(scope="module", params=["local", "ssh", "websocket"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    """A project whose run has written files into its mirror."""
    with Field(sshd=request.param != "local") as made:
        if request.param != "local":
            made.pair()
            text = made.config.read_text()
            made.config.write_text(f'{text}transport = "{request.param}"\n')
        (made.project / "src").mkdir()
        (made.project / "src/main.c").write_text("int main;\n")
        done = made.psync("run", "sh", "-c", "mkdir -p saves/deep; echo 1 > saves/deep/one")
        assert done.returncode == 0, done.stderr
        yield made


@pytest.fixture
def mirror(field: Field) -> Path:
    """The mirror of the project's root."""
    (found,) = (
        path
        for home in (field.server_home, field.local_home)
        for path in (home / "data/projects").glob("my-game-*")
    )
    return found / "tree"


@pytest.fixture(autouse=True)
def clean(field: Field) -> Iterator[None]:
    yield
    shutil.rmtree(field.project / "pulled", ignore_errors=True)


def pulled(field: Field) -> dict[bytes, bytes]:
    top = os.fsencode(field.project / "pulled")
    found = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            content = (
                os.readlink(path) if os.path.islink(path) else Path(os.fsdecode(path)).read_bytes()
            )
            found[os.path.relpath(path, top)] = content
    assert found.pop(b".gitignore").endswith(b"\n*\n")
    return found


def test_what_a_run_wrote_comes_back(field: Field, mirror: Path) -> None:
    done = field.psync("pull", "saves/")
    assert done.returncode == 0, done.stderr
    assert pulled(field) == {b"saves/deep/one": b"1\n"}
    assert lines(done.stderr)[-1].startswith("psync: pulled 1 file into pulled, 2 bytes in ")
    done = field.psync("pull", "saves")
    assert "nothing new: 1 file in pulled the same already" in done.stderr.decode()
    (mirror / "saves/deep/one").write_text("2\n")
    (field.project / "pulled/saves/mine").write_text("mine")
    assert field.psync("pull", "saves/deep/one").returncode == 0
    assert pulled(field) == {b"saves/deep/one": b"2\n", b"saves/mine": b"mine"}
    (mirror / "saves/deep/one").write_text("1\n")


def test_names_are_exact(field: Field, mirror: Path) -> None:
    top = os.fsencode(mirror / "odd")
    os.mkdir(top)
    for name in ODD:
        Path(os.fsdecode(os.path.join(top, name))).write_bytes(name)
    done = field.psync("pull", "--", *(b"odd/" + name for name in ODD))
    assert done.returncode == 0, done.stderr
    assert pulled(field) == {b"odd/" + name: name for name in ODD}
    shutil.rmtree(field.project / "pulled")
    done = field.psync("pull", b"odd/[!a-z]*", cwd=field.project)
    assert done.returncode == 0, done.stderr
    assert sorted(pulled(field)) == [b"odd/-rf", b"odd/\xff\xfe"]
    shutil.rmtree(mirror / "odd")


def test_paths_are_taken_from_where_one_stands(field: Field, mirror: Path) -> None:
    (mirror / "src/core").write_bytes(b"core")
    done = field.psync("pull", "core", "../saves", cwd=field.project / "src")
    assert done.returncode == 0, done.stderr
    (field.project / "src/pulled").rename(field.project / "pulled")
    assert pulled(field) == {b"core": b"core", b"saves/deep/one": b"1\n"}
    done = field.psync("pull", str(field.project / "src/c*"))
    assert done.returncode == 0, done.stderr
    assert pulled(field)[b"src/core"] == b"core"
    (mirror / "src/core").unlink()


def test_what_is_not_there_is_named(field: Field) -> None:
    done = field.psync("pull", "saves", "nothing/here", "*.png")
    assert done.returncode == 125
    assert (
        "has no nothing/here, *.png; psync pull -n ., with the same --on, lists"
        in done.stderr.decode()
    )
    assert b"saves/deep/one" in pulled(field)
    (field.project / "new").mkdir()
    done = field.psync("pull", "x", cwd=field.project / "new")
    assert (done.returncode, lines(done.stderr)[0].split(";")[0]) == (
        125,
        f"psync: the mirror on {'this machine' if field.sshd is None else 'there'} has no x",
    )
    shutil.rmtree(field.project / "new")
    with Field(sshd=False) as other:
        done = other.psync("pull", "saves")
        assert done.returncode == 125
        assert "the mirror on this machine has no saves" in done.stderr.decode()


def test_a_dry_run_lists(field: Field) -> None:
    done = field.psync("pull", "-n", ".")
    assert done.returncode == 0, done.stderr
    assert b"pull saves/deep/one\npull src/main.c\n" in done.stdout
    assert not (field.project / "pulled").exists()
    assert field.psync("pull", "saves").returncode == 0
    done = field.psync("pull", "-n", "saves")
    assert (done.stdout, done.returncode) == (b"", 0)
    assert done.stderr.startswith(b"psync: nothing new: 1 file in pulled the same already")


def test_json_says_what_came(field: Field) -> None:
    said = json.loads(field.psync("pull", "--json", "saves").stdout)
    assert said["pulled"] == [{"path": "saves/deep/one", "size": 2}]
    assert said["into"].endswith("/my game/pulled")
    said = json.loads(field.psync("pull", "--json", "saves").stdout)
    assert (said["pulled"], said["same"]) == ([], 1)


def test_the_source_is_not_written_over_unless_asked(field: Field, mirror: Path) -> None:
    (mirror / "src/main.c").write_text("changed there\n")
    source = field.project / "src/main.c"
    done = field.psync("pull", "-o", ".", "src")
    assert done.returncode == 2
    assert "--overwrite-source" in done.stderr.decode()
    assert source.read_text() == "int main;\n"
    done = field.psync("pull", "--overwrite-source", "main.c", cwd=field.project / "src")
    assert done.returncode == 0, done.stderr
    assert source.read_text() == "changed there\n"
    source.write_text("int main;\n")
    assert field.psync("sync").returncode == 0


def test_what_was_pulled_is_not_sent_back(field: Field) -> None:
    assert field.psync("pull", "saves").returncode == 0
    done = field.psync("sync", "-n")
    assert b"pulled/" not in done.stdout


def test_links_stay_inside(field: Field, mirror: Path) -> None:
    (mirror / "links").mkdir()
    for name, target in {"in": "../saves", "out": "../../../x", "abs": "/etc"}.items():
        (mirror / "links" / name).symlink_to(target)
    done = field.psync("pull", "links")
    assert done.returncode == 0, done.stderr
    assert pulled(field) == {b"links/in": b"../saves"}
    assert "warning: not pulled: links/out: it is a link to ../../../x" in done.stderr.decode()
    assert "warning: not pulled: links/abs" in done.stderr.decode()
    done = field.psync("pull", "links/abs/passwd")
    assert (done.returncode, b"has no links/abs/passwd" in done.stderr) == (125, True)
    shutil.rmtree(mirror / "links")


def test_interrupted_it_leaves_whole_files(field: Field, mirror: Path) -> None:
    size = 256 << 20
    with open(mirror / "big", "wb") as big:
        for _ in range(size >> 20):
            big.write(os.urandom(1 << 20))
    process = field.start("pull", "saves", "big")
    top = field.project / "pulled/.psync-partial"
    wait_until(lambda: list(top.glob("pull-*/aside/big.*")) if top.exists() else False)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert b"while files were pulled; what had arrived whole by then is kept\n" in said
    assert not top.exists()
    assert pulled(field) in ({}, {b"saves/deep/one": b"1\n"})
    (mirror / "big").unlink()
