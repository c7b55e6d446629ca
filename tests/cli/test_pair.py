"""psync pair's command line: what does not go together, and the name a target gets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from psync.cli import pair
from psync.client.targets import FORMAT, TargetFiles, TargetRecord
from psync.config import load_client
from psync.errors import UsageError
from psync.model import HostFacts
from psync.paths import ClientPaths
from psync.transport.invitation import Invitation, write_invitation

TEXT = write_invitation(Invitation((("192.0.2.1", 1),), bytes(32), bytes(16)))
FACTS = HostFacts("box", "Linux", "x86_64", b"/p", None, "/bin/psync-server", "0.1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [one for one in os.environ if one.startswith(("XDG_", "PSYNC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give a host, or an invitation with --invite"),
        (["host", "--invite", TEXT], "host does not go with --invite"),
        (["--invite", TEXT, "--server", "/x"], "--server does not go with --invite"),
        (["--invite", TEXT, "--restrict-ssh"], "--restrict-ssh does not go with --invite"),
        (["--invite", TEXT, "--name", "../x"], "--name: "),
        (["--invite", TEXT, "--name", "local"], "--name: "),
        (["--invite", TEXT, "--ssh", "ssh '"], "quotation"),
        (["--invite", ""], "no invitation"),
        (["--invite", "hello"], "no invitation"),
        (["--invite", TEXT[:-5]], "cut off"),
        (["--invite", f"{TEXT[:-1]}0"], "changed"),
        (["--invite", "x" * 100_000], "never longer"),
    ],
)
@pytest.mark.usefixtures("home")
def test_what_is_wrong_is_found_before_anything_is_done(
    words: list[str], complaint: str, home: Path
) -> None:
    with pytest.raises(UsageError, match=complaint):
        pair.main(words)
    assert list(home.iterdir()) == []


def known(paths: ClientPaths, name: str, server_name: str) -> None:
    TargetFiles(paths, name).write(
        TargetRecord(FORMAT, name, name, "/x", server_name, 1, (), FACTS)
    )


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("box", "box"),
        ("box.example.org", "box"),
        ("Zoë's box", "Zo-s-box"),
        ("-x", "x"),
        ("..", "daemon"),
        ("", "daemon"),
        ("\x1b[2J", "2J"),
        ("../../etc", "daemon"),
        ("local", "local-2"),
        ("x" * 300, "x" * 50),
        ("taken", "taken-2"),
        ("mine", "mine"),
        ("configured", "configured-2"),
        ("damaged", "damaged-2"),
    ],
)
def test_a_name_that_belongs_to_no_other_daemon(home: Path, hostname: str, expected: str) -> None:
    paths = ClientPaths.from_environ(os.environ)
    known(paths, "taken", "other")
    known(paths, "mine", "this")
    os.makedirs(paths.target("damaged"))
    Path(paths.target("damaged"), "target.json").write_text("{")
    os.makedirs(paths.config, 0o700)
    Path(paths.config_file).write_text('[targets.configured]\nhost = "x"\n')
    config = load_client(project_root=None, environ=os.environ)
    assert pair._free_name(hostname, "this", paths, config) == expected
    assert home.is_dir()
