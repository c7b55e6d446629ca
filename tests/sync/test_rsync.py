"""What a transfer brings over, with a real rsync, here and behind a real sshd."""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest
from tests.sync.world import World

from psync.sync.plan import TREE, Tree
from psync.sync.rsync import Remote, rsync_argv

ODD_NAMES = [
    b"a b",
    b"new\nline",
    b"-rf",
    b"#comment",
    b";comment",
    b"host:path",
    b"\xff\xfe",
    b"ta\tb \x1b[31m",
    b"qu'ote\"s",
    b"wild*[card]?",
    b"back\\slash\\#101",
    b"$HOME `id`",
    "größe".encode(),
    b"...",
]


def test_the_layout_is_mirrored(anywhere: World, tmp_path: Path) -> None:
    anywhere.program()
    anywhere.file("assets/level 1/map.bin", b"\0map")
    anywhere.file("not asked for")
    elsewhere = tmp_path / "elsewhere/fonts"
    elsewhere.mkdir(parents=True)
    (elsewhere / "f.ttf").write_bytes(b"font")

    plan = anywhere.plan("build/game", assets=["assets", str(elsewhere)])
    summary = anywhere.sync(plan).wait()

    assert plan.program is not None
    assert anywhere.mirrored() == {
        "tree/build/game": b"#!/bin/sh\n",
        "tree/assets/level 1/map.bin": b"\0map",
        f"outside{elsewhere}/f.ttf": b"font",
    }
    assert os.access(os.path.join(os.fsencode(anywhere.mirror), plan.program), os.X_OK)
    assert summary.files == 3
    assert summary.bytes_sent > 0
    assert anywhere.warnings == []


def test_a_whole_tree_goes_without_its_vcs(anywhere: World) -> None:
    anywhere.file(".git/HEAD")
    anywhere.file("sub/.git", b"gitdir: ../.git")
    anywhere.file("sub/a")
    anywhere.sync().wait()
    assert set(anywhere.mirrored()) == {"tree/psync.toml", "tree/sub/a"}


def test_any_name_arrives(anywhere: World) -> None:
    for name in ODD_NAMES:
        anywhere.file(name, name)
        anywhere.file(b"dir " + name + b"/x", name)
    named = [*ODD_NAMES, *(b"dir " + name for name in ODD_NAMES)]
    anywhere.sync(anywhere.plan(assets=named)).wait()
    tree = os.path.join(os.fsencode(anywhere.mirror), TREE)
    assert sorted(set(os.listdir(tree)) - {b".psync-mirror"}) == sorted(named)
    for name in ODD_NAMES:
        for path in (name, b"dir " + name + b"/x"):
            with open(os.path.join(tree, path), "rb") as file:
                assert file.read() == name


def test_nothing_is_sent_twice(anywhere: World) -> None:
    anywhere.program()
    plan = anywhere.plan("build/game")
    assert anywhere.sync(plan).wait().files == 1
    assert anywhere.sync(plan).wait().files == 0


def test_a_rebuild_of_equal_size_within_the_second_is_sent(anywhere: World) -> None:
    program = anywhere.program(content=b"#!/bin/sh\n#1")
    second = 1_700_000_000 * 10**9
    os.utime(program, ns=(second, second + 1_000_000))
    anywhere.sync(anywhere.plan("build/game")).wait()

    anywhere.program(content=b"#!/bin/sh\n#2")
    os.utime(program, ns=(second, second + 2_000_000))
    assert anywhere.sync(anywhere.plan("build/game")).wait().files == 1
    assert anywhere.mirrored()["tree/build/game"] == b"#!/bin/sh\n#2"


def test_an_older_file_replaces_a_newer_one(anywhere: World) -> None:
    program = anywhere.program()
    anywhere.sync(anywhere.plan("build/game")).wait()
    (anywhere.mirror / "tree/build/game").write_bytes(b"newer and longer, written over there")
    os.utime(program, ns=(0, 0))
    anywhere.sync(anywhere.plan("build/game")).wait()
    assert anywhere.mirrored()["tree/build/game"] == program.read_bytes()


def test_a_program_that_is_being_executed_is_replaced(anywhere: World) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    program = anywhere.root / "sleeper"
    shutil.copy(sleep, program)
    anywhere.sync(anywhere.plan("./sleeper")).wait()
    copy = anywhere.mirror / "tree/sleeper"
    process = subprocess.Popen([copy, "600"])
    try:
        with pytest.raises(OSError, match="Text file busy"):
            copy.write_bytes(b"")
        with program.open("ab") as file:
            file.write(b"rebuilt")
        assert anywhere.sync(anywhere.plan("./sleeper")).wait().files == 1
        assert copy.read_bytes().endswith(b"rebuilt")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(10)


def test_what_the_program_wrote_over_there_stays(anywhere: World) -> None:
    anywhere.program()
    plan = anywhere.plan("build/game")
    anywhere.sync(plan).wait()
    (anywhere.mirror / "tree/build/save.dat").write_bytes(b"level 7")
    anywhere.program(content=b"#!/bin/sh\n# new\n")
    anywhere.sync(plan).wait()
    assert anywhere.mirrored()["tree/build/save.dat"] == b"level 7"


def test_permissions_are_sane_whatever_the_source_has(anywhere: World) -> None:
    anywhere.file("build/game", b"#!/bin/sh\n", 0o6777)
    anywhere.file("data/ro", mode=0o444)
    (anywhere.root / "data").chmod(0o555)
    try:
        for _ in range(2):
            anywhere.sync(anywhere.plan("build/game", assets=["data"])).wait()
            anywhere.file("build/game", b"#!/bin/sh\n# 2\n", 0o6777)
    finally:
        (anywhere.root / "data").chmod(0o755)
    tree = anywhere.mirror / "tree"
    assert stat.S_IMODE((tree / "build/game").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "data").stat().st_mode) == 0o755
    assert (tree / "build/game").stat().st_uid == os.geteuid()


def test_an_unsafe_link_stops_nothing_and_is_named(anywhere: World) -> None:
    anywhere.file("assets/a")
    (anywhere.root / "assets/inner").symlink_to("a")
    (anywhere.root / "assets/absolute").symlink_to("/etc/passwd")
    (anywhere.root / "assets/up").symlink_to("../../../up")
    os.mkfifo(anywhere.root / "assets/fifo")
    anywhere.sync(anywhere.plan(assets=["assets"])).wait()
    tree = anywhere.mirror / "tree/assets"
    assert sorted(os.listdir(tree)) == ["a", "inner"]
    assert os.readlink(tree / "inner") == "a"
    assert sorted(anywhere.warnings) == [
        "not sent: assets/fifo is not a regular file",
        "not sent: the link assets/absolute -> /etc/passwd leaves the project",
        "not sent: the link assets/up -> ../../../up leaves the project",
    ]


def test_a_link_that_is_named_is_followed(anywhere: World, tmp_path: Path) -> None:
    big = tmp_path / "big data"
    (big / "sub").mkdir(parents=True)
    (big / "sub/x").write_bytes(b"x")
    (big / "gone").symlink_to("nowhere")
    (anywhere.root / "data").symlink_to(big)
    anywhere.file("real/y", b"y")
    (anywhere.root / "short").symlink_to("real/y")
    anywhere.program()

    anywhere.sync(anywhere.plan("build/game", assets=["data", "short"])).wait()

    assert anywhere.mirrored() == {
        "tree/build/game": b"#!/bin/sh\n",
        "tree/data/sub/x": b"x",
        "tree/short": b"y",
    }
    assert anywhere.warnings == [f"not sent: the link {big}/gone leads nowhere"] or (
        anywhere.warnings == [f"not sent: the link {anywhere.root}/data/gone leads nowhere"]
    )


def test_a_program_behind_links_arrives_at_its_real_place(anywhere: World) -> None:
    anywhere.program("out/v2/game")
    (anywhere.root / "latest").symlink_to("out/v2")
    plan = anywhere.plan("latest/game")
    anywhere.sync(plan).wait()
    assert plan.program == b"tree/out/v2/game"
    assert set(anywhere.mirrored()) == {"tree/out/v2/game"}


def test_the_working_directory_exists_over_there(anywhere: World) -> None:
    anywhere.program()
    name = "crates/odd [*] \\name"
    anywhere.file(f"{name}/source.rs")
    plan = anywhere.plan("../../build/game", cwd=anywhere.root / name)
    anywhere.sync(plan).wait()
    assert os.listdir(os.path.join(os.fsencode(anywhere.mirror), plan.cwd)) == []
    assert set(anywhere.mirrored()) == {"tree/build/game"}


def test_progress_is_told(anywhere: World) -> None:
    anywhere.file("big", os.urandom(3_000_000))
    began = time.monotonic()
    summary = anywhere.sync(anywhere.plan(assets=["big"])).wait()
    assert anywhere.progress[-1].bytes == 3_000_000
    assert anywhere.progress[-1].percent == 100
    assert anywhere.progress[-1].files == 1
    assert summary.bytes_sent >= 3_000_000
    assert 0 < summary.seconds <= time.monotonic() - began


def test_variables_that_change_rsync_have_no_effect(
    anywhere: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RSYNC_RSH", "RSYNC_PARTIAL_DIR", "RSYNC_ICONV", "RSYNC_OLD_ARGS"):
        monkeypatch.setenv(name, "nonsense")
    anywhere.file("a b")
    assert anywhere.sync(anywhere.plan(assets=["a b"])).wait().files == 1


def test_what_is_near_is_not_compressed() -> None:
    tree = Tree(b"/p", (b"x",), TREE)
    far = Remote(shell=(b"ssh",), address="a", rsync=b"rsync")
    near = Remote(shell=(b"ssh",), address="a", rsync=b"rsync", compress=False)
    assert "-z" in rsync_argv(tree, rsync="rsync", mirror=b"/m", remote=far)[0]
    argv, _ = rsync_argv(tree, rsync="rsync", mirror=b"/m", remote=near)
    assert "-s" in argv
    assert "-z" not in argv


def test_the_command_line_hides_nothing_from_a_shell() -> None:
    tree = Tree(b"/p", (b"-a", b"x"), TREE, empty=(b"w*[\\",))
    remote = Remote(
        shell=(b"ssh", b"-F", b"/a b/it's", b'-oControlPath="/c"'),
        address="u@::1",
        rsync=b"/opt/my rsync",
    )
    argv, feed = rsync_argv(tree, rsync="/usr/bin/rsync", mirror=b"/m n", remote=remote)
    assert argv[-3:] == ["--", b"/p/", b"u@[::1]:/m n/tree/"]
    assert argv[argv.index("-e") + 1] == b"ssh -F '/a b/it''s' '-oControlPath=\"/c\"'"
    assert b"--rsync-path='/opt/my rsync'" in argv
    assert "--inplace" not in argv
    assert "--update" not in argv
    assert feed == b"./-a\0./x\0./w*[\\\0"
