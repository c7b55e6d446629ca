"""Files that change, go, grow or run while they are sent, and names that few programs can bear."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.places import MIB, TRANSPORTS, Place, signal_all
from tests.support.field import Field, read_until

WITHOUT_LOCAL = TRANSPORTS[1:]

NAMES = [
    b"new\nline",
    b"-rf",
    b"--rsync-path=x",
    b"host:path",
    b"::module",
    b":",
    b"#comment",
    b";",
    b" spaces ",
    b"not utf-8 \xff\xfe",
    b"\x01\x7f",
    b"*?[a-z]\\",
    b"$HOME `x` 'q' \"",
    b"~",
    b"\\#012",
    b"Case",
    b"case",
    "\u00fc".encode(),
    "u\u0308".encode(),  # looks the same
    b"-d/:/\n/\xff/deep",
]


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


@pytest.fixture(params=WITHOUT_LOCAL)
def far(request: pytest.FixtureRequest, field: Field) -> Iterator[Place]:
    place = Place(field, request.param)
    yield place
    place.close()


class Held:
    """A sync whose rsync over there stands still in the middle."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.process = place.start("sync")
        self.pids = place.freeze()

    def end(self) -> tuple[int, str]:
        """Let it go on; return its exit status and what it said."""
        signal_all(self.pids, signal.SIGCONT)
        _, said = self.process.communicate(timeout=50)
        self.place.all_gone()
        return self.process.returncode, said.decode()


def test_a_file_that_goes_away_meanwhile(far: Place) -> None:
    far.file("a", os.urandom(16 * MIB))
    gone = [far.file(f"z{number}") for number in range(5)]
    held = Held(far)
    for path in gone:
        path.unlink()
    status, said = held.end()
    assert status == 0, said
    assert far.mirrored() == far.sent()


def test_a_file_that_grows_meanwhile(far: Place) -> None:
    old = os.urandom(16 * MIB)
    path = far.file("a", old)
    held = Held(far)
    with path.open("ab") as file:
        file.write(os.urandom(MIB))
    status, said = held.end()
    assert status == 0, said
    arrived = far.mirrored()[b"a"]
    assert len(arrived) >= len(old)
    assert path.read_bytes().startswith(arrived)
    far.check()


def test_a_file_that_shrinks_meanwhile(far: Place) -> None:
    far.file("a", os.urandom(16 * MIB))
    held = Held(far)
    os.truncate(far.root / "a", MIB)
    status, said = held.end()
    if status:
        assert status == 125, said
        assert f"{far.root}/a" in said
        assert "wait until the build is done" in said
        assert not (far.tree / "a").exists()
    far.check()


def test_a_file_that_is_written_anew_meanwhile(far: Place) -> None:
    """As a compiler does: the same name, and other content of the same size."""
    path = far.file("a", os.urandom(16 * MIB))
    held = Held(far)
    with path.open("r+b") as file:
        file.write(os.urandom(16 * MIB))
    status, said = held.end()
    assert status == 0, said
    far.check()


def test_a_program_that_is_replaced_while_it_runs(place: Place) -> None:
    one, two = (shutil.which(name) for name in ("cat", "echo"))
    assert one is not None
    assert two is not None
    place.file("game", Path(one).read_bytes(), 0o755)
    (place.root / "psync.toml").write_text("")
    old = place.start("run", "./game")
    assert old.stdin is not None
    old.stdin.write(b"here\n")
    old.stdin.flush()
    read_until(old, b"here\n")
    place.file("game", Path(two).read_bytes(), 0o755)
    assert place.good("run", "./game", "the new one") == b"the new one\n"
    assert (place.tree / "game").read_bytes() == Path(two).read_bytes()
    rest, said = old.communicate(b"still here\n", 50)
    assert (old.returncode, rest) == (0, b"still here\n"), said


def test_a_file_with_holes(place: Place) -> None:
    """Disk images and core files: there, too, they take up what is in them."""
    path = place.root / "image"
    path.write_bytes(b"begin")
    os.truncate(path, 8 * MIB)
    place.check()
    assert (place.tree / "image").stat().st_blocks * 512 < MIB
    with path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"more")
    place.check()
    assert (place.tree / "image").stat().st_blocks * 512 < MIB


def test_names(place: Place) -> None:
    (place.root / "psync.toml").write_text('[sync]\ninclude = ["."]\n')
    for name in NAMES:
        place.file(name, b"one " + name)
    place.check()
    assert len(place.mirrored()) == len(NAMES) + 1
    done = place.psync("sync")
    assert b"nothing" in done.stderr or done.stderr == b"", done.stderr
    for name in NAMES[::2]:
        place.file(name, b"another " + name)
    for name in NAMES[1::2]:
        (place.root / os.fsdecode(name)).unlink()
    place.check()
    for name in NAMES[::2]:
        program = place.file(name, b"#!/bin/sh\necho ran\n", 0o755)
        assert place.good("run", b"./" + name) == b"ran\n"
        program.unlink()
    place.check()
    assert list(place.mirrored()) == [b"psync.toml"]


# -- long paths -----------------------------------------------------------------------------------


def deepen(top: Path, length: int, content: bytes = b"deep") -> bytes:
    """Make a file whose name below a directory has so many bytes; return that name."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    words = []
    left = length
    try:
        while left > 256:
            name = b"d" * min(255, left - 2)
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
            words.append(name)
            left -= len(name) + 1
        words.append(b"f" * left)
        file = os.open(words[-1], os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
        os.write(file, content)
        os.close(file)
    finally:
        os.close(here)
    return b"/".join(words)


def read_deep(top: Path, name: bytes) -> bytes:
    """Read a file whose path may be longer than any."""
    *above, last = name.split(b"/")
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for word in above:
            below = os.open(word, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        file = os.open(last, os.O_RDONLY, dir_fd=here)
        try:
            return os.read(file, 100)
        finally:
            os.close(file)
    finally:
        os.close(here)


def remove_deep(top: Path) -> None:
    subprocess.run(["rm", "-rf", str(top)], check=True, timeout=30)


def longest(place: Place) -> int:
    """Bytes of the longest name that a program can open by its whole path here."""
    return 4095 - len(os.fsencode(place.root)) - 1


def test_a_path_as_long_as_any(place: Place) -> None:
    """With the NUL at its end 4,096 bytes here, and more there, where no program can name it so."""
    name = deepen(place.root, longest(place))
    try:
        place.good("sync")
        assert read_deep(place.tree, name) == b"deep"
        path = place.root / os.fsdecode(name)
        path.write_bytes(b"other")
        place.good("sync")
        assert read_deep(place.tree, name) == b"other"
        path.write_bytes(b"#!/bin/sh\necho ran\n")
        path.chmod(0o755)
        line = place.complaint("run", name)
        assert f"the mirror {place.mirror} makes a path of " in line
        assert "bytes, and 4095 is the most: tree/ddddd" in line
        assert "shorten it" in line
        here = os.fsdecode(os.path.dirname(name))
        done = place.field.psync("run", "pwd", cwd=path.parent)
        assert done.stdout == os.fsencode(f"{place.tree}/{here}\n")
        path.unlink()
        place.good("sync")
        with pytest.raises(FileNotFoundError):
            read_deep(place.tree, name)
    finally:
        remove_deep(place.root)
        remove_deep(place.mirror)


def test_a_path_that_is_longer_than_any(field: Field) -> None:
    place = Place(field, "websocket")
    place.good("sync")
    deepen(place.root, longest(place) + 1)
    try:
        line = place.complaint("sync")
        assert f"could not send {place.root}/dddd" in line
        assert "File name too long" in line
        assert "[sync] exclude" in line
    finally:
        remove_deep(place.root)
