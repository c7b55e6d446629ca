"""A daemon that writes much keeps two files, and loses no line on the way from one to the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.daemon import Home
from tests.support.field import SOURCES

from psync.protocol import messages as m

WRITES = """
import logging, sys
from psync.daemon.logfile import LogFile
log = LogFile(sys.argv[1], largest=1000)
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[log])
for number in range(int(sys.argv[2])):
    logging.info("line %d of the log", number)
print("and stdout", flush=True)
"""


def write(path: Path, stderr: Path, count: int) -> None:
    """Have a process write lines whose stderr is a file."""
    with stderr.open("ab") as file:
        subprocess.run(
            [sys.executable, "-c", WRITES, str(path), str(count)],
            env={"PYTHONPATH": SOURCES},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            timeout=30,
            check=True,
        )


def test_it_begins_a_new_file(tmp_path: Path) -> None:
    log, before = tmp_path / "daemon.log", tmp_path / "daemon.log.1"
    write(log, log, 60)
    text = before.read_text() + log.read_text()
    lines = [f"line {number} of the log" for number in range(60)]
    assert text.splitlines() == [*lines, "and stdout"]
    assert before.stat().st_size < 1100
    assert log.stat().st_size < 1100
    assert log.stat().st_mode & 0o777 == 0o600
    write(log, log, 1000)
    assert sorted(os.listdir(tmp_path)) == ["daemon.log", "daemon.log.1"]
    assert max(before.stat().st_size, log.stat().st_size) < 1100


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    log, other = tmp_path / "daemon.log", tmp_path / "other"
    log.write_text("mine")
    write(log, other, 200)
    assert log.read_text() == "mine"
    assert len(other.read_text().splitlines()) == 201
    assert sorted(os.listdir(tmp_path)) == ["daemon.log", "other"]


async def test_a_client_that_is_refused_all_the_time_does_not_fill_it(home: Home) -> None:
    home.start()
    async with home.client() as client:
        for _ in range(200):
            attachment = client.attach("nosuchrun0")
            await attachment.refused()
            client.link.send(m.Detach(channel=attachment.channel))
    lines = [line for line in home.log.splitlines() if "refused desk" in line]
    assert 0 < len(lines) <= 30
