"""What rsyncs have left goes, and nothing else."""

import os
from pathlib import Path

from psync.daemon.unfinished import remove_unfinished

SECOND = 10**9


def removed(mirror: Path, since: int | None) -> set[str]:
    before = {str(path.relative_to(mirror)) for path in mirror.rglob("*")}
    top = os.open(mirror, os.O_RDONLY)
    try:
        remove_unfinished(top, since)
    finally:
        os.close(top)
    return before - {str(path.relative_to(mirror)) for path in mirror.rglob("*")}


def file(path: Path, mode: int = 0o600, at: int = 10 * SECOND) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    os.utime(path, ns=(at, at))


def test_directories_of_unfinished_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").touch()
    mirror = tmp_path / "mirror"
    file(mirror / "tree/d/.psync-partial/half")
    file(mirror / "tree/.psync-partial")
    file(mirror / "tree/f")
    (mirror / "outside").mkdir()
    (mirror / "outside/link").symlink_to(tmp_path / "elsewhere")
    (mirror / "outside/.psync-partial").symlink_to(tmp_path / "elsewhere")
    assert removed(mirror, None) == {
        "tree/d/.psync-partial",
        "tree/d/.psync-partial/half",
        "tree/.psync-partial",
    }
    assert (tmp_path / "elsewhere/kept").exists()


def test_what_a_killed_rsync_was_writing(tmp_path: Path) -> None:
    for name in ("d/f", "d/a.b", "d/new\nline"):
        file(tmp_path / name, 0o644)
    gone = {"d/.f.ab12CD", "d/.a.b.000000", "d/.new\nline.ZZZZZZ"}
    for name in gone:
        file(tmp_path / name)
    for name in ("d/.f.short", "d/.f.ab-2CD", "d/f.ab12CD", "d/.other.ab12CD", "d/..ab12CD"):
        file(tmp_path / name)
    file(tmp_path / "d/.f.readme", 0o644)
    file(tmp_path / "d/.f.longer", at=5 * SECOND - 1)
    (tmp_path / "d/.f.folder").mkdir(mode=0o600)
    (tmp_path / "d/.f.alinkk").symlink_to("f")
    assert removed(tmp_path, None) == set()
    assert removed(tmp_path, 5 * SECOND) == gone
