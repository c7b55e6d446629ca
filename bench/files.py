"""What it takes to bring files over: nothing changed, a binary that changed, much that is new, and
``psync watch``. All of it over the websocket, beside rsync over ssh."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.lab import WEBSOCKET, Lab
from bench.measure import alternate

BINARY = 50_000_000
"""Bytes of the binary that changes."""

CHANGED = 0.01
"""Of its bytes, how much."""

BLOCK = 50_000
"""Bytes that change in one place, as a function does that was compiled again."""

BULK = 1_000_000_000
"""Bytes of the file that is new."""

TREE = 100_000
"""Files of the tree that is watched."""


def nothing_changed(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds for the whole command when nothing has changed since the last one."""
    psync = lab.psync("./tiny", options=("-A", "asset.txt"), target=WEBSOCKET)
    return alternate(
        rounds,
        {
            "psync": lambda: lab.call(psync),
            "pair_fresh": lambda: lab.call(["sh", "-c", lab.pair(warm=False)]),
            "pair_warm": lambda: lab.call(["sh", "-c", lab.pair(warm=True)]),
        },
    )


def changed_binary(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds for the whole command when a big binary was built again."""
    with _project(lab):
        program = lab.project / "game"
        program.write_bytes(_binary((lab.project.parent / "project/tiny").read_bytes()))
        program.chmod(0o755)
        chosen = random.Random(1)

        def rebuilt(argv: list[str]) -> float:
            with program.open("r+b") as file:
                for _ in range(int(BINARY * CHANGED / BLOCK)):
                    file.seek(chosen.randrange(BINARY // 2, BINARY - BLOCK))
                    file.write(chosen.randbytes(BLOCK))
            return lab.call(argv)

        return alternate(
            rounds,
            {
                "psync": lambda: rebuilt(lab.psync("./game", target=WEBSOCKET)),
                "pair_fresh": lambda: rebuilt(["sh", "-c", lab.pair(warm=False, program="./game")]),
            },
        )


def bulk(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds to send a file that is new and cannot be compressed."""
    with _project(lab):
        numbers = iter(range(1000))
        data = [random.randbytes(1 << 20) for _ in range(16)]

        def new_file() -> str:
            name = f"big-{next(numbers)}"
            with (lab.project / name).open("wb") as file:
                while file.tell() < BULK:
                    file.write(random.choice(data))
            os.sync()  # what is written to disk now is not written while somebody is measured
            return name

        def psync() -> float:
            name = new_file()
            taken = lab.call(["psync", "sync", "--on", WEBSOCKET, "-A", name])
            _forget(lab, name)
            return taken

        def rsync() -> float:
            name = new_file()
            taken = lab.call(lab.rsync("-a", name, str(lab.directory / "bulk"), warm=False))
            _forget(lab, name)
            return taken

        return alternate(rounds, {"psync": psync, "rsync": rsync})


def watch(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds from a change among very many files to the first byte of the new run."""
    with _project(lab):
        for number in range(TREE):
            path = lab.project / f"d{number // 250}/f{number}"
            if number % 250 == 0:
                path.parent.mkdir()
            path.write_bytes(b"%d\n" % number)
        program = lab.project / "game"
        program.write_text("#!/bin/sh\necho started\nexec sleep 600\n")
        program.chmod(0o755)
        by_hand = lab.pair(warm=True, program="cat d7/f1750")
        lab.call(["sh", "-c", by_hand])
        watching = subprocess.Popen(
            ["psync", "watch", "--on", WEBSOCKET, "-A", ".", "./game"],
            cwd=lab.project, env=lab.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert watching.stdout is not None
        stdout = watching.stdout
        texts = iter(range(1000))

        def change() -> None:
            (lab.project / "d7/f1750").write_bytes(b"changed %d\n" % next(texts))

        def psync() -> float:
            start = time.perf_counter()
            change()
            if stdout.readline() != b"started\n":
                raise RuntimeError(f"psync watch ended: {watching.wait(10)}")
            return time.perf_counter() - start

        def pair() -> float:
            # psync watch sees this change too, and is done with it before the clock starts
            change()
            stdout.readline()
            return lab.call(["sh", "-c", by_hand])

        try:
            stdout.readline()
            return alternate(rounds, {"psync": psync, "pair_warm": pair})
        finally:
            watching.send_signal(2)
            watching.wait(60)


@contextmanager
def _project(lab: Lab) -> Iterator[None]:
    """A project of its own for one question."""
    before = lab.project
    lab.project = lab.directory / f"project-{time.monotonic_ns()}"
    lab.project.mkdir()
    (lab.project / "psync.toml").write_text("")
    try:
        yield
    finally:
        shutil.rmtree(lab.project)
        shutil.rmtree(lab.directory / "by-hand", ignore_errors=True)
        lab.project = before


def _binary(program: bytes) -> bytes:
    """A program that is as big, and can be compressed as well, as one with all its libraries."""
    data = bytearray(program)
    libraries = (
        path
        for top in ("/usr/lib", "/usr/bin")
        for path in sorted(Path(top).rglob("*"))
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 100_000
    )
    for path in libraries:
        if len(data) >= BINARY:
            break
        data += path.read_bytes()
    return bytes(data[:BINARY])


def _forget(lab: Lab, name: str) -> None:
    (lab.project / name).unlink()
    for path in lab.server_home.rglob(name):
        path.unlink()
    (lab.directory / "bulk").unlink(missing_ok=True)
