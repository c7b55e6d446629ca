"""Which transport a target's files take."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.fake_link import FACTS, FakeDaemon

from psync.client.endpoints import endpoint_of
from psync.client.lifeline import Lifeline
from psync.client.targets import TargetSpec
from psync.client.transfers import Transfers
from psync.paths import ClientPaths
from psync.sync.endpoint import LocalEndpoint, SSHEndpoint, WebsocketEndpoint


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (TargetSpec("laptop", "me@laptop.lan"), SSHEndpoint),
        (TargetSpec("laptop", "me@laptop.lan", transport="websocket"), WebsocketEndpoint),
        (TargetSpec("local"), LocalEndpoint),
        (TargetSpec("local", transport="websocket"), LocalEndpoint),
    ],
)
async def test_the_transport_decides(spec: TargetSpec, kind: type, tmp_path: Path) -> None:
    carrier = Transfers(Lifeline(FakeDaemon().dial))  # type: ignore[arg-type]
    paths = ClientPaths.from_environ({"HOME": str(tmp_path)})
    endpoint = endpoint_of(spec, paths, FACTS, carrier)
    assert type(endpoint) is kind
    assert endpoint.projects_root == b"/projects"
    if not spec.local:
        # What is known of the mirrors stays known when the transport changes.
        assert (endpoint.host, endpoint.destination) == ("laptop", "me@laptop.lan")
