"""Files over psync's own connection, with real commands on both sides and no ssh anywhere."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.faults.proxy import Proxy
from tests.support.field import Field
from tests.support.waiting import alive, wait_until

MIB = 1 << 20
TOOLS = ("rsync", "git", "sh", "cat", "ls", "env")


@pytest.fixture
def field() -> Iterator[Field]:
    """A client that was invited; neither side has an ssh."""
    with Field(sshd=False) as field:
        tools = field.directory / "tools"
        tools.mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found is not None, name
            (tools / name).symlink_to(found)
        field.env["PATH"] = str(tools)
        assert shutil.which("ssh", path=field.env["PATH"]) is None
        invitation = field.server("invite").stdout.decode()
        done = field.psync("pair", "--invite", invitation.strip(), "--name", "there")
        assert done.returncode == 0, done.stderr
        field.env["PSYNC_TARGET"] = "there"
        yield field


def servers(field: Field) -> list[int]:
    """The processes of rsyncs that work in a mirror of this field's daemon."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            place = os.readlink(f"/proc/{name}/cwd")
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--server" in words and place.startswith(f"{field.server_home}/"):
            found.append(int(name))
    return found


def freeze(field: Field) -> list[int]:
    """Wait for an rsync of the daemon, and stop all of it: it cannot end now."""
    wait_until(lambda: servers(field))
    found: set[int] = set()
    while new := set(servers(field)) - found:
        signal_all(new, signal.SIGSTOP)
        found |= new
    return sorted(found)


def signal_all(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """All processes that one has started."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
            parents.setdefault(int(words[1]), []).append(int(name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def test_it_is_what_an_invitation_sets(field: Field) -> None:
    assert 'transport = "websocket"' in field.config.read_text()
    # who has chosen otherwise is not overruled by another invitation
    text = field.config.read_text().replace('"websocket"', '"ssh"')
    field.config.write_text(text)
    invitation = field.server("invite").stdout.decode()
    assert field.psync("pair", "--invite", invitation.strip(), "--name", "there").returncode == 0
    assert 'transport = "ssh"' in field.config.read_text()


def test_files_arrive_change_and_go(field: Field) -> None:
    field.script("show", "cat data; ls sub")
    data = field.project / "data"
    data.write_text("first\n")
    (field.project / "sub").mkdir()
    (field.project / "sub/one").touch()
    (field.project / "sub/two words").touch()
    words = ("run", "-A", "data", "-A", "sub", "./show")
    done = field.psync(*words)
    assert (done.returncode, done.stdout) == (0, b"first\none\ntwo words\n"), done.stderr
    data.write_text("other\n")
    (field.project / "sub/one").unlink()
    done = field.psync(*words)
    assert (done.returncode, done.stdout) == (0, b"other\ntwo words\n"), done.stderr
    done = field.psync("sync")
    assert done.returncode == 0, done.stderr
    assert (field.mirror() / "tree/sub").is_dir()


def test_a_dry_run_changes_nothing(field: Field) -> None:
    (field.project / "data").write_text("x")
    assert field.psync("sync").returncode == 0
    (field.project / "data").unlink()
    (field.project / "new").write_text("y")
    done = field.psync("sync", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert b"new" in done.stdout
    assert (field.mirror() / "tree/data").exists()
    assert not (field.mirror() / "tree/new").exists()


def test_ctrl_c_in_the_middle_leaves_nothing_running(field: Field) -> None:
    (field.project / "big").write_bytes(os.urandom(16 * MIB))
    process = field.start("sync")
    there = freeze(field)
    here = descendants(process.pid)
    assert any(b"remote_shell.py" in _command(pid) for pid in here)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: not any(map(alive, here)))
    signal_all(there, signal.SIGCONT)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 130, said
    wait_until(lambda: not any(map(alive, there)))
    assert not (field.mirror() / "tree/big").exists()
    refused = field.psync("run", "--no-sync", "cat", "big")
    assert refused.returncode == 125, refused  # the mirror may be a mixture
    assert field.psync("sync").returncode == 0
    assert (field.mirror() / "tree/big").stat().st_size == 16 * MIB


async def test_a_connection_that_is_cut_in_the_middle(field: Field) -> None:
    content = os.urandom(16 * MIB)
    (field.project / "big").write_bytes(content)
    daemon = field.daemon()
    assert daemon is not None
    async with Proxy(daemon["port"]) as proxy:
        text = re.sub(r"address = .*", f'address = "127.0.0.1:{proxy.port}"', _config(field))
        field.config.write_text(text)
        process = field.start("sync")
        there = await asyncio.to_thread(freeze, field)
        proxy.cut()
        async with asyncio.timeout(50):
            await proxy.wait_connections(2)
        signal_all(there, signal.SIGCONT)
        _, said = await asyncio.to_thread(process.communicate, timeout=50)
    assert process.returncode == 0, said
    assert (field.mirror() / "tree/big").read_bytes() == content
    wait_until(lambda: not servers(field))


def test_a_daemon_that_goes_away_in_the_middle(field: Field) -> None:
    (field.project / "big").write_bytes(os.urandom(16 * MIB))
    process = field.start("sync")
    there = freeze(field)
    field.kill_daemon()
    signal_all(there, signal.SIGCONT)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 125
    assert said.startswith(b"psync: ")
    assert said.count(b"\n") == 1
    assert field.server("start").returncode == 0
    wait_until(lambda: not servers(field))
    done = field.psync("sync")
    assert done.returncode == 0, done.stderr


def test_no_rsync_there(field: Field) -> None:
    (field.project / "data").touch()
    field.kill_daemon()
    elsewhere = str(field.directory)  # where there is no rsync
    assert field.server("start", env={"PATH": elsewhere}).returncode == 0
    done = field.psync("sync")
    assert done.returncode == 125
    assert b"rsync is not installed on there" in done.stderr
    assert b"install it on there" in done.stderr


def _config(field: Field) -> str:
    return field.config.read_text()


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
