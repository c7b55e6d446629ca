"""``psync sync`` as it is typed: what it lists, and how it explains."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.support.field import Field


@pytest.fixture
def field() -> Iterator[Field]:
    with Field(sshd=False) as made:
        (made.project / "a").write_text("a")
        (made.project / "a.o").write_text("o")
        (made.project / ".psyncignore").write_text("*.o\n")
        yield made


def test_a_dry_run_lists_and_changes_nothing(field: Field) -> None:
    for _ in range(2):
        done = field.psync("sync", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert b"send tree/a\n" in done.stdout
        assert b"a.o" not in done.stdout
    assert field.psync("sync").returncode == 0
    done = field.psync("sync", "-n")
    assert (done.stdout, done.stderr) == (b"", b"psync: there is nothing to send or to remove\n")
    (field.project / "a").unlink()
    (field.project / "b").write_text("b")
    done = field.psync("sync", "-n", "--json")
    assert json.loads(done.stdout) == {"send": ["tree/b"], "remove": ["tree/a"]}
    done = field.psync("sync")
    assert b"sent 1 file, removed 1" in done.stderr


def test_why_names_the_pattern(field: Field) -> None:
    done = field.psync("sync", "--why", "a.o", "--why", "a")
    assert done.returncode == 1
    out, kept = done.stdout.decode().splitlines()
    assert "a.o: not sent: left out by" in out
    assert out.endswith(".psyncignore:1: *.o")
    assert "a: sent" in kept
