"""Disks that are full, read-only, limited by a quota or not there any more, on either side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.places import MIB, TRANSPORTS, Place, disk, fill, mounted
from tests.support.field import Field


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    with Field() as field:
        field.pair()
        yield field


@pytest.fixture(params=TRANSPORTS)
def place(request: pytest.FixtureRequest, field: Field) -> Iterator[Place]:
    place = Place(field, request.param)
    yield place
    place.close()


@pytest.fixture
def far(field: Field) -> Iterator[Place]:
    place = Place(field, "websocket")
    yield place
    place.close()


def assert_refused(place: Place) -> None:
    """The mirror may be a mixture, so nothing runs there, and psync says what helps."""
    assert "psync sync" in place.complaint("run", "--no-sync", "./x")


def unfinished(place: Place) -> list[Path]:
    return list(place.mirror.rglob(".psync-partial"))


def command(*words: str) -> None:
    """Run a program of the system's administrator."""
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    subprocess.run(words, env={"PATH": path}, capture_output=True, check=True, timeout=30)


def overfill(place: Place, reason: str) -> None:
    """Sync more than there is room for: nothing starts, and nothing that was there is lost."""
    place.script("echo old\n")
    assert place.good("run", "./x") == b"old\n"
    daemon = place.daemon()
    big = place.file("big", os.urandom(4 * MIB))
    place.script("echo new\n")
    line = place.complaint("run", "./x")
    assert reason in line
    assert "big" in line
    assert str(place.mirror) in line
    assert (place.tree / "x").read_bytes() == b"#!/bin/sh\necho old\n"
    assert not (place.tree / "big").exists()
    assert unfinished(place) == []
    assert_refused(place)
    big.unlink()
    assert place.good("run", "./x") == b"new\n"
    assert place.daemon() == daemon
    assert unfinished(place) == []


def test_no_room_for_a_file_there(place: Place) -> None:
    place.good("run", "true")  # the daemon is there, and made its directories
    with mounted(place.projects, *disk(2048)):
        overfill(place, "the disk is full on")


def test_a_disk_there_without_a_byte_left(far: Place) -> None:
    place = far
    place.good("run", "true")
    with mounted(place.projects, *disk(1024)):
        place.script("echo old\n")
        assert place.good("run", "./x") == b"old\n"
        rest = fill(place.projects)
        # what needs no room works: nothing is to be sent
        assert place.good("run", "./x") == b"old\n"
        place.script("echo new\n")
        line = place.complaint("run", "./x")
        assert "No space left on device" in line
        assert str(place.mirror) in line
        # nothing was begun, so the old one is whole
        assert place.good("run", "--no-sync", "./x") == b"old\n"
        rest.unlink()
        assert place.good("run", "./x") == b"new\n"


def test_a_quota_there(far: Place, tmp_path: Path) -> None:
    place = far
    if shutil.which("mkfs.btrfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("there is no mkfs.btrfs here, so no quota can be made")
    place.good("run", "true")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    command("mkfs.btrfs", "-q", str(image))
    with mounted(place.projects, "-o", "loop", str(image)):
        command("btrfs", "quota", "enable", str(place.projects))
        command("btrfs", "qgroup", "limit", str(2 * MIB), str(place.projects))
        os.chmod(place.projects, 0o700)
        overfill(place, "the quota is used up on there")


@pytest.mark.parametrize("what", [".", "tree"])
def test_a_mirror_that_is_read_only(place: Place, what: str) -> None:
    place.script("echo old\n")
    assert place.good("run", "./x") == b"old\n"
    place.script("echo new\n")
    directory = place.mirror / what
    with mounted(directory, "--bind", "-o", "ro", str(directory)):
        line = place.complaint("run", "./x")
        assert "Read-only file system" in line
        assert "writ" in line  # make it writable, or the right to write there
        assert str(place.mirror) in line
        if what == ".":
            assert place.good("run", "--no-sync", "./x") == b"old\n"
        else:
            assert_refused(place)
        assert (place.tree / "x").read_bytes() == b"#!/bin/sh\necho old\n"
    assert place.good("run", "./x") == b"new\n"


def test_a_client_without_a_byte_left(far: Place) -> None:
    with mounted(far.state, *disk(256)):
        far.script("echo old\n")
        assert far.good("run", "./x") == b"old\n"
        rest = fill(far.state)
        assert far.good("run", "./x") == b"old\n"
        far.script("echo new\n")
        far.file("also new")
        line = far.complaint("run", "./x")
        assert "No space left on device" in line
        assert str(far.state) in line
        assert "this machine" in line
        rest.unlink()
        assert far.good("run", "./x") == b"new\n"
        assert far.mirrored() == far.sent()


def test_a_source_that_is_a_mount_and_disappears(far: Place) -> None:
    place = far
    assets = place.root / "assets"
    with mounted(assets, *disk(1024)):
        for name in ("assets/a", "assets/sub/b", "c"):
            place.file(name)
        place.check()
    # what is left is an empty directory, and it says nothing of what was in it
    place.file("c", b"other")
    done = place.psync("sync")
    assert done.returncode == 0, done.stderr
    assert b"mount" in done.stderr
    assert (place.tree / "assets/sub/b").read_bytes() == b"content"
    assert (place.tree / "c").read_bytes() == b"other"
    with mounted(assets, *disk(1024)):
        place.file("assets/a", b"new")
        place.check()  # it is back, and b is gone there


def test_a_project_that_is_a_mount_and_disappears(far: Place) -> None:
    with mounted(far.root, *disk(1024)):
        far.file("psync.toml", b'[sync]\ninclude = ["."]\n')
        far.file("a")
        far.file("sub/b")
        far.check()
    done = far.psync("sync")  # the directory below has a psync.toml of its own, and nothing else
    assert done.returncode == 0, done.stderr
    assert done.stderr
    assert (far.tree / "sub/b").read_bytes() == b"content"
    (far.root / "psync.toml").unlink()
    far.psync("sync", "--project", ".")
    assert (far.tree / "a").exists()
