"""``psync pair``: make a host a target, over the user's own ssh or with an invitation."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from psync.api import target_spec
from psync.cli.arguments import Parser
from psync.cli.loop import catch_signals, run as run_loop
from psync.cli.output import say
from psync.client.restricted import PROTECTS
from psync.client.targets import LOCAL, TargetFiles, TargetRecord, TargetSpec
from psync.config import ClientConfig, TargetConfig, load_client
from psync.config.values import command as ssh_command, target_name
from psync.errors import TrustError, UsageError
from psync.paths import ClientPaths

if TYPE_CHECKING:
    from psync.client.invited import Introduction

DESCRIPTION = """\
Make this client known to the daemon of another host, and that host a target here.

psync pair [USER@]HOST: ssh carries the exchange and must work already; afterwards neither password
nor open port is needed.

psync pair --invite TEXT: without ssh, with what psync-server invite printed on the other host. That
works once, and not for long. The daemon must be reachable from here (psync-server serve --listen).
Files then go over psync's own connection as well (transport = "websocket").
What the daemon shows must match the fingerprint in the invitation before its secret is sent. Other
users of this machine may see the arguments of commands while they run: --invite - reads the
invitation from stdin instead.

With --restrict-ssh psync makes an ssh key of its own for this target and uses no other. Its line in
~/.ssh/authorized_keys over there allows to sync into the copies of this client's projects and to
reach psync-server, nothing else: a thief of the key gets no shell, forwards no port and no agent,
reads no files, and writes none but in those copies (which your next run would execute). One who
also steals psync's certificate from this machine can start programs as your user there, and these
may do what that user may; psync-server limit CLIENT --view takes that away. Pairing again without
the option goes back to your own ssh.
"""

LONGEST_INPUT = 16 * 1024
"""Bytes of an invitation that are read from stdin."""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = Parser("pair", "[OPTIONS] [USER@]HOST | --invite TEXT", DESCRIPTION)
    parser.add_argument("host", metavar="[USER@]HOST", nargs="?", help="what you would give to ssh")
    parser.add_argument(
        "--invite", metavar="TEXT", help="pair with an invitation; - reads it from stdin"
    )
    parser.add_argument("--name", help="the target's name (default: HOST, or what the host says)")
    parser.add_argument("--server", metavar="PATH", help="where psync-server is on that host")
    parser.add_argument("--ssh", metavar="COMMAND", help="the ssh command, with its options")
    parser.add_argument(
        "--restrict-ssh",
        action="store_true",
        help="make psync an ssh key of its own that can do no more than psync needs",
    )
    options = parser.parse_args(argv)
    if options.invite is None and options.host is None:
        parser.error("give a host, or an invitation with --invite")
    if options.invite is not None:
        for given, option in (
            (options.host, options.host),
            (options.server, "--server"),
            (options.restrict_ssh, "--restrict-ssh"),
        ):
            if given:
                parser.error(f"{option} does not go with --invite: that pairs without ssh")
    paths = ClientPaths.from_environ(os.environ)
    config = load_client(project_root=None, environ=os.environ)
    if options.invite is not None:
        return _invited(options, paths, config)
    return _over_ssh(options, paths, config)


def _over_ssh(options: argparse.Namespace, paths: ClientPaths, config: ClientConfig) -> int:
    name = _name(options.host, options.name)
    known = config.targets.get(name) or TargetConfig(name, options.host, config.ssh)
    base = target_spec(known)
    settings = {"host": options.host}
    ssh = base.ssh
    if options.ssh is not None:
        settings["ssh"] = options.ssh
        ssh = tuple(os.fsdecode(word) for word in ssh_command(options.ssh))
    spec = TargetSpec(name=name, host=options.host, ssh=ssh)

    # After all that can be wrong here, and before anything is asked there: cryptography is slow.
    from psync.client.pairing import pair
    from psync.config.edit import add_target

    record = pair(spec, paths, server=options.server, restrict_ssh=options.restrict_ssh)
    add_target(paths.config_file, name, settings)
    _say_paired(record, name)
    if options.restrict_ssh:
        for line in PROTECTS.format(name=name).splitlines():
            say(line)
    _say_next(record, name)
    return 0


def _invited(options: argparse.Namespace, paths: ClientPaths, config: ClientConfig) -> int:
    """Pair with an invitation. What can be wrong here is found before that is used up."""
    from psync.transport.invitation import read_invitation

    catch_signals()
    chosen = None if options.name is None else _given_name(options.name)
    settings = {"connect": "direct"}
    if options.ssh is not None:
        ssh_command(options.ssh)
        settings["ssh"] = options.ssh
    invitation = read_invitation(_from_stdin() if options.invite == "-" else options.invite)

    from psync.client.invited import introduce
    from psync.client.pairing import keep, new_request
    from psync.config.edit import add_target

    request = new_request(paths)
    found: list[Introduction] = []

    async def pair() -> int:
        found.append(await introduce(invitation, request))
        return 0

    run_loop(lambda _signals: pair(), lambda: "pairing")
    answer, (host, port) = found[0].answer, found[0].address
    name = chosen or _free_name(answer.facts.hostname, answer.server_name, paths, config)
    known = config.targets.get(name)
    # where it is told how ssh gets there, or what carries the files, that stays
    if config.origin(f"targets.{name}.transport") == "default":
        settings["transport"] = "websocket"
    settings["host"] = known.host if known is not None and known.host else host
    settings["address"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    record = keep(answer, TargetSpec(name=name, host=settings["host"]), paths, hostname=host)
    add_target(paths.config_file, name, settings)
    _say_paired(record, name)
    _say_next(record, name)
    return 0


def _say_paired(record: TargetRecord, name: str) -> None:
    facts = record.facts
    say(f"paired with {facts.hostname} ({facts.system} {facts.machine}) as the target {name}")


def _say_next(record: TargetRecord, name: str) -> None:
    if record.facts.rsync is None:
        say(f"there is no rsync on {name} yet; install it there, for example: apt install rsync")
    else:
        say(f"try: psync run --on {name} --no-sync uname -a")


def _from_stdin() -> str:
    """Return the first line of stdin that is not empty."""
    if os.isatty(0):
        say("paste the invitation, then press Enter")
    left = LONGEST_INPUT
    while left > 0 and (line := sys.stdin.buffer.readline(left)):
        left -= len(line)
        if line.strip():
            return line.decode("utf-8", "replace")
    raise UsageError("there is no invitation on stdin", hint="psync-server invite prints one")


def _free_name(hostname: str, server_name: str, paths: ClientPaths, config: ClientConfig) -> str:
    """Return a target name made of a host's, which belongs to no other daemon."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname.partition(".")[0])[:50].strip("-.")
    base = plain or "daemon"
    number, name = 1, base
    while not _may_take(name, server_name, paths, config):
        number += 1
        name = f"{base}-{number}"
    return name


def _may_take(name: str, server_name: str, paths: ClientPaths, config: ClientConfig) -> bool:
    if name == LOCAL:
        return False
    try:
        record = TargetFiles(paths, name).read()
    except TrustError:
        return False
    if record is not None:
        return record.server_name == server_name
    return name not in config.targets


def _name(host: str, given: str | None) -> str:
    """Return the target's name: the one given, else the host without user and port."""
    if given is not None:
        return _given_name(given)
    plain = host.removeprefix("ssh://").rpartition("@")[2].partition(":")[0]
    try:
        return target_name(plain)
    except UsageError as error:
        raise UsageError(error.message, hint="give it one with --name NAME") from error


def _given_name(given: str) -> str:
    try:
        return target_name(given)
    except UsageError as error:
        raise UsageError(f"--name: {error.message}", hint=error.hint) from error
