"""The daemon's end of the launcher, with a real launcher process."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.waiting import alive, wait_until

from psync.daemon.launcher import Launcher, LaunchError
from psync.supervisor import record


@pytest.fixture
async def launcher() -> AsyncIterator[Launcher]:
    launcher = Launcher()
    await launcher.start()
    yield launcher
    await launcher.close()


def directory(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir(0o700)
    spec = record.Spec(argv=[b"/bin/true"], env=[], cwd=b"/")
    record.write_spec(str(path), spec)
    return path


def pid_of(launcher: Launcher) -> int:
    assert launcher._process is not None
    return launcher._process.pid


def ended(path: Path) -> bool:
    return (path / "exit.json").exists() and not (path / "ctl").exists()


async def test_a_launch(launcher: Launcher, tmp_path: Path) -> None:
    path = directory(tmp_path, "run")
    await launcher.launch(str(path))
    wait_until(lambda: ended(path))
    assert record.read_exit(str(path)).code == 0


async def test_a_spec_that_is_damaged(launcher: Launcher, tmp_path: Path) -> None:
    path = directory(tmp_path, "run")
    (path / "spec.json").write_bytes(b"{")
    with pytest.raises(LaunchError, match=r"spec\.json"):
        await launcher.launch(str(path))
    await launcher.launch(str(directory(tmp_path, "other")))


async def test_a_launcher_that_died_is_replaced_before_it_is_needed(
    launcher: Launcher, tmp_path: Path
) -> None:
    first = pid_of(launcher)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first))
    path = directory(tmp_path, "run")
    await launcher.launch(str(path))
    assert pid_of(launcher) != first
    wait_until(lambda: ended(path))


async def test_one_that_hangs_is_killed_and_the_next_run_gets_another(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psync.daemon.launcher.LAUNCH_TIMEOUT", 0.2)
    monkeypatch.setattr("psync.daemon.launcher.EXIT_TIMEOUT", 0.2)
    first = pid_of(launcher)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(LaunchError, match="launcher"):
        await launcher.launch(str(directory(tmp_path, "run")))
    assert not alive(first)
    monkeypatch.undo()
    path = directory(tmp_path, "other")
    await launcher.launch(str(path))
    wait_until(lambda: ended(path))


async def test_when_none_can_be_started_the_next_run_tries_again(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pid_of(launcher)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not alive(first))
    with monkeypatch.context() as patch:
        patch.setattr("psync.daemon.launcher.command", lambda *_given: ["/nonexistent/launcher"])
        for name in "ab":
            with pytest.raises(LaunchError):
                await launcher.launch(str(directory(tmp_path, name)))
    await launcher.launch(str(directory(tmp_path, "c")))


async def test_closing_ends_the_process(tmp_path: Path) -> None:
    launcher = Launcher()
    await launcher.start()
    pid = pid_of(launcher)
    await launcher.close()
    assert not alive(pid)
    await launcher.close()
