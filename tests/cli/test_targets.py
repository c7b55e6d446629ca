"""``psync targets``, from files alone."""

from __future__ import annotations

import json

from tests.support.fake_link import FACTS
from tests.support.field import Field

from psync.client.targets import FORMAT, TargetFiles, TargetRecord
from psync.paths import ClientPaths


def configure(field: Field) -> None:
    field.config.parent.mkdir(parents=True)
    field.config.write_text(
        'target = "handheld"\n'
        '[targets.handheld]\nhost = "deck@handheld.lan"\naddress = "10.0.0.7:8722"\n'
        "[targets.board]\n"
    )
    record = TargetRecord(
        FORMAT, "deck@handheld.lan", "10.0.0.7", "/x", "d.invalid", 8722, ("0.0.0.0:8722",), FACTS
    )
    TargetFiles(ClientPaths.from_environ(field.env), "handheld").write(record)


def test_a_table_with_the_default_marked() -> None:
    with Field(sshd=False) as field:
        configure(field)
        done = field.psync("targets")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().splitlines() == [
            "  board     board              not paired; psync pair board",
            "* handheld  deck@handheld.lan  paired: fake, Linux x86_64",
            "  local     this machine       started on first use",
        ]


def test_json() -> None:
    with Field(sshd=False) as field:
        configure(field)
        rows = json.loads(field.psync("targets", "--json").stdout)
        assert [row["name"] for row in rows] == ["board", "handheld", "local"]
        assert rows[1] == {
            "name": "handheld",
            "host": "deck@handheld.lan",
            "default": True,
            "connect": "auto",
            "transport": "ssh",
            "address": ["10.0.0.7", 8722],
            "paired": True,
            "hostname": "fake",
            "system": "Linux",
            "machine": "x86_64",
            "state": "paired: fake, Linux x86_64",
        }


def test_a_damaged_record_is_named_and_the_others_listed() -> None:
    with Field(sshd=False) as field:
        configure(field)
        record = field.data / "targets/handheld/target.json"
        record.write_text("{")
        done = field.psync("targets")
        assert done.returncode == 0
        (line,) = [line for line in done.stdout.decode().splitlines() if "handheld" in line]
        assert "damaged" in line
        assert "pair the target again" in line


def test_the_projects_own_targets_are_listed_in_its_subdirectories() -> None:
    with Field(sshd=False) as field:
        (field.project / "psync.toml").write_text('target = "lab"\n[targets.lab]\nhost = "lab1"\n')
        (field.project / "sub").mkdir()
        done = field.psync("targets", cwd=field.project / "sub")
        assert "* lab " in done.stdout.decode()
