"""Words that try to become options of ssh or rsync, or to have something run on the client."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field, lines

# whatever executes this leaves a trace
TRACE = "psync-was-here"


@pytest.fixture(scope="module")
def paired() -> Iterator[Field]:
    with Field() as field:
        field.pair()
        yield field


@pytest.fixture
def alone() -> Iterator[Field]:
    with Field(sshd=False) as field:
        yield field


def trap(field: Field, name: str = "trap") -> tuple[str, Path]:
    """A program of this machine that must not be executed here, and the trace it would leave."""
    path, trace = field.directory / name, field.directory / f"{name}.{TRACE}"
    path.write_text(f"#!/bin/sh\necho executed > '{trace}'\nexit 1\n")
    path.chmod(0o755)
    return str(path), trace


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    (line,) = lines(done.stderr)
    assert line.startswith("psync: ")
    assert "a defect in psync" not in line and "Traceback" not in line
    assert done.returncode != 0
    assert done.stdout == b""
    return line


# -- hosts and targets ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand={trap}",
        "-F{trap}",
        "me@-oProxyCommand={trap}",
        "-me@host",
        "ssh://-oProxyCommand={trap}",
        "ssh://-oProxyCommand={trap}/",
        "ssh://me@-oProxyCommand={trap}:22",
        "host -oProxyCommand={trap}",
        "host\n-oProxyCommand={trap}",
        "host\t-oProxyCommand={trap}",
        "ssh://host:22 -oProxyCommand={trap}",
        "\x1b[2J",
        "",
    ],
)
def test_hosts(alone: Field, host: str) -> None:
    program, trace = trap(alone)
    host = host.format(trap=program)
    refused(alone.psync("pair", "--name", "x", "--", host))
    alone.config.parent.mkdir(parents=True, exist_ok=True)
    # the same by hand in the user's own file, with the look of a pairing
    quoted = host.replace("\n", "\\n").replace("\t", "\\t").replace("\x1b", "\\u001b")
    alone.config.write_text(f'[targets.x]\nhost = "{quoted}"\n')
    for words in (["run", "--on", "x", "true"], ["ps", "--on", "x"]):
        refused(alone.psync(*words))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "../x", "a/b", "", ".", "..", "a\nb", "-"])
def test_names_of_targets(alone: Field, name: str) -> None:
    refused(alone.psync("pair", f"--name={name}", "host"))
    for words in (["run", f"--on={name}", "true"], ["sync", f"--on={name}"]):
        if name:
            refused(alone.psync(*words))
            refused(alone.psync(*words[:1], *words[2:], env={"PSYNC_TARGET": name}))
    assert not (alone.data / "targets").exists()


def test_variables_of_psync_hold_no_options(alone: Field) -> None:
    program, trace = trap(alone)
    for name in ("PSYNC_TARGET", "PSYNC_ON_DISCONNECT", "PSYNC_OVERFLOW"):
        refused(alone.psync("run", "true", env={name: f"-oProxyCommand={program}"}))
    assert not trace.exists()


# -- programs, arguments, assets ------------------------------------------------------------------

OPTIONS = [
    "-e",
    "--rsync-path=trap",
    "-oProxyCommand=trap",
    "--files-from=x",
    "--delete",
    ":host",
    "host:path",
    "rsync://host/x",
    "::module",
    "#comment",
    ";comment",
    "a\nb",
    " ",
    "*",
    "[a-z]",
    "$(touch trap)",
    "`touch trap`",
    "'",
    '"',
    "\\",
    "~root",
    "!x",
    "+ x",
    "- x",
]


QUICK = ("-e", "--rsync-path=trap", "host:path", "a\nb", "$(touch trap)", " ", "- x")
SOME = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in OPTIONS]


@pytest.mark.parametrize("name", SOME)
def test_programs_with_names_like_options(paired: Field, name: str) -> None:
    paired.script(name, 'echo "ran $0"; printf "%s\\n" "$@"')
    done = paired.psync("run", "--", f"./{name}", "-e", "--rsync-path=x", "-oProxyCommand=y")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"-e\n--rsync-path=x\n-oProxyCommand=y\n")
    assert (paired.mirror() / "tree" / name).is_file()
    (paired.project / name).unlink()


@pytest.mark.parametrize("word", [*SOME, "\udcff\udcfe", "caf\udce9", "x" * 255])
def test_assets_with_names_like_options(paired: Field, word: str) -> None:
    name = os.fsencode(word)
    path = os.fsencode(paired.project) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path)).write_bytes(b"an asset")
    try:
        # "=": argparse would take it for an option of psync's, which is as it should be
        done = paired.psync("sync", b"--assets=" + name)
        assert done.returncode == 0, done.stderr
        there = os.fsencode(paired.mirror()) + b"/tree/" + name
        assert Path(os.fsdecode(there)).read_bytes() == b"an asset"
        done = paired.psync("run", b"--assets=./" + name, "cat", b"./" + name)
        assert (done.returncode, done.stdout) == (0, b"an asset"), done.stderr
    finally:
        os.unlink(path)


def test_directories_with_names_like_options(paired: Field) -> None:
    assert paired.psync("run", "--no-sync", "true").returncode == 0
    shutil.rmtree(paired.mirror() / "tree")  # it may hold files of the same names
    (paired.mirror() / "tree").mkdir(mode=0o700)
    for name in QUICK:
        directory = paired.project / name
        directory.mkdir(parents=True, exist_ok=True)
        done = paired.psync("run", "--no-sync", "pwd", cwd=directory)
        assert done.returncode == 0, done.stderr
        shown = os.path.normpath(os.fsencode(name))
        assert done.stdout.removesuffix(b"\n").endswith(shown), name
        directory.rmdir()


@pytest.mark.parametrize("path", ["../outside.txt", "{directory}/outside.txt", "./../outside.txt"])
def test_assets_outside_of_the_project_stay_apart(paired: Field, path: str) -> None:
    """The user may name them; what they become on the other host is not theirs to say."""
    (paired.directory / "outside.txt").write_text("beside")
    done = paired.psync("sync", f"--assets={path.format(directory=paired.directory)}")
    assert done.returncode == 0, done.stderr
    mirror = paired.mirror()
    assert (mirror / f"outside{paired.directory}/outside.txt").read_text() == "beside"
    assert not (mirror / "outside.txt").exists()
    assert not (mirror.parent / "outside.txt").exists()


@pytest.mark.parametrize(
    "path", [b"a" * 4096, b"a/" * 2000 + b"b", b"\n", b"no\xff", b"/proc/no-such/x"]
)
def test_assets_that_are_none(paired: Field, path: bytes) -> None:
    for words in (("sync",), ("run",)):
        rest = () if words == ("sync",) else ("true",)
        refused(paired.psync(*words, b"--assets=" + path, *rest))


# -- the environment ------------------------------------------------------------------------------


def test_the_clients_environment_changes_no_transfer(paired: Field) -> None:
    """What rsync would take from its environment: a shell of its own, options, another host."""
    program, trace = trap(paired)
    paired.script("game", "echo ran")
    env = {
        "RSYNC_RSH": program,
        "RSYNC_CONNECT_PROG": program,
        "RSYNC_PROXY": "127.0.0.1:1",
        "RSYNC_PROTECT_ARGS": "0",
        "RSYNC_OLD_ARGS": "1",
        "RSYNC_ICONV": "utf-8,latin1",
        "RSYNC_PARTIAL_DIR": "/tmp/psync-partial",
        "RSYNC_SKIP_COMPRESS": "*",
        "RSYNC_SHELL": program,
        "POPT_ALIASES": program,
        "CVS_RSH": program,
        "GIT_SSH_COMMAND": program,
        "SSH_PROXY_COMMAND": program,
    }
    done = paired.psync("run", "./game", env=env)
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr
    assert not trace.exists()


def test_variables_of_the_program_stay_the_programs(paired: Field) -> None:
    """``-e`` and ``[run.env]`` reach the program over there, and nothing on the way."""
    program, trace = trap(paired)
    names = ("RSYNC_RSH", "LD_PRELOAD", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "PSYNC_SSH", "ENV")
    words = [word for name in names for word in ("-e", f"{name}={program}")]
    done = paired.psync("run", *words, "/usr/bin/env")
    assert done.returncode == 0
    assert f"RSYNC_RSH={program}".encode() in done.stdout.splitlines()
    assert not trace.exists()
    assert paired.psync("run", "true").returncode == 0  # the daemon is as it was
    for name in (b"", b"=x", b"A=B\0C"):
        if b"\0" not in name:
            refused(paired.psync("run", "-e", name, "true"))


# -- a project that was merely downloaded ----------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '[targets.evil]\nssh = "{trap}"\n',
        '[targets.there]\nssh = "{trap}"\n',
        'ssh = "{trap}"\n',
        '[run]\nssh = "{trap}"\n',
        '[targets.evil]\nhost = "-oProxyCommand={trap}"\n',
        '[targets.evil]\nhost = "x"\nca = "{trap}"\ncert = "{trap}"\nkey = "{trap}"\n',
        'target = "-oProxyCommand={trap}"\n',
        '[run]\nhooks = ["{trap}"]\n',
        '[sync]\nrsync = "{trap}"\n',
        '[targets."-oProxyCommand={trap}"]\nhost = "x"\n',
    ],
)
def test_a_projects_file_runs_nothing_here(paired: Field, tmp_path: Path, text: str) -> None:
    program, trace = trap(paired)
    project = tmp_path / "downloaded"
    project.mkdir()
    (project / "psync.toml").write_text(text.format(trap=program))
    for words in (["run", "true"], ["sync"], ["run", "--on", "evil", "true"]):
        refused(paired.psync(*words, cwd=project, env={"PSYNC_TARGET": ""}))
    assert not trace.exists()


def test_a_projects_file_redirects_no_target(paired: Field, tmp_path: Path) -> None:
    project = tmp_path / "downloaded"
    project.mkdir()
    (project / "psync.toml").write_text(
        'target = "there"\n[targets.there]\nhost = "elsewhere.invalid"\n'
        'connect = "direct"\naddress = "192.0.2.1:1"\n'
    )
    done = paired.psync("run", "echo", "here", cwd=project, env={"PSYNC_TARGET": ""})
    assert (done.returncode, done.stdout) == (0, b"here\n"), done.stderr


def test_a_projects_own_target_is_nobody_until_it_is_paired(paired: Field, tmp_path: Path) -> None:
    """Not even ssh is asked, which might run a ProxyCommand of the user's for that host."""
    program, trace = trap(paired)
    project = tmp_path / "downloaded"
    project.mkdir()
    (project / "psync.toml").write_text('target = "evil"\n[targets.evil]\nhost = "evil.invalid"\n')
    for words in (["run", "true"], ["sync"], ["ps"]):
        env = {"PSYNC_SSH": program, "PSYNC_TARGET": ""}
        assert "not paired" in refused(paired.psync(*words, cwd=project, env=env))
    assert not trace.exists()


@pytest.mark.parametrize("table", ["sync]\ninclude", "run]\nassets"])
@pytest.mark.parametrize(
    "path",
    ["../secret", "{home}/secret", "x/../../secret", "link", "link/secret", "a/link"],
)
def test_a_projects_file_takes_no_files_of_the_user(
    paired: Field, tmp_path: Path, table: str, path: str
) -> None:
    """Else whoever runs a downloaded project would hand its program over there a private key."""
    (tmp_path / "secret").write_text("the user's own")
    project = tmp_path / "downloaded"
    (project / "a").mkdir(parents=True)
    (project / "link").symlink_to(tmp_path)
    (project / "a/link").symlink_to(tmp_path / "secret")
    (project / "psync.toml").write_text(f'[{table} = ["{path.format(home=tmp_path)}"]\n')
    for words in (["sync"], ["run", "true"]):
        line = refused(paired.psync(*words, cwd=project))
        assert "psync.toml:2" in line or "does not exist" in line
    for mirror in paired.mirrors():
        if mirror.name.startswith("downloaded-"):
            assert not [path for path in mirror.rglob("secret") if path.is_file()]


def test_links_in_a_project_bring_nothing_from_outside(paired: Field, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the user's own")
    project = tmp_path / "linked"
    (project / "data").mkdir(parents=True)
    (project / "psync.toml").write_text('[sync]\ninclude = ["."]\n')
    (project / "data/file").symlink_to("../../secret")
    (project / "data/absolute").symlink_to(tmp_path / "secret")
    (project / "data/directory").symlink_to(tmp_path)
    done = paired.psync("sync", cwd=project)
    assert done.returncode == 0, done.stderr
    (mirror,) = (one for one in paired.mirrors() if one.name.startswith("linked-"))
    found = {path.name for path in mirror.rglob("*")}
    assert "psync.toml" in found
    assert not found & {"secret", "file", "absolute", "directory"}


def test_a_link_in_the_mirror_leads_no_transfer_out_of_it(paired: Field, tmp_path: Path) -> None:
    """What an earlier run has made of a directory in its mirror."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (paired.project / "saves").mkdir()
    (paired.project / "saves/game.sav").write_text("one")
    assert paired.psync("sync", "--assets=saves").returncode == 0
    mirror = paired.mirror() / "tree"
    (mirror / "saves/game.sav").unlink()
    (mirror / "saves").rmdir()
    (mirror / "saves").symlink_to(victim)
    (paired.project / "saves/game.sav").write_text("two, and longer")
    paired.psync("sync", "--assets=saves")
    assert list(victim.iterdir()) == []
