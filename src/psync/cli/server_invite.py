"""``psync-server invite``: let one client pair without ssh, list and take back invitations."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from psync.cli.server_clients import open_audit, rights
from psync.errors import PsyncError, UsageError
from psync.paths import ServerPaths
from psync.text import printable

if TYPE_CHECKING:
    from psync.daemon.invitations import InvitationRecord, Invitations

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """\
Print an invitation, with which one client can pair without ssh: psync pair --invite TEXT. It is
good once and for ten minutes, unless --expires says otherwise. Whoever has it may run programs as
your user, so send it over a way that you trust. The daemon is started if it does not run.
"""

DEFAULT_LIFE = "10m"


def register(commands: Commands) -> None:
    """Add the sub-command."""
    invite = commands.add_parser(
        "invite",
        help="let one client pair without ssh, with a text that works once",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    invite.add_argument(
        "--name", default="", help="what the client will be called (default: what it says)"
    )
    invite.add_argument(
        "--expires",
        metavar="DURATION",
        default=DEFAULT_LIFE,
        help="how long it is good, 1s to 1d (default: 10m)",
    )
    invite.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="where the client can reach this host; repeatable (default: this host's addresses)",
    )
    invite.add_argument(
        "--view", action="store_true", help="the client may only see runs and their output"
    )
    invite.add_argument(
        "--project",
        action="append",
        default=[],
        metavar="PATTERN",
        help="the client may deal with these projects only; repeatable",
    )
    invite.add_argument("--json", action="store_true", help="as one JSON object, --list as a list")
    what = invite.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the outstanding invitations")
    what.add_argument("--revoke", metavar="ID|all", help="take an invitation back, or all of them")
    invite.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from psync.daemon.invitations import Invitations

    paths = ServerPaths.from_environ(os.environ)
    invitations = Invitations(paths.invitations)
    if options.list:
        return _list(invitations, options.json)
    if options.revoke is not None:
        return _revoke(paths, invitations, options.revoke)
    return _invite(options, paths, invitations)


def _invite(options: argparse.Namespace, paths: ServerPaths, invitations: Invitations) -> int:
    import hashlib
    import ssl

    from psync.config import parse_duration
    from psync.daemon.addresses import is_loopback, reachable
    from psync.daemon.service import ensure
    from psync.transport.identity import safe_name
    from psync.transport.invitation import (
        MOST_ADDRESSES,
        Invitation,
        parse_host,
        write_invitation,
    )

    try:
        life = parse_duration(options.expires)
    except UsageError as error:
        raise UsageError(f"--expires: {error.message}", hint=error.hint) from error
    if len(options.address) > MOST_ADDRESSES:
        raise UsageError(f"--address: an invitation holds at most {MOST_ADDRESSES} of them")
    for text in options.address:
        parse_host(text, 1)  # what is wrong with it is said before anything is started
    presence = ensure(paths, os.environ)
    found = reachable(presence.listen)
    port = found[0][1] if found else presence.port
    addresses = tuple(parse_host(text, port) for text in options.address)
    addresses = addresses or found[:MOST_ADDRESSES]
    if not addresses:
        raise PsyncError(
            "this host knows no address of its own that clients could use",
            hint="name one with --address",
        )
    try:
        with open(f"{paths.ca}/ca-cert.pem", encoding="ascii") as file:
            ca = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read(64 * 1024))).digest()
    except (OSError, ValueError) as error:
        raise PsyncError(f"cannot read the certificate of the daemon's CA: {error}") from error
    record, secret = invitations.create(
        life=life,
        name=safe_name(options.name) if options.name else "",
        role="view" if options.view else "run",
        projects=tuple(options.project),
    )
    text = write_invitation(Invitation(addresses=addresses, ca=ca, secret=secret))
    what = f"invitation {record.id}: {rights(record.role, record.projects)}"
    open_audit(paths).write("invited", name=record.name, reason=what)
    command = f"psync pair --invite {text}"
    if options.json:
        said = {"invitation": text, "command": command, "addresses": _shown(addresses)}
        print(json.dumps({**said, **_fields(record)}))
    else:
        print(command if sys.stdout.isatty() else text)
    sys.stdout.flush()
    if not options.json:
        _explain(record, _shown(addresses))
    if found and all(is_loopback(host) for host, _ in found):
        _say(
            "the daemon listens on this host only, so no client elsewhere can reach it; stop it "
            f"and run: psync-server serve --listen 0.0.0.0:{port}"
        )
    return 0


def _explain(record: InvitationRecord, addresses: list[str]) -> None:
    until = time.strftime("%H:%M:%S", time.localtime(record.expires))
    limits = "" if record.role == "run" else ", to look only"
    if record.projects:
        limits += f", for {', '.join(record.projects)}"
    _say(
        f"this lets one client pair, once, until {until}{limits}; type it on the client, which "
        f"will look for this host at {', '.join(addresses)}"
    )
    _say(f"to take it back: psync-server invite --revoke {record.id}")


def _list(invitations: Invitations, as_json: bool) -> int:
    records = invitations.outstanding()
    if as_json:
        print(json.dumps([_fields(record) for record in records]))
        return 0
    if not records:
        print("no invitation is outstanding; psync-server invite makes one")
        return 0
    now = time.time()
    for record in records:
        left = int(record.expires - now)
        words = [record.id, f"{left // 60}m{left % 60:02}s left", printable(record.name) or "-"]
        if record.role != "run":
            words.append(record.role)
        words += [printable(pattern) for pattern in record.projects]
        print("  ".join(words))
    return 0


def _revoke(paths: ServerPaths, invitations: Invitations, which: str) -> int:
    withdrawn = invitations.withdraw(which)
    audit = open_audit(paths)
    for record in withdrawn:
        audit.write("withdrawn", name=record.name, reason=f"invitation {record.id}")
        print(f"took back the invitation {record.id}")
    if not withdrawn:
        print("no invitation was outstanding")
    return 0


def _fields(record: InvitationRecord) -> dict[str, object]:
    """Return what may be told about an invitation: not its hash."""
    return {
        "id": record.id,
        "name": record.name,
        "created": record.created,
        "expires": record.expires,
        "role": record.role,
        "projects": list(record.projects),
    }


def _shown(addresses: tuple[tuple[str, int], ...]) -> list[str]:
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]


def _say(text: str) -> None:
    print(f"psync-server: {printable(text)}", file=sys.stderr)
