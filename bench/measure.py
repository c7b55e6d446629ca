"""What is measured, one function per question. All of them alternate between the contenders, so
that a change of the machine's mood hits all alike, and take medians."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.lab import TARGET, VIA_SSH, Lab

GIGABYTE = 1_000_000_000


def alternate(
    rounds: int, contenders: dict[str, Callable[[], float]], warm_up: int = 1
) -> dict[str, float]:
    """Call each contender once per round; return the median of each."""
    results: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + warm_up):
        for name, contender in contenders.items():
            taken = contender()
            if number >= warm_up:
                results[name].append(taken)
    return {name: statistics.median(values) for name, values in results.items()}


def nothing_changed(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds for the whole command when nothing has changed since the last one."""
    return alternate(
        rounds,
        {
            "psync": lambda: lab.call(lab.psync("./tiny", options=("-A", "asset.txt"))),
            "pair_fresh": lambda: lab.call(["sh", "-c", lab.pair(warm=False)]),
            "pair_warm": lambda: lab.call(["sh", "-c", lab.pair(warm=True)]),
        },
    )


def throughput(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds to get 1 GB of output through to a pipe."""
    flood = ["head", "-c", str(GIGABYTE), "/dev/zero"]
    return alternate(
        rounds,
        {
            "psync": lambda: _drain(lab, _bare(lab, TARGET, *flood)),
            "psync_via_ssh": lambda: _drain(lab, _bare(lab, VIA_SSH, *flood)),
            "ssh": lambda: _drain(lab, lab.ssh(" ".join(flood))),
        },
    )


def echo(lab: Lab, count: int) -> dict[str, tuple[float, float]]:
    """Round trip of 20 bytes through a running ``cat``: p50 and p99 in seconds."""
    return {
        "psync": _round_trips(lab, _bare(lab, TARGET, "cat"), count),
        "psync_via_ssh": _round_trips(lab, _bare(lab, VIA_SSH, "cat"), count),
        "ssh": _round_trips(lab, lab.ssh("cat"), count),
    }


def start_up(lab: Lab, rounds: int) -> dict[str, float]:
    """Seconds until Python has imported what a command needs."""
    imports = "psync.cli.imports.import_{}()"
    code = "; ".join(
        [
            "import psync.cli.main, psync.cli.imports",
            "psync.cli.main.hold_collection()",
            imports.format("msgspec"),
            imports.format("picows"),
            "import psync.cli.run, psync.client.target, psync.client.stdin, psync.client.stdout",
            "import psync.transport.connect",
        ]
    )
    return alternate(
        rounds,
        {
            "psync_version": lambda: lab.call(["psync", "--version"]),
            "psync_run_imports": lambda: lab.call([sys.executable, "-c", code]),
            "asyncio_ssl": lambda: lab.call([sys.executable, "-c", "import asyncio, ssl"]),
        },
        warm_up=2,
    )


def supervisor_memory(lab: Lab) -> int:
    """Proportional set size of the supervisor of one sleeping run, in bytes."""
    with subprocess.Popen(
        _bare(lab, TARGET, "sh", "-c", "echo ready; exec sleep 600"),
        cwd=lab.project, env=lab.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        client.stdout.readline()
        try:
            return _pss(_supervisor_of_the_latest_run(lab))
        finally:
            client.send_signal(2)


def _bare(lab: Lab, target: str, *command: str) -> list[str]:
    return lab.psync(*command, options=("--no-sync",), target=target)


def _supervisor_of_the_latest_run(lab: Lab) -> int:
    import json

    runs = sorted(
        (lab.server_home / "state" / "runs").glob("*/supervisor.json"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    return int(json.loads(runs[-1].read_bytes())["pid"])


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no Pss line")


def _drain(lab: Lab, argv: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(
        argv, cwd=lab.project, env=lab.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        # wc is what a pipeline's next member costs in C; reading in Python would slow both
        counted = subprocess.run(
            ["wc", "-c"], stdin=process.stdout, capture_output=True, check=True
        ).stdout
    seconds = time.perf_counter() - start
    if int(counted) != GIGABYTE or process.returncode:
        raise RuntimeError(f"{argv[0]}: {counted!r} bytes, exit {process.returncode}")
    return seconds


def _round_trips(lab: Lab, argv: list[str], count: int) -> tuple[float, float]:
    with subprocess.Popen(
        argv, cwd=lab.project, env=lab.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        taken = []
        for _ in range(count + 100):
            start = time.perf_counter()
            process.stdin.write(b"x" * 19 + b"\n")
            got = 0
            while got < 20:
                piece = process.stdout.read(20 - got)
                if not piece:
                    raise RuntimeError(f"{argv[0]} ended in the middle of an echo")
                got += len(piece)
            taken.append(time.perf_counter() - start)
        process.stdin.close()
        process.wait(30)
        watchdog.cancel()
    taken = sorted(taken[100:])
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]
