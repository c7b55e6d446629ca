"""Which patterns count in a directory."""

import os
from pathlib import Path

from psync.sync.rules import LONGEST, Rules, read_rules


def rules(root: Path, *exclude: bytes) -> Rules:
    return Rules(os.fsencode(root), exclude, os.environ)


def test_a_file_of_patterns_is_a_regular_one_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / ".psyncignore"
    assert read_rules(os.fsencode(path)) is None
    os.mkfifo(path)
    assert read_rules(os.fsencode(path)) is None
    path.unlink()
    (tmp_path / "secret").write_text("x\n")
    path.symlink_to("secret")
    assert read_rules(os.fsencode(path)) is None
    path.unlink()
    path.write_bytes(b"#" * LONGEST + b"\nx\n")
    read = read_rules(os.fsencode(path))
    assert read is not None
    assert read.rules == ()


def test_the_nearest_file_decides(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / ".psyncignore").write_text("*.x\n")
    (tmp_path / "a/.psyncignore").write_text("!k.x\n")
    made = rules(tmp_path, b"*.y", b"!z.x")
    scope = made.scope(os.fsencode(tmp_path / "a"))
    scope = made.enter(scope, os.fsencode(tmp_path / "a"), [b".psyncignore"])
    left = {
        name: made.leaves_out(scope, os.fsencode(tmp_path / "a" / name))
        for name in ("k.x", "z.x", "1.y", "1.z")
    }
    assert left == {"k.x": False, "z.x": True, "1.y": True, "1.z": False}


def test_outside_of_the_project_its_patterns_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "q").mkdir()
    made = rules(tmp_path / "p", b"*")
    scope = made.scope(os.fsencode(tmp_path / "q"))
    assert not made.leaves_out(scope, os.fsencode(tmp_path / "q/x"))
    assert made.leaves_out(made.scope(os.fsencode(tmp_path / "p")), os.fsencode(tmp_path / "p/x"))
