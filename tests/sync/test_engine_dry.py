"""What a sync would do, without doing it."""

import os
import shutil
from pathlib import Path

from tests.sync.world import World


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (
            status.st_mode,
            status.st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
    return found


def test_it_tells_what_would_happen_and_changes_nothing(anywhere: World, tmp_path: Path) -> None:
    for name in ("a", "gone", "dir/gone", "same", b"\xff\nodd", "deleting x"):
        anywhere.file(name)
    anywhere.sync().wait()
    (anywhere.root / "gone").unlink()
    shutil.rmtree(anywhere.root / "dir")
    anywhere.file("a", b"changed")
    anywhere.file(b"new \xff\\#012")
    anywhere.file("deleting x", b"changed")
    (tmp_path / "far").write_text("x")
    (record,) = Path(anywhere.state).glob("mirrors/*/tree/manifest")
    before = snapshot(anywhere.mirror), record.read_bytes()
    plan = anywhere.plan(assets=[".", str(tmp_path / "far")])
    summary = anywhere.sync(plan, dry=True).wait()
    assert (snapshot(anywhere.mirror), record.read_bytes()) == before
    far = b"outside" + os.fsencode(tmp_path / "far")
    assert set(summary.sent_names) == {
        b"tree/a",
        b"tree/new \xff\\#012",
        b"tree/deleting x",
        far,
    }
    assert {b"tree/gone", b"tree/dir/gone"} <= set(summary.removed_names)
    done = anywhere.sync(plan).wait()
    assert done.files == 4


def test_before_the_first_sync_all_of_it_would_be_sent(anywhere: World) -> None:
    anywhere.file("a")
    shutil.rmtree(anywhere.mirror)
    summary = anywhere.sync(dry=True).wait()
    assert set(summary.sent_names) >= {b"tree/a", b"tree/psync.toml"}
    assert not anywhere.mirror.exists()
