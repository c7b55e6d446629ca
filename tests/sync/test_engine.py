"""Whole syncs that go wrong, with a real rsync, a real ssh and a real sshd."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.sshd import PrivateSSHD
from tests.support.waiting import wait_until
from tests.sync.world import Going, World, processes_naming, shared

from psync.errors import (
    DestinationError,
    Interrupted,
    ProjectBusy,
    PsyncError,
    SSHError,
    SyncError,
    ToolMissing,
)
from psync.model import Tool
from psync.sync import mux
from psync.sync.engine import WARNINGS, Sync
from psync.sync.keeper import NoKeeper
from psync.sync.lock import Holder
from psync.sync.rsync import PARTIAL_DIR, MirrorMissing, Summary
from psync.sync.ssh import SharedConnection

ROOT = os.geteuid() == 0
STALL = 1_000_000


def failure(sync: Sync | Going) -> PsyncError:
    """Run a sync that must fail; whatever it says fits on one line and leaves nothing running."""
    with pytest.raises(PsyncError) as caught:
        sync.wait()
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()
    return caught.value


@pytest.fixture
def stalled(world: World, connection: SharedConnection) -> Iterator[tuple[World, Path]]:
    """A world with an old big file in its mirror and a new one that will stall half-way."""
    world.over_ssh(connection)
    world.file("big", b"old")
    plan = world.plan(assets=["big"])
    world.sync(plan).wait()
    world.file("big", os.urandom(4 * STALL))
    rsync, marker = world.stalling_rsync(STALL)
    world.over_ssh(connection, rsync)
    yield world, marker


def assert_old_or_resumable(world: World) -> None:
    """The old file is there, unfinished ones only in their directories, and nobody is at work."""
    wait_until(lambda: not processes_naming(str(world.directory)))
    files = world.mirrored()
    assert files.pop("tree/big") == b"old"
    assert all(f"/{PARTIAL_DIR}/" in name for name in files)


def test_a_look_ahead_is_used(anywhere: World) -> None:
    anywhere.program()
    sync = anywhere.sync(anywhere.plan("build/game"))
    sync.begin_looking()
    assert sync.wait().files == 1


def test_what_a_look_ahead_did_not_find_is_said_by_wait(anywhere: World) -> None:
    sync = anywhere.sync(anywhere.plan(assets=["nothing"]))
    sync.begin_looking()
    assert "nothing does not exist" in failure(sync).message


def test_a_look_ahead_that_is_not_wanted_any_more_ends(world: World) -> None:
    for number in range(2000):
        world.file(f"d{number % 100}/f{number}")
    sync = world.sync()
    sync.begin_looking()
    sync.close()
    assert "look at the files" not in {thread.name for thread in threading.enumerate()}
    assert world.mirrored() == {}


def test_a_project_unknown_to_the_daemon_is_told_apart(anywhere: World) -> None:
    anywhere.program()
    shutil.rmtree(anywhere.mirror)
    error = failure(anywhere.sync(anywhere.plan("build/game")))
    assert isinstance(error, MirrorMissing)
    assert not anywhere.mirror.exists()
    anywhere.make_mirror()
    assert anywhere.sync(anywhere.plan("build/game")).wait().files == 1


def test_what_does_not_exist_is_named_before_anything_is_sent(anywhere: World) -> None:
    anywhere.program()
    error = failure(anywhere.sync(anywhere.plan("build/game", assets=["no such\nthing"])))
    assert "no such\\nthing does not exist" in error.message
    assert "--assets" in error.hint
    assert anywhere.mirrored() == {}


def test_warnings_are_bounded(world: World) -> None:
    for number in range(WARNINGS + 5):
        (world.root / f"link{number}").symlink_to("/nowhere")
    world.sync().wait()
    assert len(world.warnings) == WARNINGS + 1
    assert world.warnings[-1] == "not sent: 5 more of the kind"


# Broken half-way


def test_cancel_stops_the_transfer_with_its_ssh(stalled: tuple[World, Path]) -> None:
    world, marker = stalled
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    sync.cancel()
    assert isinstance(failure(sync), Interrupted)
    assert_old_or_resumable(world)
    summary = world.sync(world.plan(assets=["big"])).wait()
    assert summary.files == 1
    assert world.mirrored() == {"tree/big": (world.root / "big").read_bytes()}


def test_cancel_from_a_signal_handler(stalled: tuple[World, Path]) -> None:
    world, marker = stalled
    sync = world.sync(world.plan(assets=["big"]))
    before = signal.signal(signal.SIGINT, lambda number, frame: sync.cancel())

    def interrupt() -> None:
        wait_until(marker.exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert isinstance(failure(sync), Interrupted)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert_old_or_resumable(world)


def test_an_exception_in_a_callback_leaves_nothing_running(stalled: tuple[World, Path]) -> None:
    world, _ = stalled

    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        raise Stop

    sync = Sync(
        world.plan(assets=["big"]), endpoint=world.endpoint, state=world.state, on_progress=stop
    )
    with pytest.raises(Stop):
        sync.wait()
    assert_old_or_resumable(world)


def test_a_cancel_between_two_steps_counts(world: World) -> None:
    class Cancelling(NoKeeper):
        def begin(self) -> None:
            sync.cancel()

    world.program()
    sync = world.sync(world.plan("build/game"), keeper=Cancelling())
    assert isinstance(failure(sync), Interrupted)
    assert "tree/build/game" not in world.mirrored()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_link_on_which_nothing_moves_is_given_up_and_replaced(
    stalled: tuple[World, Path], connection: SharedConnection
) -> None:
    world, marker = stalled
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    master = mux.alive(connection.control_path, 10)
    os.kill(master, signal.SIGSTOP)
    try:
        assert sync.wait().files == 1
    finally:
        os.kill(master, signal.SIGKILL)
    wait_until(lambda: not processes_naming("stalling rsync"))
    assert world.mirrored()["tree/big"] == (world.root / "big").read_bytes()


def test_rsync_killed_half_way(stalled: tuple[World, Path]) -> None:
    world, marker = stalled
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    os.kill(sync.pids[0], signal.SIGKILL)
    assert "SIGKILL" in failure(sync).message
    assert_old_or_resumable(world)


def test_a_connection_that_dies_half_way_is_opened_again(
    stalled: tuple[World, Path], connection: SharedConnection
) -> None:
    world, marker = stalled
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    os.kill(mux.alive(connection.control_path, 10), signal.SIGKILL)
    assert sync.wait().files == 1
    assert connection.is_open()
    wait_until(lambda: not processes_naming("stalling rsync"))
    assert world.mirrored() == {"tree/big": (world.root / "big").read_bytes()}


def test_a_host_that_goes_away_half_way(world: World, own_sshd: PrivateSSHD, control: Path) -> None:
    connection = shared(own_sshd, control)
    connection.open()
    rsync, marker = world.stalling_rsync(STALL)
    world.over_ssh(connection, rsync)
    world.file("big", os.urandom(4 * STALL))
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    own_sshd.stop()
    error = failure(sync)
    assert isinstance(error, SSHError)
    assert "Connection refused" in error.message
    assert "tree/big" not in world.mirrored()


def test_a_file_that_is_not_readable_is_named(world: World) -> None:
    if ROOT:
        pytest.skip("root may read everything")
    world.program()
    world.file("assets/secret", mode=0o000)
    error = failure(world.sync(world.plan("build/game", assets=["assets"])))
    assert "assets/secret" in error.message
    assert "Permission denied" in error.message


# The other side cannot take the files


@pytest.fixture
def small_disk(anywhere: World) -> Iterator[World]:
    """A world whose mirrors are on a disk of 1 MiB."""
    if not ROOT:
        pytest.skip("only root may mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(anywhere.projects)]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("mounting is not possible here")
    try:
        anywhere.make_mirror()
        yield anywhere
    finally:
        subprocess.run(["umount", "-l", str(anywhere.projects)], check=True)


def test_a_full_disk_is_named_and_the_old_file_stays(small_disk: World) -> None:
    small_disk.file("big", b"old")
    small_disk.sync(small_disk.plan(assets=["big"])).wait()
    small_disk.file("big", os.urandom(4_000_000))
    error = failure(small_disk.sync(small_disk.plan(assets=["big"])))
    assert isinstance(error, DestinationError)
    assert "disk is full" in error.message
    assert "No space left on device" in error.message
    assert "df -h" in error.hint
    assert small_disk.mirrored()["tree/big"] == b"old"
    # and what had arrived does not keep it full
    assert not list(small_disk.projects.rglob(".psync-partial"))
    small_disk.file("other", os.urandom(500_000))
    assert small_disk.sync(small_disk.plan(assets=["other"])).wait().files == 1


def test_a_destination_that_is_not_writable(anywhere: World) -> None:
    anywhere.program()
    mirror = str(anywhere.mirror)
    if ROOT:
        bind = ["mount", "--bind", "-o", "ro", mirror, mirror]
        if subprocess.run(bind, stderr=subprocess.DEVNULL).returncode != 0:
            pytest.skip("mounting is not possible here")
        undo = ["umount", "-l", mirror]
    else:
        # rsync would give itself the right to write to a directory of its own
        (anywhere.mirror / "tree").rmdir()
        anywhere.mirror.chmod(0o555)
        undo = ["chmod", "755", mirror]
    try:
        error = failure(anywhere.sync(anywhere.plan("build/game")))
    finally:
        subprocess.run(undo, check=True)
    assert isinstance(error, DestinationError)
    assert "not writable" in error.message
    assert error.hint
    assert anywhere.mirrored() == {}


def test_a_directory_in_the_place_of_a_file(anywhere: World) -> None:
    anywhere.program()
    anywhere.file("x")
    (anywhere.mirror / "tree/x/full").mkdir(parents=True)
    (anywhere.mirror / "tree/x/full/save").touch()
    error = failure(anywhere.sync(anywhere.plan("build/game", assets=["x"])))
    assert isinstance(error, DestinationError)
    assert "x" in error.message
    assert (anywhere.mirror / "tree/x/full/save").exists()


# Tools


def test_no_rsync_here(world: World, tmp_path: Path) -> None:
    error = failure(world.sync(environ={"PATH": str(tmp_path)}))
    assert isinstance(error, ToolMissing)
    assert error.message == "rsync is not installed on this machine"


@pytest.mark.parametrize(
    "rsync", [None, Tool("/usr/bin/rsync", "2.6.9"), Tool("/x", "openrsync 1")]
)
def test_no_usable_rsync_there(
    world: World, connection: SharedConnection, rsync: Tool | None
) -> None:
    world.over_ssh(connection)
    world.endpoint.rsync = rsync  # type: ignore[union-attr]
    error = failure(world.sync())
    assert isinstance(error, ToolMissing)
    assert "on laptop" in error.message


def test_an_rsync_there_that_has_gone(world: World, connection: SharedConnection) -> None:
    world.over_ssh(connection, Tool("/opt/gone/rsync", "3.2.7"))
    error = failure(world.sync())
    assert isinstance(error, ToolMissing)
    assert "cannot be started on laptop" in error.message
    assert "install rsync on laptop" in error.hint


def test_a_chatty_shell_over_there(world: World, control: Path) -> None:
    with PrivateSSHD(noise="welcome\n") as sshd:
        connection = shared(sshd, control)
        world.over_ssh(connection)
        error = failure(world.sync())
        connection.close()
    assert isinstance(error, SSHError)
    assert "start-up files" in error.message
    assert "ssh daemon-host true" in error.hint


def test_a_banner_and_noise_on_stderr_do_no_harm(world: World, control: Path) -> None:
    with PrivateSSHD(banner="Authorized use only\n", noise_stderr="motd\n") as sshd:
        connection = shared(sshd, control)
        world.over_ssh(connection)
        world.program()
        assert world.sync(world.plan("build/game")).wait().files == 1
        connection.close()


# The connection


def test_a_closed_connection_is_opened(world: World, connection: SharedConnection) -> None:
    connection.close()
    world.over_ssh(connection)
    world.program()
    assert world.sync(world.plan("build/game")).wait().files == 1
    assert connection.is_open()


def test_a_dead_socket_in_the_way(world: World, connection: SharedConnection) -> None:
    world.over_ssh(connection)
    world.program()
    os.kill(mux.alive(connection.control_path, 10), signal.SIGKILL)
    assert os.path.exists(connection.control_path)
    assert world.sync(world.plan("build/game")).wait().files == 1


def test_an_ssh_that_cannot_share(world: World, sshd: PrivateSSHD, control: Path) -> None:
    script = world.directory / "my ssh"
    script.write_text(
        "#!/bin/sh\n"
        'for word; do case "$word" in -oControlMaster=yes)'
        ' echo "unix_listener: cannot bind to path" >&2; exit 255;; esac; done\n'
        'exec ssh "$@"\n'
    )
    script.chmod(0o755)
    connection = shared(sshd, control)
    target = type(connection.target)(
        sshd.alias, (str(script), *sshd.ssh[1:]), connection.target.control_dir
    )
    connection = SharedConnection(target)
    world.over_ssh(connection)
    world.program()
    assert world.sync(world.plan("build/game")).wait().files == 1
    assert not connection.is_open()


def test_a_wrong_host_key(world: World, own_sshd: PrivateSSHD, control: Path) -> None:
    own_sshd.new_host_key()
    world.over_ssh(shared(own_sshd, control))
    world.program()
    error = failure(world.sync(world.plan("build/game")))
    assert isinstance(error, SSHError)
    assert "host key" in error.message
    assert "ssh-keygen" in error.hint
    assert world.mirrored() == {}


# The lock

_OTHER = """
import sys
from psync.sync.lock import ProjectLock
lock = ProjectLock(sys.argv[1], sys.argv[2], "psync run ./other")
assert lock.try_acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the project's lock."""
    argv = [sys.executable, "-c", _OTHER, world.state, world.project.id]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()


def test_the_second_sync_is_told_who_is_first(world: World, other: subprocess.Popen[bytes]) -> None:
    error = failure(world.sync(lock_timeout=0))
    assert isinstance(error, ProjectBusy)
    assert f"process {other.pid} (psync run ./other" in error.message
    assert error.hint.endswith(f"kill {other.pid}")
    assert world.mirrored() == {}


def test_the_second_sync_waits_until_the_first_dies(
    world: World, other: subprocess.Popen[bytes]
) -> None:
    waits: list[Holder | None] = []

    def on_wait(holder: Holder | None) -> None:
        waits.append(holder)
        other.kill()

    world.program()
    assert world.sync(world.plan("build/game"), on_wait=on_wait).wait().files == 1
    assert len(waits) == 1
    assert waits[0] is not None
    assert waits[0].pid == other.pid


def test_waiting_can_be_cancelled(world: World, other: subprocess.Popen[bytes]) -> None:
    sync: Sync
    sync = world.sync(on_wait=lambda holder: sync.cancel())
    assert isinstance(failure(sync), Interrupted)
    assert other.poll() is None


def test_two_syncs_at_once_both_succeed(world: World) -> None:
    world.program()
    plan = world.plan("build/game")
    with ThreadPoolExecutor(4) as pool:
        done: list[Summary] = list(pool.map(lambda _: world.sync(plan).wait(), range(4)))
    assert sum(summary.files for summary in done) == 1


def test_rsync_does_not_inherit_the_lock(stalled: tuple[World, Path]) -> None:
    world, marker = stalled
    sync = Going(world.sync(world.plan(assets=["big"])))
    wait_until(marker.exists)
    name = f"{world.state}/locks/{world.project.id}.lock"
    assert json.loads(Path(name).read_bytes())["pid"] == os.getpid()
    descriptors = Path(f"/proc/{sync.pids[0]}/fd")
    assert name not in {os.readlink(path) for path in descriptors.iterdir()}
    sync.cancel()
    assert isinstance(failure(sync), Interrupted)


def test_an_error_frees_the_lock(world: World) -> None:
    assert isinstance(failure(world.sync(world.plan(assets=["gone"]))), SyncError)
    world.program()
    assert world.sync(world.plan("build/game"), lock_timeout=0).wait().files == 1
