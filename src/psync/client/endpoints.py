"""Which transport brings a target's files there."""

from __future__ import annotations

from psync.client.hosts import shared_connection
from psync.client.targets import TargetSpec
from psync.model import HostFacts
from psync.paths import ClientPaths
from psync.sync.carrier import Carrier
from psync.sync.endpoint import Endpoint, LocalEndpoint, SSHEndpoint, WebsocketEndpoint


def endpoint_of(
    spec: TargetSpec, paths: ClientPaths, facts: HostFacts, carrier: Carrier
) -> Endpoint:
    """Return where a target's mirrors are, and how to get there.

    Args:
        spec: the target.
        paths: the client's directories.
        facts: what the daemon says about its host.
        carrier: its connection, for targets whose ``transport`` is that.
    """
    if spec.local:
        return LocalEndpoint(facts.projects_root)
    if spec.transport == "websocket":
        return WebsocketEndpoint(
            carrier,
            projects_root=facts.projects_root,
            rsync=facts.rsync,
            host=spec.name,
            destination=spec.host,
        )
    return SSHEndpoint(
        shared_connection(spec, paths),
        projects_root=facts.projects_root,
        rsync=facts.rsync,
        host=spec.name,
    )
