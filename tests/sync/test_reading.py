"""What rsync says while it reads a mirror."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from psync.sync.reading import Item, Reader, reading_argv
from psync.sync.rsync import Remote


def test_every_entry_is_told_exactly(tmp_path: Path) -> None:
    top, into = tmp_path / "top", tmp_path / "into"
    into.mkdir()
    (top / "dir/closed").mkdir(parents=True)
    (top / "dir/closed").chmod(0o500)
    for name in (b"a b", b"new\nline", b"\xff", b"\\#012", b" lead", b"trail "):
        Path(os.fsdecode(os.path.join(os.fsencode(top), name))).write_bytes(b"12")
    (top / "dir/a -> b").symlink_to("c -> d")
    os.mkfifo(top / "dir/fifo")
    found: list[Item] = []
    argv, feed = reading_argv(
        os.fsencode(top),
        os.fsencode(into),
        rsync="rsync",
        remote=None,
        rules=None,
        options=["--dry-run"],
    )
    said = subprocess.run(argv, input=feed, check=True, capture_output=True, timeout=30).stdout
    reader = Reader(found.append)
    for at in range(0, len(said), 7):
        reader.feed(said[at : at + 7])
    assert {item.name: (item.kind, item.size if item.kind == "f" else 0) for item in found} == {
        b".": ("d", 0),
        b"dir": ("d", 0),
        b"dir/closed": ("d", 0),
        b"dir/a -> b": ("L", 0),
        b"dir/fifo": ("?", 0),
        **dict.fromkeys((b"a b", b"new\nline", b"\xff", b"\\#012", b" lead", b"trail "), ("f", 2)),
    }
    assert {item.name: item.mode for item in found}[b"dir/closed"] == b"r-x------"
    assert not any(item.same for item in found)


def test_the_command_line_holds_no_path_for_the_other_side_but_one() -> None:
    remote = Remote(shell=(b"ssh", b"-F", b"a b"), address="me@host", rsync=b"/opt/my rsync")
    argv, feed = reading_argv(
        b"/m/tree/sub/",
        b"/into",
        rsync="rsync",
        remote=remote,
        rules=[b"/a", b"/new\nline"],
        options=["--sparse"],
    )
    assert argv[-3:] == ["--", b"me@host:/m/tree/sub/", b"/into/"]
    assert {"-s", "-z", "--from0", "--include-from=-", "--exclude=*", "--sparse"} <= set(argv)
    assert b"--rsync-path='/opt/my rsync'" in argv
    assert feed == b"/a\0/new\nline\0"
