"""Fixtures: a daemon per module for tests that leave it as it was, a home per test for others, and
runs without any daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.supervisor.support import Launcher, Runs
from tests.support.daemon import Home


@pytest.fixture(scope="module")
def shared() -> Iterator[Home]:
    """A daemon that runs, for tests that do it no harm."""
    with Home() as home:
        home.start()
        yield home


@pytest.fixture
def home() -> Iterator[Home]:
    """The home of a daemon that is to be started."""
    with Home() as home:
        yield home


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """Runs with a launcher of their own."""
    launcher = Launcher()
    try:
        yield (runs := Runs(tmp_path, launcher))
        runs.close()
    finally:
        launcher.close()
