import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.sshd import PrivateSSHD
from tests.sync.world import World, shared

from psync.sync.ssh import SharedConnection


@pytest.fixture(scope="module")
def sshd() -> Iterator[PrivateSSHD]:
    """One sshd for the tests of a module that do it no harm."""
    with PrivateSSHD() as server:
        yield server


@pytest.fixture
def own_sshd() -> Iterator[PrivateSSHD]:
    """An sshd to be stopped, cut off and given other keys."""
    with PrivateSSHD() as server:
        yield server


@pytest.fixture
def control() -> Iterator[Path]:
    """A control directory with a path that is short enough for sockets."""
    directory = Path(tempfile.mkdtemp(prefix="psync-c-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def connection(sshd: PrivateSSHD, control: Path) -> Iterator[SharedConnection]:
    """A shared connection, open."""
    made = shared(sshd, control)
    made.open()
    yield made
    made.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A project whose mirror is on this machine."""
    return World(tmp_path)


@pytest.fixture(params=["local", "ssh"])
def anywhere(request: pytest.FixtureRequest, world: World) -> World:
    """A project whose mirror is on this machine, and one whose mirror is behind ssh."""
    if request.param == "ssh":
        world.over_ssh(request.getfixturevalue("connection"))
    return world
