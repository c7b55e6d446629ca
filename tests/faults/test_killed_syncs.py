"""rsync is killed at random moments: what runs then are old files or new ones, or nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.field import Field

FILES = [f"d{number % 7}/f{number}" for number in range(40)]

CHECK = "for file in d*/f*; do head -n 1 $file; done | sort -u\n"
"""Prints one line for each version that lies there; the program itself is never among them."""


@pytest.fixture(params=["ssh", "websocket"])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    with Field() as field:
        field.pair()
        field.config.write_text(f'{field.config.read_text()}transport = "{request.param}"\n')
        field.script("check", CHECK)
        (field.project / "psync.toml").write_text('[sync]\ninclude = ["."]\n')
        yield field


def fill(field: Field, version: int) -> None:
    for name in FILES:
        path = field.project / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d\n" % version + os.urandom(30_000))


def check(field: Field, *options: str) -> tuple[int, list[int], str]:
    """The exit status, the versions of all files, and what psync said."""
    done = field.psync("run", *options, "./check")
    versions = [int(line) for line in done.stdout.split()] if done.returncode == 0 else []
    return done.returncode, versions, done.stderr.decode()


def rsyncs(field: Field) -> list[int]:
    """The rsyncs of both sides; the other side's is in a directory of a mirror."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            where = os.readlink(entry / "cwd")
        except OSError:
            continue
        ours = os.fsencode(field.directory) in line or str(field.directory) in where
        if ours and line.partition(b"\0")[0].endswith(b"rsync"):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    "rounds", [3, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_what_runs_after_a_kill(field: Field, rounds: int) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    fill(field, 0)
    assert check(field)[:2] == (0, [0])
    broken = 0
    for version in range(1, rounds + 1):
        fill(field, version)
        sync = field.start("sync")
        until = time.monotonic() + chosen.uniform(0.0, 0.15)
        while not (found := rsyncs(field)) or time.monotonic() < until:
            if sync.poll() is not None:
                break
        if found:
            try:
                os.kill(chosen.choice(found), signal.SIGKILL)
            except ProcessLookupError:
                pass
        sync.communicate(timeout=50)
        broken += sync.returncode != 0
        status, versions, said = check(field, "--no-sync")
        if sync.returncode == 0:
            assert (status, versions) == (0, [version])
        elif status == 0:
            assert versions in ([version - 1], [version])
        else:
            assert (status, "psync sync" in said) == (125, True), said
        assert check(field)[:2] == (0, [version])
    assert broken or rounds < 10
