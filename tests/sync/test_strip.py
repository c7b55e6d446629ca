"""Copies without what only debuggers need: never of another content than the program's."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.elves import elf

from psync.errors import Interrupted
from psync.sync import strip
from psync.sync.elf import debug_size
from psync.sync.strip import StripCache, StripError, strip_hint

pytestmark = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("strip")), reason="no compiler"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two programs of equal size that say 1 and 2."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("1", "2"):
        (folder / "main.c").write_text(f"int main(void) {{ return {name}; }}\n")
        subprocess.run(
            ["gcc", "-g", "-o", folder / name, folder / "main.c"], check=True, timeout=60
        )
    assert (folder / "1").stat().st_size == (folder / "2").stat().st_size
    return folder


class Home:
    """A client's state, and a log of what tools were run."""

    def __init__(self, folder: Path, tool: str | None = None) -> None:
        self.state = folder / "state"
        self.program = folder / "game"
        self.log = folder / "log"
        tools = folder / "tools"
        tools.mkdir()
        text = tool or f'echo run >> "{self.log}"; exec {shutil.which("strip")} "$@"'
        (tools / "strip").write_text(f"#!/bin/sh\n{text}\n")
        (tools / "strip").chmod(0o755)
        self.environ = {"PATH": str(tools)}

    def cache(self, **options: object) -> StripCache:
        return StripCache(str(self.state), self.environ, **options)  # type: ignore[arg-type]

    def copy(self) -> Path | None:
        base = self.cache().copy(bytes(self.program), b"bin/game")
        return None if base is None else Path(os.fsdecode(base)) / "bin/game"

    @property
    def runs(self) -> int:
        return len(self.log.read_text().split()) if self.log.exists() else 0


def status(program: Path) -> int:
    return subprocess.run([program], check=False, timeout=60).returncode


def debug(path: Path) -> int:
    data = path.read_bytes()
    return debug_size(lambda offset, size: data[offset : offset + size])


@pytest.fixture
def home(tmp_path: Path, built: Path) -> Home:
    made = Home(tmp_path)
    shutil.copy(built / "1", made.program)
    return made


def age(path: Path, seconds: int) -> None:
    """Give a file another time of modification."""
    old = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(old, old))


def test_a_copy_is_made_once_and_runs(home: Home) -> None:
    home.program.chmod(0o750)
    copy = home.copy()
    assert copy is not None
    assert status(copy) == 1
    assert debug(home.program) > 0 == debug(copy)
    assert copy.stat().st_mtime_ns == home.program.stat().st_mtime_ns
    assert copy.stat().st_mode == home.program.stat().st_mode
    assert home.copy() == copy
    age(home.program, 100)  # touched, and still the same
    assert home.copy() == copy
    assert copy.stat().st_mtime_ns == home.program.stat().st_mtime_ns
    assert home.runs == 1


def test_another_content_is_never_taken_for_the_same(home: Home, built: Path) -> None:
    """Same size, same times, same inode, written at once: only reading tells."""
    stamp = home.program.stat().st_mtime_ns
    for name in ("1", "2", "1", "2", "2", "1"):
        with home.program.open("r+b") as file:
            file.write((built / name).read_bytes())
        os.utime(home.program, ns=(stamp, stamp))
        copy = home.copy()
        assert copy is not None
        assert status(copy) == int(name)
    assert home.runs == 2


def test_what_is_known_for_sure_is_not_read_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strip, "_SURE", -(10**15))  # as if it had been there for a while
    copy = home.copy()
    digests = []

    def digest(file: io.FileIO, name: str) -> hashlib._Hash:
        digests.append(name)
        return real(file, name)

    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", digest)
    assert home.copy() == copy
    assert digests == []
    age(home.program, 100)
    assert home.copy() == copy
    assert len(digests) == 1


def test_nothing_to_leave_out(home: Home) -> None:
    subprocess.run([str(shutil.which("strip")), home.program], check=True, timeout=60)
    assert home.copy() is None
    home.program.write_text("#!/bin/sh\n")
    assert home.copy() is None
    assert home.runs == 0


def test_a_lost_or_damaged_note_is_no_matter(home: Home) -> None:
    copy = home.copy()
    (note,) = (home.state / "stripped/seen").iterdir()
    for text in (b"", b"{}", b"\xff"):
        note.write_bytes(text)
        assert home.copy() == copy
    note.unlink()
    assert home.copy() == copy
    assert copy is not None
    copy.unlink()
    assert home.copy() == copy
    assert status(copy) == 1


@pytest.mark.parametrize(
    ("tool", "words"),
    [("exit 3", "status 3"), ("exit 0", "made nothing"), ("kill -9 $$", "status -9")],
)
def test_a_tool_that_fails_leaves_nothing(
    tmp_path: Path, built: Path, tool: str, words: str
) -> None:
    home = Home(tmp_path, tool)
    shutil.copy(built / "1", home.program)
    with pytest.raises(StripError, match=words):
        home.copy()
    assert [path.name for path in (home.state / "stripped").iterdir()] == ["seen"]


def test_no_tool_at_all(home: Home) -> None:
    home.environ["PATH"] = str(home.state)
    with pytest.raises(StripError, match="install binutils or llvm"):
        home.copy()


def test_a_tool_that_hangs_is_ended(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, "exec /bin/sleep 1000")
    shutil.copy(built / "1", home.program)
    with pytest.raises(Interrupted):
        home.cache(cancelled=lambda: True).copy(bytes(home.program), b"game")
    monkeypatch.setattr(strip, "TIMEOUT", 0.0)
    with pytest.raises(StripError, match="did not end"):
        home.copy()


def test_a_program_that_is_written_to_meanwhile(tmp_path: Path, built: Path) -> None:
    real = shutil.which("strip")
    home = Home(tmp_path, f'{real} "$@"; for last; do :; done; echo more >> "$last"')
    shutil.copy(built / "1", home.program)
    with pytest.raises(StripError, match="written to meanwhile"):
        home.copy()
    assert [path.name for path in (home.state / "stripped").iterdir()] == ["seen"]


def test_for_another_cpu_its_own_tool_is_taken(home: Home, tmp_path: Path) -> None:
    number, name = (183, "aarch64") if os.uname().machine != "aarch64" else (22, "s390x")
    little = name == "aarch64"
    home.program.write_bytes(elf(number=number, little=little, sections=((b".debug_x", 9),)))
    tool = tmp_path / f"tools/{name}-linux-gnu-strip"
    tool.write_text('#!/bin/sh\n[ "$1 $2" = "--strip-debug -o" ] && /bin/cp /bin/true "$3"\n')
    tool.chmod(0o755)
    copy = home.copy()
    assert copy is not None
    assert copy.read_bytes() == Path("/bin/true").read_bytes()
    assert home.runs == 0


def test_only_so_many_bytes_are_kept(home: Home, built: Path) -> None:
    first = home.copy()
    assert first is not None
    limit = int(first.stat().st_size * 1.5)
    shutil.copy(built / "2", home.program)
    base = home.cache(most=limit).copy(bytes(home.program), b"bin/game")
    assert base is not None
    assert not first.exists()
    assert status(Path(os.fsdecode(base)) / "bin/game") == 2


def test_the_hint_comes_once_for_each_content(
    home: Home, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert strip_hint(bytes(home.program), str(home.state)) == ""
    monkeypatch.setattr(strip, "WORTH_A_HINT", 100)
    for name in ("1", "2"):
        shutil.copy(built / name, home.program)
        text = strip_hint(bytes(home.program), str(home.state))
        assert text.endswith("--strip debug sends it without them")
        assert strip_hint(bytes(home.program), str(home.state)) == ""
    assert strip_hint(bytes(home.program) + b"-gone", str(home.state)) == ""
