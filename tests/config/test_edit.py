"""Targets written into a user's file."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tomllib
from pathlib import Path

import pytest

from psync.config.edit import add_target, remove_target
from psync.errors import ConfigError, UsageError

MINE = """\
# what I like
target = "deck"   # always

[run.env]
A = "1"
"""


def test_a_file_is_made_and_private(tmp_path: Path) -> None:
    path = tmp_path / "psync" / "config.toml"
    add_target(str(path), "deck", {"host": "deck@deck.lan", "connect": "ssh"})
    assert path.read_text() == '[targets.deck]\nhost = "deck@deck.lan"\nconnect = "ssh"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_comments_and_order_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(MINE)
    add_target(str(path), "deck", {"host": "a"})
    assert path.read_text() == f'{MINE}\n[targets.deck]\nhost = "a"\n'
    add_target(str(path), "pi", {"host": "b"})
    assert path.read_text() == f'{MINE}\n[targets.deck]\nhost = "a"\n\n[targets.pi]\nhost = "b"\n'
    assert remove_target(str(path), "deck")
    assert remove_target(str(path), "pi")
    assert path.read_text() == MINE
    assert not remove_target(str(path), "pi")


def test_settings_that_are_not_given_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[targets.deck]\nssh = "ssh -v" # loud\nhost = "old"\n')
    add_target(str(path), "deck", {"host": "new", "address": "a:1"})
    assert path.read_text() == (
        '[targets.deck]\nssh = "ssh -v" # loud\nhost = "new"\naddress = "a:1"\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        'targets = {a = {host = "x"}}\n',
        'targets.a.host = "x"\n',
        '[targets]\na = {host = "x"}\n',
        '[targets.a]\nhost = "x"\n[sync]\ninclude = ["i"]\n[targets.b]\nhost = "z"\n',
        '[targets.a]\nhost = "x"\n[targets.b.c]\n'.replace(".c", ""),
    ],
)
def test_however_the_file_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    before = tomllib.loads(text)
    add_target(str(path), "deck", {"host": "d"})
    after = tomllib.loads(path.read_text())
    assert after["targets"].pop("deck") == {"host": "d"}
    assert after == before
    assert remove_target(str(path), "deck")
    assert tomllib.loads(path.read_text()) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("target = ", r"config\.toml:1: not valid TOML"),
        ("\nnonsense = 1", r"config\.toml:2: nonsense: unknown key"),
    ],
)
def test_a_file_that_is_not_right_is_not_touched(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        add_target(str(path), "deck", {"host": "x"})
    with pytest.raises(ConfigError, match=problem):
        remove_target(str(path), "deck")
    assert path.read_text() == text
    assert os.listdir(tmp_path) == ["config.toml"]


@pytest.mark.parametrize("settings", [{"host": "-oX"}, {"hots": "x"}, {"connect": "no"}])
def test_nothing_wrong_is_written(tmp_path: Path, settings: dict[str, str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text(MINE)
    with pytest.raises(ConfigError, match=r"config\.toml:8: targets\.deck\."):
        add_target(str(path), "deck", settings)
    assert path.read_text() == MINE


def test_a_name_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'a/b' cannot name a target"):
        add_target(str(tmp_path / "config.toml"), "a/b", {"host": "x"})
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text(MINE)
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    add_target(str(link), "deck", {"host": "x"})
    assert link.is_symlink()
    assert "[targets.deck]" in real.read_text()


def _add(path: str, name: str) -> None:
    add_target(path, name, {"host": name})


def test_two_at_once_do_not_lose_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "config.toml")
    names = [f"t{number}" for number in range(6)]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
        assert process.exitcode == 0
    assert sorted(tomllib.loads(Path(path).read_text())["targets"]) == names
