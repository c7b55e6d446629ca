"""Run the benchmarks, print a table, write a JSON file.

make bench                      all of them
make bench ARGS="run echo"      some of them
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from bench import files, measure
from bench.lab import Lab

RESULTS = Path(__file__).parent / "results"


class Row:
    """One figure: what it came to, and what it should be."""

    def __init__(self, what: str, value: str, ratio: float, bound: str, reached: bool) -> None:
        self.what = what
        self.value = value
        self.ratio = ratio
        self.bound = bound
        self.reached = reached

    def __str__(self) -> str:
        mark = "ok" if self.reached else "NOT REACHED"
        return f"{self.what:52} {self.value:34} {self.ratio:7.2f}  {self.bound:8} {mark}"


def bench_run(lab: Lab) -> list[Row]:
    """(a) The whole command with nothing changed."""
    rows = _nothing_changed(lab, "psync run / rsync && ssh")
    with Lab(own_shell=True) as at_home:
        return rows + _nothing_changed(at_home, "the same with this user's own shell start-up")


def _nothing_changed(lab: Lab, what: str) -> list[Row]:
    t = measure.nothing_changed(lab, rounds=15)
    return _times(t, what, pair_fresh=0.75, pair_warm=1.1)


def _times(t: dict[str, float], what: str, **bounds: float) -> list[Row]:
    """Return rows of how long psync took beside others, who may take so much longer."""
    rows = []
    for other, bound in bounds.items():
        ratio = t["psync"] / t[other]
        value = f"{t['psync'] * 1e3:.0f} ms / {t[other] * 1e3:.0f} ms"
        name = f"{what}, {other.removeprefix('pair_')}"
        rows.append(Row(name, value, ratio, f"<= {bound}", ratio <= bound))
    return rows


def bench_throughput(lab: Lab) -> list[Row]:
    """(b) 1 GB of output."""
    t = measure.throughput(lab, rounds=5)
    rows = []
    for name, what, bound in (
        ("psync", "output of 1 GB / ssh", ">= 0.8"),
        ("psync_via_ssh", "the same, through the shared ssh connection", ""),
    ):
        ratio = t["ssh"] / t[name]
        speed = [measure.GIGABYTE / seconds / 1e6 for seconds in (t[name], t["ssh"])]
        value = f"{speed[0]:.0f} MB/s / {speed[1]:.0f} MB/s"
        rows.append(Row(what, value, ratio, bound, ratio >= 0.8 or not bound))
    return rows


def bench_echo(lab: Lab) -> list[Row]:
    """(c) Echo through stdin and stdout."""
    t = measure.echo(lab, count=3000)
    rows = []
    for path, where in (("psync", ""), ("psync_via_ssh", ", through the ssh connection")):
        for at, name in enumerate(("p50", "p99")):
            ratio = t[path][at] / t["ssh"][at]
            value = f"{t[path][at] * 1e6:.0f} us / {t['ssh'][at] * 1e6:.0f} us"
            bound = "<= 5" if name == "p50" and path == "psync" else ""
            what = f"echo round trip {name} / ssh{where}"
            rows.append(Row(what, value, ratio, bound, ratio <= 5 or not bound))
    return rows


def bench_start(lab: Lab) -> list[Row]:
    """(d) Start-up of the client."""
    t = measure.start_up(lab, rounds=15)
    rows = []
    for name in ("psync_version", "psync_run_imports"):
        ratio = t[name] / t["asyncio_ssl"]
        value = f"{t[name] * 1e3:.0f} ms / {t['asyncio_ssl'] * 1e3:.0f} ms"
        what = f"{name.replace('_', ' ')} / python, asyncio and ssl"
        rows.append(Row(what, value, ratio, "<= 2.0", ratio <= 2.0))
    return rows


def bench_memory(lab: Lab) -> list[Row]:
    """(e) Memory of a supervisor."""
    pss = measure.supervisor_memory(lab) / 1e6
    return [Row("supervisor, PSS in MB", f"{pss:.1f} MB / 6 MB", pss / 6, "<= 1", pss <= 6)]


def bench_files(lab: Lab) -> list[Row]:
    """(f) Files over the websocket."""
    what = "psync run over the websocket, nothing changed"
    rows = _times(files.nothing_changed(lab, 15), what, pair_fresh=0.35, pair_warm=0.75)
    what = "the same, 1 % of a 50 MB binary changed"
    rows += _times(files.changed_binary(lab, 7), what, pair_fresh=0.6)
    t = files.bulk(lab, 3)
    ratio = t["rsync"] / t["psync"]
    speed = [files.BULK / seconds / 1e6 for seconds in (t["psync"], t["rsync"])]
    value = f"{speed[0]:.0f} MB/s / {speed[1]:.0f} MB/s"
    return [*rows, Row("1 GB of new files / rsync -a", value, ratio, ">= 1.0", ratio >= 1)]


def bench_watch(lab: Lab) -> list[Row]:
    """(g) psync watch, one file of 100,000 changed."""
    return _times(files.watch(lab, 7), "psync watch, change to first byte", pair_warm=0.25)


BENCHES = {
    "run": bench_run,
    "throughput": bench_throughput,
    "echo": bench_echo,
    "start": bench_start,
    "memory": bench_memory,
    "files": bench_files,
    "watch": bench_watch,
}


def main() -> int:
    """Measure what was asked for; exit status 0 also where a figure was not reached."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("what", nargs="*", choices=[[], *BENCHES], help="default: all")
    chosen = parser.parse_args().what or list(BENCHES)
    cores = os.cpu_count()
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}; medians\n")
    print(f"{'':52} {'psync / other':34} {'ratio':>7}  bound")
    rows: list[Row] = []
    with Lab() as lab:
        for name in chosen:
            for row in BENCHES[name](lab):
                print(row, flush=True)
                rows.append(row)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    machine = {"machine": platform.machine(), "cores": cores, "python": platform.python_version()}
    path.write_text(json.dumps({**machine, "rows": [vars(row) for row in rows]}, indent=2) + "\n")
    print(f"\nwritten to {path.relative_to(Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
