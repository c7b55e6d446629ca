"""What a client makes of a daemon that hangs up without a word."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.faults.world import World

from psync.errors import NotPaired
from psync.transport import certificates
from psync.transport.authority import Authority
from psync.transport.connect import HungUp
from psync.transport.identity import ClientIdentity


def give(world: World, signed: bytes) -> None:
    """Give the client another certificate."""
    Path(world.target._connector.files.certificate).write_bytes(signed)


async def test_a_certificate_that_has_expired_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "EARLIEST", 0.0)
    async with World() as world:
        identity = ClientIdentity.load_or_create(world.target._connector._paths.identity)
        authority = Authority.load_or_create(world.home.paths.ca)
        then = time.time() - certificates.LEAF_LIFETIME - 3600
        give(world, authority.sign_client(identity.csr("desk"), "desk", then).pem)
        with pytest.raises(NotPaired, match="has expired") as caught:
            await world.target.open()
        assert "psync pair 127.0.0.1" in caught.value.hint


async def test_a_daemon_that_always_hangs_up_has_said_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World() as world:

        async def hang_up(*_arguments: object, **_options: object) -> None:
            raise HungUp("it hung up", hint="try again; if it stays so, run: psync pair HOST")

        monkeypatch.setattr("psync.client.connect.connect", hang_up)
        with pytest.raises(HungUp) as caught:
            await world.target.open()
        assert caught.value.hint.endswith("run: psync pair 127.0.0.1 --name there")
