"""``psync-server clients``, ``revoke``, ``rename`` and ``limit``: who may connect, and do what."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from psync.errors import UsageError
from psync.paths import ServerPaths
from psync.text import printable

if TYPE_CHECKING:
    from psync.daemon.access import AccessList, ClientRecord
    from psync.daemon.audit import Audit
    from psync.daemon.seen import Sighting

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

WHICH = "its name, or the beginning of its fingerprint"

LIMIT = """\
Limit what a client may do; it holds at once, for open connections too. A client that may only view
sees runs and their output and starts, stops and syncs nothing. Projects limit what a client asks
psync for: what it does not match it neither sees nor uses. They are no wall around its programs,
which run as your user; a client that may run programs in one project can reach whatever you can.
"""

JSON = """\
--json prints a list of objects: name, fingerprint, client_id, paired, last_seen, address (where it
was seen last), connected (how many connections it has now), role (run, view), projects (patterns,
empty for all), via (ssh, invitation, local, certificate), paired_from, expires, revoked. Times are
RFC 3339 in UTC, what is not known is null.
"""


def register(commands: Commands) -> None:
    """Add the sub-commands."""
    clients = commands.add_parser(
        "clients",
        help="list the paired clients",
        description="List the clients that were paired, when they were seen last and from where, "
        "and what they may do.",
        epilog=JSON,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    clients.add_argument("--json", action="store_true", help="as a JSON list")
    clients.set_defaults(run=_clients)

    revoke = commands.add_parser(
        "revoke",
        help="shut a client out, its open connections too",
        description="Shut a client out. Its open connections are closed within a second; its runs "
        "go on as without a client, for as long as their --on-disconnect lets them.",
    )
    revoke.add_argument("client", help=WHICH)
    revoke.set_defaults(run=_revoke)

    rename = commands.add_parser("rename", help="give a client another name")
    rename.add_argument("client", help=WHICH)
    rename.add_argument("name", help="the new name: letters, digits and . _ -")
    rename.set_defaults(run=_rename)

    limit = commands.add_parser(
        "limit", help="limit a client to looking, or to some projects", description=LIMIT
    )
    limit.add_argument("client", help=WHICH)
    role = limit.add_mutually_exclusive_group()
    role.add_argument(
        "--run", action="store_const", const="run", dest="role", help="it may run programs"
    )
    role.add_argument(
        "--view",
        action="store_const",
        const="view",
        dest="role",
        help="it may only see runs and their output",
    )
    projects = limit.add_mutually_exclusive_group()
    projects.add_argument(
        "--project",
        action="append",
        metavar="PATTERN",
        help="only projects whose ID matches, such as 'game-*'; repeatable; replaces those before",
    )
    projects.add_argument("--all-projects", action="store_true", help="all projects")
    limit.set_defaults(run=_limit)


def rights(role: str, projects: Sequence[str]) -> str:
    """Return in a few words what a client may do."""
    what = "run" if role == "run" else "view only"
    return f"{what}, projects {' '.join(projects)}" if projects else what


def open_audit(paths: ServerPaths) -> Audit:
    """Return the audit log for a command; what is wrong with it is said on stderr."""
    import logging

    from psync.daemon.audit import Audit

    logging.basicConfig(level=logging.WARNING, format="psync-server: %(message)s")
    return Audit(paths.audit)


# -- the commands ----------------------------------------------------------------------


def _open() -> tuple[ServerPaths, AccessList, Audit]:
    from psync.daemon.access import AccessList

    paths = ServerPaths.from_environ(os.environ)
    return paths, AccessList(paths.clients), open_audit(paths)


def _clients(options: argparse.Namespace) -> int:
    from psync.daemon.seen import read_sightings
    from psync.daemon.service import running

    paths, access, _audit = _open()
    records = access.clients()
    for path in access.damaged():
        print(f"psync-server: a damaged list was set aside as {printable(path)}", file=sys.stderr)
    sightings = read_sightings(paths.seen)
    presence = running(paths) if sightings.clients else None
    live = presence is not None and presence.pid == sightings.daemon
    known = [(record, sightings.clients.get(record.client_id)) for record in records]
    if options.json:
        print(json.dumps([_fields(record, seen, live) for record, seen in known]))
    elif not records:
        print(
            "no client is paired; run psync pair on the client, "
            "or psync-server invite here where it has no ssh"
        )
    else:
        sys.stdout.write(_table(known, live))
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from psync.daemon.sshkeys import remove_key

    paths, access, audit = _open()
    record = access.revoke(options.client)
    audit.write("revoked", record)
    remove_key(paths, os.environ, record.client_id)
    print(f"revoked {printable(record.name)}; its connections are closed within a second")
    return 0


def _rename(options: argparse.Namespace) -> int:
    _paths, access, audit = _open()
    before, record = access.rename(options.client, options.name)
    audit.write("renamed", record, reason=f"it was {before}")
    print(f"{printable(before)} is {record.name} now")
    return 0


def _limit(options: argparse.Namespace) -> int:
    if options.role is None and options.project is None and not options.all_projects:
        raise UsageError(
            "nothing to change", hint="give --run or --view, --project or --all-projects"
        )
    _paths, access, audit = _open()
    projects = () if options.all_projects else options.project and tuple(options.project)
    record = access.limit(options.client, role=options.role, projects=projects)
    now = rights(record.role, record.projects)
    audit.write("limited", record, reason=now)
    print(f"{record.name} may from now on: {now}")
    return 0


# -- how they are shown ----------------------------------------------------------------


def _fields(record: ClientRecord, seen: Sighting | None, live: bool) -> dict[str, object]:
    from psync.cli.times import utc

    return {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "client_id": record.client_id,
        "paired": utc(record.paired),
        "last_seen": utc(None if seen is None else seen.last),
        "address": None if seen is None else seen.address,
        "connected": seen.connections if seen is not None and live else 0,
        "role": record.role,
        "projects": list(record.projects),
        "via": record.via,
        "paired_from": record.address or None,
        "expires": utc(record.expires),
        "revoked": utc(record.revoked),
    }


def _table(known: Sequence[tuple[ClientRecord, Sighting | None]], live: bool) -> str:
    from psync.cli.table import table, terminal_width

    titles = ("NAME", "FINGERPRINT", "PAIRED", "LAST SEEN", "FROM", "MAY", "UNTIL")
    rows = []
    for record, seen in known:
        last, where = "never", ""
        if seen is not None:
            now = live and seen.connections
            last, where = ("now" if now else _minute(seen.last)), seen.address
        until = _day(record.expires)
        may = rights(record.role, record.projects)
        if record.revoked is not None:
            may, until = "nothing: revoked", _day(record.revoked)
        rows.append(
            (
                record.name,
                record.fingerprint.removeprefix("sha256:")[:16],
                _day(record.paired),
                last,
                where,
                may,
                until,
            )
        )
    width = terminal_width(os.environ)
    return table(titles, rows, width=width, least={"NAME": 8, "FINGERPRINT": 8, "MAY": 8})


def _day(seconds: float) -> str:
    return _local("%Y-%m-%d", seconds)


def _minute(seconds: float) -> str:
    return _local("%Y-%m-%d %H:%M", seconds)


def _local(form: str, seconds: float) -> str:
    import time

    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"
