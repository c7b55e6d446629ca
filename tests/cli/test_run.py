"""From the command line of ``psync run`` to what is asked of the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from psync.cli.order import Order
from psync.cli.run import parse_order
from psync.errors import UsageError
from psync.model import Overflow

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "game"
    (root / ".git").mkdir(parents=True)
    (root / ".git/HEAD").write_text(f"{REVISION}\n")
    (root / "psync.toml").touch()
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PSYNC_TARGET", "PSYNC_ON_DISCONNECT", "PSYNC_OVERFLOW"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(root)
    return root


def order(*words: str) -> Order:
    return parse_order(list(words))


@pytest.mark.usefixtures("project")
def test_without_options() -> None:
    plain = order("true", "-d", "-E", "x")
    assert plain.spec.argv == (b"true", b"-d", b"-E", b"x")
    assert (plain.detach, plain.escape, plain.on) == (False, b"~", "")
    assert plain.spec.disconnect_grace == 300.0
    assert plain.spec.overflow is Overflow.BLOCK
    assert plain.spec.revision == REVISION


@pytest.mark.usefixtures("project")
def test_a_detached_run_is_kept_unless_it_is_said_otherwise() -> None:
    assert order("-d", "true").spec.disconnect_grace is None
    assert order("-d", "--on-disconnect", "stop:2m", "true").spec.disconnect_grace == 120.0
    assert order("--on-disconnect", "keep", "true").spec.disconnect_grace is None


def test_overflow_is_an_option_and_a_setting(project: Path) -> None:
    assert order("--overflow", "drop", "true").spec.overflow is Overflow.DROP
    (project / "psync.toml").write_text('[run]\noverflow = "drop"\n')
    assert order("true").spec.overflow is Overflow.DROP
    assert order("--overflow", "block", "true").spec.overflow is Overflow.BLOCK
    with pytest.raises(UsageError, match="--overflow"):
        order("--overflow", "burst", "true")


@pytest.mark.usefixtures("project")
def test_what_was_not_sent_has_no_known_revision() -> None:
    assert order("--no-sync", "true").spec.revision == ""


@pytest.mark.usefixtures("project")
def test_how_to_come_back_to_the_same_target() -> None:
    assert order("--on", "local", "true").on == " --on local"


@pytest.mark.usefixtures("project")
def test_the_escape_character() -> None:
    assert order("-E", "none", "true").escape is None
    assert order("--escape", "%", "true").escape == b"%"
    with pytest.raises(UsageError, match="escape character"):
        order("-E", "ab", "true")
