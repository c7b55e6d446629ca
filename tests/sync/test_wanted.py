"""Names that are asked for: as rsync takes them, and as what comes is compared with them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from psync.sync.wanted import ABOVE, INSIDE, STRANGE, Wanted, fixed_part


@pytest.mark.parametrize(
    ("asked", "name", "relation"),
    [
        (b"saves/slot1", b"saves/slot1", INSIDE),
        (b"saves/slot1", b"saves/slot1/deep/file", INSIDE),
        (b"saves/slot1", b"saves", ABOVE),
        (b"saves/slot1", b"saves/slot2", STRANGE),
        (b"saves/slot1", b"saves/slot10", STRANGE),
        (b"saves/slot1", b"other", STRANGE),
        (b"saves", b"saves/../../etc/passwd", STRANGE),
        (b"saves", b"saves/.git/hooks/post-checkout", STRANGE),
        (b"saves", b"saves/.GIT/config", STRANGE),
        (b"saves", b"saves//x", STRANGE),
        (b".", b"anything/at all", INSIDE),
        (b".", b".psync-mirror", STRANGE),
        (b"*.png", b"a.png", INSIDE),
        (b"*.png", b".png", INSIDE),
        (b"*.png", b"a.pngx", STRANGE),
        (b"*.png", b"a/b.png", STRANGE),
        (b"**.png", b"a/b.png", STRANGE),
        (b"*/core", b"bin", ABOVE),
        (b"*/core", b"bin/core", INSIDE),
        (b"*/core", b"bin/other", STRANGE),
        (b"s?", b"s1", INSIDE),
        (b"s?", b"s", STRANGE),
        (b"[a-c]1", b"b1", INSIDE),
        (b"[!a-c]1", b"b1", STRANGE),
        (b"[^a-c]1", b"d1", INSIDE),
        (b"[]a]1", b"]1", INSIDE),
        (b"[[:digit:]x]", b"7", INSIDE),
        (b"[[:digit:]x]", b"a", STRANGE),
        (b"a[1].txt", b"a1.txt", INSIDE),
        (b"a[1].txt", b"a[1].txt", INSIDE),
        (rb"a\[1].txt", b"a[1].txt", INSIDE),
        (rb"a\[1].txt", b"a1.txt", STRANGE),
        (rb"back\slash", rb"back\slash", INSIDE),
        (b"[z-a]", b"b", STRANGE),
        (b"[", b"[", INSIDE),
        (b"new\n*", b"new\nline", INSIDE),
        (b"\xff*", b"\xff\xfe", INSIDE),
    ],
)
def test_relations(asked: bytes, name: bytes, relation: str) -> None:
    assert Wanted([asked]).relation(name) == relation


def test_what_of_many_names_a_path_belongs_to() -> None:
    wanted = Wanted([b"a", b"a/b", b"*/b", b"c"])
    assert set(wanted.reached(b"a/b/x")) == {b"a", b"a/b", b"*/b"}
    assert set(wanted.reached(b"c")) == {b"c"}
    assert set(wanted.reached(b"d")) == set()


def test_the_fixed_part_ends_before_the_first_wildcard() -> None:
    assert fixed_part(b"a/b/c") == b"a/b/c"
    assert fixed_part(b"a/*/c") == b"a"
    assert fixed_part(b"*") == b""


NAME = st.text("ab*?[]!^-\\ #;+\n\u00fc", min_size=1, max_size=5).filter(
    lambda text: text not in (".", "..")
)


@settings(max_examples=40)
@given(names=st.sets(NAME, min_size=1, max_size=4), asked=st.lists(NAME, min_size=1, max_size=2))
def test_rsync_finds_the_same(
    names: set[str], asked: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What rsync selects by the rules is what the other test takes for asked for."""
    top = tmp_path_factory.mktemp("tree")
    for name in names:
        (top / "dir").mkdir(exist_ok=True)
        (top / "dir" / name).touch()
        (top / name).touch()
    wanted = Wanted([os.fsencode(name) for name in asked] + [b"dir/" + os.fsencode(asked[0])])
    rules = b"".join(rule + b"\0" for rule in wanted.rules())
    command = ["rsync", "-r", "--from0", "--include-from=-", "--exclude=*", f"{top}/"]
    into = tmp_path_factory.mktemp("into")
    subprocess.run([*command, f"{into}/"], input=rules, check=True, timeout=30)
    found = {os.fsencode(p.relative_to(into)) for p in into.rglob("*") if p.is_file()}
    everything = {os.fsencode(p.relative_to(top)) for p in top.rglob("*") if p.is_file()}
    assert found == {name for name in everything if wanted.relation(name) == INSIDE}


def test_every_name_of_the_rules_stands_for_itself(tmp_path: Path) -> None:
    assert Wanted([b"a/b"]).rules() == [b"/a/", b"/a/b", rb"/a/b/***"]
    assert Wanted([rb"a\b"]).rules() == [rb"/a\b", rb"/a\\b/***"]
    assert Wanted([b"."]).rules() == []
