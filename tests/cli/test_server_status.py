"""``psync-server status``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.daemon import Home, shell
from tests.support.waiting import wait_until

from psync.cli.server_status import reach
from psync.daemon.invitations import Invitations
from psync.daemon.seen import read_sightings


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("127.0.0.1:7000", "host"),
        ("127.8.0.1:7000", "host"),
        ("[::1]:7000", "host"),
        ("[::ffff:127.0.0.1]:7000", "host"),
        ("0.0.0.0:7000", "everywhere"),
        ("[::]:7000", "everywhere"),
        ("192.168.1.7:7000", "network"),
        ("10.0.0.7:7000", "network"),
        ("[fe80::1%eth0]:7000", "network"),
        ("[fd00::1]:7000", "network"),
        ("8.8.8.8:7000", "everywhere"),
        ("[2600::1]:7000", "everywhere"),
    ],
)
def test_from_where_an_address_is_reached(name: str, where: str) -> None:
    assert reach(name) == where


def status(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(home.server("status", "--json").stdout)
    return found


def test_a_daemon_that_does_not_run(home: Home) -> None:
    done = home.server("status")
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        "psync-server does not run; psync-server start starts it",
        "invitations: none outstanding",
        "clients: 0 paired",
        "runs: 0 active",
    ]


async def test_who_is_there(home: Home) -> None:
    home.pair("laptop")
    assert home.server("revoke", "laptop").returncode == 0
    home.start("--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0")
    async with home.client("desk") as client:
        run = client.start(*shell("echo on; read x"))
        await run.shows(b"on\n")
        wait_until(lambda: read_sightings(home.paths.seen).clients)
        known = status(home)
        assert [one["from"] for one in known["reach"]] == ["host", "everywhere"]
        assert known["reach"][0]["address"] == known["daemon"]["listen"][0]
        names = ("invitations", "paired", "revoked", "connected", "connections", "runs")
        assert [known[name] for name in names] == [0, 1, 1, 1, 1, 1]
        Invitations(home.paths.invitations).create(life=60.0)
        lines = home.server("status").stdout.decode().splitlines()
        assert lines[1].endswith("(from this host only; clients come through ssh)")
        assert lines[2].endswith("(from everywhere that leads to this host)")
        assert lines[3].startswith("invitations: 1 outstanding")
        assert lines[4:] == ["clients: 1 paired, 1 connected, 1 revoked", "runs: 1 active"]
        run.send(b"\n")
        await run.ended()
        wait_until(lambda: status(home)["runs"] == 0)


def test_invitations_that_cannot_be_read(home: Home) -> None:
    path = Path(home.paths.invitations)
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_text('{"version": 99}')
    assert "cannot be read" in home.server("status").stdout.decode()
    assert status(home)["invitations"] is None
