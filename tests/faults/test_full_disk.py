"""A run fills the disk that the daemon keeps its state on: 16 MiB of tmpfs, in a mount namespace.

The tests run in a process of their own, which ends with the namespace and everything mounted in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.daemon import Home, python
from tests.support.waiting import wait_until

from psync.client.invited import introduce
from psync.errors import Refused, TrustError
from psync.protocol import messages as m
from psync.supervisor import record
from psync.supervisor.log import LogReader
from psync.transport.enrolment import EnrolRequest
from psync.transport.identity import ClientIdentity
from psync.transport.invitation import read_invitation

INSIDE = "PSYNC_TEST_FULL_DISK"
MIB = 1024 * 1024

# Ten megabytes that never repeat, and the exit status 7.
WRITES = python(
    "import sys, hashlib\n"
    "line = b''\n"
    "for number in range(10 * 16):\n"
    "    line = hashlib.sha512(line).digest()\n"
    "    sys.stdout.buffer.write(line * 1024)\n"
    "sys.stdout.flush()\n"
    "sys.exit(7)"
)


def written() -> bytes:
    """The output of ``WRITES``."""
    line, pieces = b"", []
    for _ in range(10 * 16):
        line = hashlib.sha512(line).digest()
        pieces.append(line * 1024)
    return b"".join(pieces)


def namespace() -> list[str]:
    """The command that gives a process mounts of its own; skips where nothing does."""
    command = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid():
        command[1:1] = ["--user", "--map-root-user"]
    try:
        mounted = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=30
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here, so no disk can be filled")
    if mounted.returncode:
        pytest.skip(f"no mounts of one's own here, so no disk can be filled: {mounted.stderr!r}")
    return command


@pytest.fixture
def home(request: pytest.FixtureRequest) -> Iterator[Home | None]:
    """A home whose state is on a small disk, in the namespace; outside of it the test's result."""
    if INSIDE not in os.environ:
        done = subprocess.run(
            [
                *namespace(),
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                f"{__file__}::{request.node.name}",
            ],
            env={**os.environ, INSIDE: "1"},
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=55,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield None
        return
    with Home() as home:
        mount(home.paths.state, 16)
        yield home
        for directory in home.runs():
            if (owner := record.read_owner(str(directory))).alive:
                os.kill(owner.pid, 9)


def mount(directory: str, size: int) -> None:
    """Have a disk of so many MiB there."""
    os.makedirs(directory, mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=700", "tmpfs", directory],
        check=True,
        timeout=30,
    )


def fill(directory: str) -> Path:
    """Leave not one byte on that disk."""
    path = Path(directory) / "all-the-rest"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return path


def ballast(home: Home, size: int) -> Path:
    """Something else that takes space on the disk."""
    path = Path(home.paths.state) / "ballast"
    path.write_bytes(bytes(size))
    return path


def free(home: Home) -> int:
    disk = os.statvfs(home.paths.state)
    return disk.f_bavail * disk.f_frsize


def length(home: Home, run_id: str) -> int:
    reader = LogReader(str(home.run(run_id)))
    try:
        return reader.end
    finally:
        reader.close()


async def filled(home: Home) -> str:
    """Have a run fill the disk that nobody looks at."""
    async with home.client() as client:
        run = client.start(*WRITES, disconnect_grace=None)
        run_id = await run.running()
    wait_until(lambda: not free(home))
    assert not (home.run(run_id) / record.EXIT).exists()
    return run_id


async def test_the_run_pauses_and_goes_on_when_there_is_room(home: Home | None) -> None:
    if home is None:
        return
    home.start()
    weight = ballast(home, 8 * MIB)
    run_id = await filled(home)
    async with home.client() as client:
        refused = await client.start("true").refused()
        assert "cannot be recorded" in refused.message
        assert "space" in refused.hint
        attached = client.attach(run_id)
        await attached.running()
        end = length(home, run_id)
        assert 6 * MIB < end < 9 * MIB
        await client.wait(lambda: attached.end >= end)
        assert written().startswith(attached.output)
        weight.unlink()
        assert (await attached.ended()).status.code == 7
        assert attached.output == written()
        assert (await client.start("true").ended()).status.code == 0
    assert "Traceback" not in home.log


@pytest.mark.parametrize("number", [9, 15])
async def test_the_daemon_can_be_replaced_and_the_record_lands(
    home: Home | None, number: int
) -> None:
    if home is None:
        return
    home.start()
    ballast(home, 8 * MIB)
    run_id = await filled(home)
    home.leave(number)
    home.start()
    async with home.client() as client:
        attached = client.attach(run_id)
        await attached.running()
        client.link.send(m.Stop(channel=attached.channel, kill=True))
        assert (await attached.ended()).status.signal == "SIGKILL"
        assert written().startswith(attached.output)
    assert record.read_exit(str(home.run(run_id))).signal == "SIGKILL"
    assert length(home, run_id) == attached.end
    assert "Traceback" not in home.log


async def test_a_run_that_is_watched_needs_room_only_for_what_was_not_read(
    home: Home | None,
) -> None:
    if home is None:
        return
    home.start()
    ballast(home, 11 * MIB)
    async with home.client() as client:
        run = client.start(*WRITES)
        ended = await run.ended()
    assert ended.status.code == 7
    assert run.output == written()


async def test_who_pairs_is_told_that_the_disk_is_full_and_is_not_to_blame(
    home: Home | None,
) -> None:
    if home is None:
        return
    mount(home.paths.data, 1)
    home.start()
    invited = home.server("invite")
    assert invited.returncode == 0, invited.stderr
    invitation = read_invitation(invited.stdout.decode().strip())
    rest = fill(home.paths.data)
    identity = ClientIdentity.load_or_create(str(home.directory / "desk"))
    request = EnrolRequest(name="desk", client_id=identity.client_id, csr=identity.csr("desk"))
    with pytest.raises(TrustError, match="No space left") as caught:
        await introduce(invitation, request)
    assert "was not used" in caught.value.hint
    assert home.paths.data not in str(caught.value)
    assert "not valid" not in home.log

    wrong = msgspec.structs.replace(invitation, secret=bytes(16))
    with pytest.raises(Refused, match="no such invitation"):  # that is so on a full disk, too
        await introduce(wrong, request)

    rest.unlink()
    assert (await introduce(invitation, request)).answer.client_cert
    assert "Traceback" not in home.log
