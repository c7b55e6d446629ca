"""What is never sent, as rsync sees it too."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from psync.sync.kinds import leaves, never_sent
from psync.sync.listing import look_at


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        (b"a", b"b", False),
        (b"a", b"b/c", False),
        (b"x/a", b"../b", False),
        (b"x/y/a", b"../../b", False),
        (b"a", b".", False),
        (b"a", b"..", True),
        (b"a", b"../into/b", True),
        (b"x/a", b"../../b", True),
        (b"x/a", b"d/..", True),  # which is above wherever d leads to
        (b"a", b"/etc", True),
        (b"a", b"", True),
        (b"x/a", b"./.././b", False),
    ],
)
def test_links_that_lead_out(path: bytes, target: bytes, out: bool) -> None:
    assert leaves(path, target) is out


def test_what_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").touch()
    (tmp_path / "d/in").symlink_to("../x")
    (tmp_path / "d/nowhere").symlink_to("nothing")
    (tmp_path / "d/out").symlink_to("../../x")
    (tmp_path / "away").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
    base = os.fsencode(tmp_path)
    names = [b"d", b"d/file", b"d/in", b"d/nowhere", b"d/out", b"away", b"pipe", b"s", b"gone"]
    stats = {name: look_at(os.path.join(base, name)) for name in names}
    assert never_sent(base, stats) == {b"d/out", b"away", b"pipe", b"s"}


@pytest.mark.parametrize("target", ["b", "../b", "../../b", "/b", ".", "./.././b", "../d/../b"])
def test_rsync_says_the_same_of_links(tmp_path: Path, target: str) -> None:
    (tmp_path / "from/d").mkdir(parents=True)
    (tmp_path / "from/d/a").symlink_to(target)
    argv = ["rsync", "-r", "--links", "--safe-links", "from/", "to"]
    subprocess.run(argv, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    sent = (tmp_path / "to/d/a").is_symlink()
    base = os.fsencode(tmp_path / "from")
    assert (never_sent(base, {b"d/a": look_at(base + b"/d/a")}) == set()) is sent
