import os
from pathlib import Path

import pytest

from psync.errors import ExecError, ProgramNotFound, PsyncError
from psync.sync.program import resolve_program


def resolve(word: str | bytes, cwd: Path) -> bytes | None:
    return resolve_program(os.fsencode(word), os.fsencode(cwd))


def make(path: Path, content: bytes = b"#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_path_and_the_name_of_a_file_here_are_files(tmp_path: Path) -> None:
    program = make(tmp_path / "game")
    for word in ("./game", "game", str(program), "../" + tmp_path.name + "/game"):
        assert resolve(word, tmp_path) == os.fsencode(program)


def test_a_bare_name_is_for_the_daemon_host(tmp_path: Path) -> None:
    assert resolve("python3", tmp_path) is None
    (tmp_path / "build").mkdir()
    assert resolve("build", tmp_path) is None  # a directory is no program


def test_a_link_leads_to_the_file_as_for_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    program = make(tmp_path / "out/game-1.2")
    (tmp_path / "latest").symlink_to("out")
    (tmp_path / "game").symlink_to("latest/game-1.2")
    assert resolve("./game", tmp_path) == os.fsencode(program)


def test_binaries_and_odd_names_are_fine(tmp_path: Path) -> None:
    name = b"-a \xff\n"
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"\x7fELF\x02\x01\x01\0")
    os.chmod(path, 0o755)
    assert resolve(b"./" + name, tmp_path) == path


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (b"", "is empty", "build"),
        (b"echo hello\n", "without an interpreter line", "#!/bin/sh"),
        (b"#!\n", "names none", "#!/bin/sh"),
        (b"#!   \necho\n", "names none", "#!/bin/sh"),
        (b"#!/bin/sh\r\necho\r\n", r"/bin/sh\\r", "sed -i"),
        (b"#!python3 -u\n", "python3 without a directory", "/usr/bin/env python3"),
    ],
)
def test_what_the_kernel_would_refuse(
    tmp_path: Path, content: bytes, words: str, hint: str
) -> None:
    make(tmp_path / "game", content)
    with pytest.raises(ExecError, match=words) as caught:
        resolve("./game", tmp_path)
    assert hint in caught.value.hint
    assert "./game" in caught.value.message
    assert caught.value.exit_status == 126


def test_a_program_that_is_not_executable(tmp_path: Path) -> None:
    make(tmp_path / "game", mode=0o644)
    with pytest.raises(ExecError, match="not executable") as caught:
        resolve("game", tmp_path)
    assert caught.value.hint == "chmod +x game"


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    make(tmp_path / "file")
    (tmp_path / "dangling").symlink_to("gone")
    for word, reason in (
        ("./game", "does not exist"),
        ("file/game", "does not exist"),
        ("./dangling", "link to gone"),
        ("dangling", "link to gone"),
        ("", "empty"),
    ):
        with pytest.raises(ProgramNotFound, match=reason) as caught:
            resolve(word, tmp_path)
        assert caught.value.exit_status == 127
        assert caught.value.hint


def test_what_is_no_file_at_all(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for word, reason in (
        ("./", "is a directory"),
        ("./fifo", "not a regular file"),
        ("./loop", "loop of symbolic links"),
    ):
        with pytest.raises(ExecError, match=reason):
            resolve(word, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_program_that_cannot_be_read_or_reached(tmp_path: Path) -> None:
    make(tmp_path / "game", mode=0o111)
    with pytest.raises(ExecError, match="cannot be read"):
        resolve("./game", tmp_path)
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(ExecError, match="cannot be reached"):
        resolve("closed/game", tmp_path)


def test_messages_are_harmless(tmp_path: Path) -> None:
    with pytest.raises(PsyncError) as caught:
        resolve("./\x1b[31mgame\n", tmp_path)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
