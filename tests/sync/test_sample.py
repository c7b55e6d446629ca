"""How well files can be compressed."""

from __future__ import annotations

import os
import random
from pathlib import Path

from psync.sync.sample import FILES, HOLES, PIECE, compressed_ratio, has_holes

NOISE = random.Random(3).randbytes(300_000)
TEXT = b"".join(b"line %d of a text\n" % number for number in range(20_000))


def listed(*paths: Path) -> list[tuple[bytes, int]]:
    return [(os.fsencode(path), path.stat().st_size) for path in paths]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_noise_and_text_are_told_apart(tmp_path: Path) -> None:
    noise, text = write(tmp_path / "noise", NOISE), write(tmp_path / "text", TEXT)
    assert compressed_ratio(listed(noise)) > 0.99
    assert compressed_ratio(listed(text)) < 0.4


def test_files_count_by_their_size(tmp_path: Path) -> None:
    noise, text = write(tmp_path / "noise", NOISE * 9), write(tmp_path / "text", TEXT)
    assert 0.85 < compressed_ratio(listed(text, noise)) < 0.99


def test_only_the_biggest_are_looked_into(tmp_path: Path) -> None:
    big = [write(tmp_path / f"big{number}", NOISE) for number in range(FILES)]
    small = [write(tmp_path / f"small{number}", TEXT[:1000]) for number in range(50)]
    assert compressed_ratio(listed(*small, *big)) == compressed_ratio(listed(*big))


def test_the_beginning_of_a_file_does_not_speak_for_all_of_it(tmp_path: Path) -> None:
    image = write(tmp_path / "image", bytes(PIECE) + NOISE)
    assert compressed_ratio(listed(image)) > 0.99


def test_a_small_file_is_read_to_its_end(tmp_path: Path) -> None:
    assert compressed_ratio(listed(write(tmp_path / "small", bytes(100)))) < 0.3


def test_what_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    gone = (os.fsencode(tmp_path / "gone"), 5000)
    assert compressed_ratio([gone, (os.fsencode(pipe), 5000)]) == 1.0
    assert compressed_ratio([]) == 1.0
    text = write(tmp_path / "text", TEXT)
    assert compressed_ratio([gone, *listed(text)]) == compressed_ratio(listed(text))
    # it has become shorter since it was listed
    assert compressed_ratio([(os.fsencode(write(tmp_path / "cut", b"")), 5000)]) == 1.0


def test_holes_count_where_they_save_much(tmp_path: Path) -> None:
    whole, hollow, little = (tmp_path / name for name in ("whole", "hollow", "little"))
    write(whole, bytes(4 * HOLES))
    for path, size in ((hollow, 4 * HOLES), (little, HOLES // 2)):
        path.touch()
        os.truncate(path, size)
    assert has_holes(listed(whole, hollow))
    assert not has_holes(listed(whole, little))
    hollow.unlink()
    assert not has_holes([(os.fsencode(hollow), 4 * HOLES)])
