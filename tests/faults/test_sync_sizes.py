"""Very many files, and very big ones with next to nothing in them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.places import TRANSPORTS, Place
from tests.support.field import Field

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

COUNT = 200_000
GIB = 1 << 30
MOST_MEMORY = 500
"""MiB that a daemon may have after it. With no note kept it has some 40."""


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    with Field() as field:
        field.pair()
        yield field


@pytest.fixture(params=TRANSPORTS)
def place(request: pytest.FixtureRequest, field: Field) -> Iterator[Place]:
    place = Place(field, request.param)
    place.log_rsyncs()
    yield place
    place.close()


def patient(place: Place, *words: str) -> str:
    """Run a psync that may take minutes and must succeed; say how long it took."""
    began = time.monotonic()
    process = place.start(*words)
    _, said = process.communicate(timeout=600)
    print(f"{place.transport}: psync {' '.join(words)}: {time.monotonic() - began:.2f} s: {said!r}")
    assert process.returncode == 0, said
    return said.decode()


def memory(pid: int) -> dict[str, int]:
    """Return how many MiB a process has, and has had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: int(found[name].split()[0]) >> 10 for name in ("VmRSS", "VmHWM")}


def test_two_hundred_thousand_files(place: Place) -> None:
    for number in range(COUNT // 500):
        directory = place.root / f"d{number}"
        directory.mkdir()
        for name in range(500):
            os.close(os.open(directory / f"f{name}", os.O_CREAT | os.O_WRONLY, 0o644))
    assert f"sent {COUNT + 1}" in patient(place, "sync").replace(",", "")
    patient(place, "sync")  # those that were as young as the look at them are compared once more
    began = place.rsyncs_started()
    assert "nothing" in patient(place, "sync")
    assert place.rsyncs_started() == began
    print("the daemon:", memory(place.daemon()))
    assert memory(place.daemon())["VmHWM"] < MOST_MEMORY
    (place.root / "d7/f7").write_bytes(b"other")
    shutil.rmtree(place.root / "d8")
    patient(place, "sync")
    assert (place.tree / "d7/f7").read_bytes() == b"other"
    assert not (place.tree / "d8").exists()
    assert sum(len(names) for _, _, names in os.walk(place.tree)) == COUNT - 500 + 2


def test_five_gigabytes_of_nothing(place: Place) -> None:
    size = 5 * GIB
    path = place.root / "image"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"middle")
        file.seek(size - 5)
        file.write(b"end\n")
    patient(place, "sync")
    copy = place.tree / "image"
    print(f"on the disk there: {copy.stat().st_blocks * 512} bytes")
    assert copy.stat().st_size == size
    with copy.open("rb") as file:
        file.seek(size // 2)
        assert file.read(7) == b"middle\0"
        file.seek(size - 5)
        assert file.read() == b"end\n\0"
    assert copy.stat().st_blocks * 512 < GIB
    with path.open("r+b") as file:
        file.seek(GIB)
        file.write(b"a quarter")
    patient(place, "sync")
    with copy.open("rb") as file:
        file.seek(GIB)
        assert file.read(10) == b"a quarter\0"
    assert copy.stat().st_blocks * 512 < GIB
