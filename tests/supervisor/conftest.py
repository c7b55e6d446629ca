"""Fixtures: a launcher per module, runs per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.supervisor.support import Launcher, Runs


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def runs(tmp_path: Path, launcher: Launcher) -> Iterator[Runs]:
    runs = Runs(tmp_path, launcher)
    yield runs
    runs.close()
