"""``psync-server status``: whether the daemon runs, who can reach it and who is there."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from psync.errors import PsyncError
from psync.paths import ServerPaths

if TYPE_CHECKING:
    from psync.daemon.listening import Presence

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

JSON = """\
--json prints an object: running, daemon (null or: pid, started, software, port, listen), reach (a
list of objects with address and from: host, network or everywhere), invitations (how many are
outstanding), paired, revoked, connected (clients), connections, runs (active ones).
"""

REACH = {
    "host": "from this host only; clients come through ssh",
    "network": "from the network of that address",
    "everywhere": "from everywhere that leads to this host",
}


def register(commands: Commands) -> None:
    """Add the sub-command."""
    status = commands.add_parser(
        "status",
        help="say whether the daemon runs, where it listens and who can reach it",
        description="Say whether the daemon runs, from where each of its addresses can be reached, "
        "and whether an invitation is outstanding. The exit status is 0 if it runs, else 1. A "
        "firewall may stand before what is said to be reachable.",
        epilog=JSON,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)


def reach(name: str) -> str:
    """Return from where ``host:port`` can be reached: ``host``, ``network`` or ``everywhere``."""
    import ipaddress

    address = ipaddress.ip_address(name.rpartition(":")[0].strip("[]").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return "host"
    return "everywhere" if address.is_unspecified or address.is_global else "network"


def _status(options: argparse.Namespace) -> int:
    from psync.daemon.service import running

    paths = ServerPaths.from_environ(os.environ)
    presence = running(paths)
    known = _known(paths, presence)
    if options.json:
        print(json.dumps({"running": presence is not None, "daemon": _daemon(presence), **known}))
    else:
        _print(presence, known)
    return 0 if presence is not None else 1


def _daemon(presence: Presence | None) -> dict[str, object] | None:
    import msgspec

    return None if presence is None else dict(msgspec.to_builtins(presence))


def _known(paths: ServerPaths, presence: Presence | None) -> dict[str, object]:
    from psync.daemon.access import AccessList
    from psync.daemon.invitations import Invitations
    from psync.daemon.seen import read_sightings

    try:
        invitations: int | None = len(Invitations(paths.invitations).outstanding())
    except PsyncError:
        invitations = None  # the file cannot be read: the daemon lets nobody in by one, then
    records = AccessList(paths.clients).clients()
    sightings = read_sightings(paths.seen)
    here = presence is not None and presence.pid == sightings.daemon
    open_now = [one.connections for one in sightings.clients.values() if here and one.connections]
    listen = presence.listen if presence is not None else ()
    return {
        "reach": [{"address": name, "from": reach(name)} for name in listen],
        "invitations": invitations,
        "paired": sum(one.revoked is None for one in records),
        "revoked": sum(one.revoked is not None for one in records),
        "connected": len(open_now),
        "connections": sum(open_now),
        "runs": _active_runs(paths.runs),
    }


def _active_runs(directory: str) -> int:
    """Return how many runs have not ended, as their directories have it."""
    from psync.daemon.rundir import LOST
    from psync.supervisor.record import EXIT

    try:
        names = [name for name in os.listdir(directory) if "." not in name]
    except OSError:
        return 0
    ended = (EXIT, LOST)
    return sum(
        not any(os.path.exists(f"{directory}/{name}/{mark}") for mark in ended) for name in names
    )


def _print(presence: Presence | None, known: dict[str, object]) -> None:
    if presence is None:
        print("psync-server does not run; psync-server start starts it")
    else:
        print(f"psync-server runs: process {presence.pid}, listening on")
        for name in presence.listen:
            print(f"  {name} ({REACH[reach(name)]})")
    invitations = known["invitations"]
    if invitations:
        reached = "; strangers can reach the pairing endpoint" if presence is not None else ""
        print(f"invitations: {invitations} outstanding{reached}")
    elif invitations is None:
        print("invitations: the file cannot be read; nobody can pair by invitation")
    elif presence is None:
        print("invitations: none outstanding")
    else:
        print("invitations: none outstanding; strangers are refused in the TLS handshake")
    revoked = f", {known['revoked']} revoked" if known["revoked"] else ""
    connected = f", {known['connected']} connected" if presence is not None else ""
    print(f"clients: {known['paired']} paired{connected}{revoked}")
    print(f"runs: {known['runs']} active")
