"""``psync pair``: make a host a target, over the user's own ssh."""

from __future__ import annotations

import os

from psync.api import target_spec
from psync.cli.arguments import Parser
from psync.cli.output import say
from psync.client.restricted import PROTECTS
from psync.client.targets import TargetSpec
from psync.config import TargetConfig, load_client
from psync.config.values import command as ssh_command, target_name
from psync.errors import UsageError
from psync.paths import ClientPaths

DESCRIPTION = """\
Make this client known to the daemon of another host, and that host a target here. ssh carries the
exchange and must work already; afterwards neither password nor open port is needed.

With --restrict-ssh psync makes an ssh key of its own for this target and uses no other. Its line in
~/.ssh/authorized_keys over there allows to sync into the copies of this client's projects and to
reach psync-server, nothing else: a thief of the key gets no shell, forwards no port and no agent,
reads no files, and writes none but in those copies (which your next run would execute). One who
also steals psync's certificate from this machine can start programs as your user there, and these
may do what that user may; psync-server limit CLIENT --view takes that away. Pairing again without
the option goes back to your own ssh.
"""


def main(argv: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = Parser("pair", "[OPTIONS] [USER@]HOST", DESCRIPTION)
    parser.add_argument("host", metavar="[USER@]HOST", help="what you would give to ssh")
    parser.add_argument("--name", help="the target's name (default: HOST)")
    parser.add_argument("--server", metavar="PATH", help="where psync-server is on that host")
    parser.add_argument("--ssh", metavar="COMMAND", help="the ssh command, with its options")
    parser.add_argument(
        "--restrict-ssh",
        action="store_true",
        help="make psync an ssh key of its own that can do no more than psync needs",
    )
    options = parser.parse_args(argv)
    paths = ClientPaths.from_environ(os.environ)
    config = load_client(project_root=None, environ=os.environ)
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
    facts = record.facts
    say(f"paired with {facts.hostname} ({facts.system} {facts.machine}) as the target {name}")
    if options.restrict_ssh:
        for line in PROTECTS.format(name=name).splitlines():
            say(line)
    if facts.rsync is None:
        say(f"there is no rsync on {name} yet; install it there, for example: apt install rsync")
    else:
        say(f"try: psync run --on {name} --no-sync uname -a")
    return 0


def _name(host: str, given: str | None) -> str:
    """Return the target's name: the one given, else the host without user and port."""
    if given is not None:
        try:
            return target_name(given)
        except UsageError as error:
            raise UsageError(f"--name: {error.message}", hint=error.hint) from error
    plain = host.removeprefix("ssh://").rpartition("@")[2].partition(":")[0]
    try:
        return target_name(plain)
    except UsageError as error:
        raise UsageError(error.message, hint="give it one with --name NAME") from error
