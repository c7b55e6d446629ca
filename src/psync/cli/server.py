"""``psync-server``: the daemon and what its owner does with it."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psync
from psync.cli import server_clients, server_invite, server_ssh, server_status
from psync.errors import ConfigError, PsyncError
from psync.paths import ServerPaths
from psync.text import printable

if TYPE_CHECKING:
    from psync.daemon.listening import Presence
    from psync.model import HostFacts
    from psync.transport.contexts import OwnCertificate

REQUEST_LIMIT = 64 * 1024
"""Bytes of a pairing request that are read from stdin."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``psync-server`` with these arguments (default: the process's); return its status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("--listen"):
        words.insert(0, "serve")
    options = _parser().parse_args(words)
    try:
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except PsyncError as error:
        print(f"psync-server: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # the output's reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"psync-server: {printable(str(error))}", file=sys.stderr)
        return PsyncError.exit_status
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="psync-server",
        description="The daemon of psync: runs on the host where your programs run.",
    )
    parser.add_argument("--version", action="version", version=f"psync-server {psync.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon in the foreground (the default)")
    serve.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS:PORT",
        help="where to listen; repeatable; default 127.0.0.1 and a free port that is remembered",
    )
    serve.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    serve.set_defaults(run=_serve)

    start = commands.add_parser("start", help="start the daemon in the background unless it runs")
    start.add_argument("--nonce", help=argparse.SUPPRESS)
    start.set_defaults(run=_start)

    server_status.register(commands)

    enroll = commands.add_parser(
        "enroll", help="pair one client; psync pair runs this over ssh, with a request on stdin"
    )
    enroll.add_argument("--nonce", required=True, help="marks the answer among other output")
    enroll.set_defaults(run=_enroll)

    server_clients.register(commands)
    server_invite.register(commands)
    server_ssh.register(commands)
    return parser


def _paths() -> ServerPaths:
    return ServerPaths.from_environ(os.environ)


# -- the daemon itself -----------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    from psync.daemon.service import report_failure, report_ready

    ready_fd: int | None = options.ready_fd

    def ready(presence: Presence) -> None:
        if ready_fd is not None:
            report_ready(ready_fd, presence)
        else:
            print(f"psync-server: listening on {', '.join(presence.listen)}", file=sys.stderr)

    try:
        _serve_until_stopped(options.listen, ready)
    except PsyncError as error:
        if ready_fd is not None:
            report_failure(ready_fd, error)
        raise
    return 0


def _serve_until_stopped(listen: list[str] | None, ready: Callable[[Presence], None]) -> None:
    import asyncio
    import logging

    from psync.config import load_server
    from psync.daemon.guard import ClientLimits
    from psync.daemon.logfile import LogFile
    from psync.daemon.retention import Retention
    from psync.daemon.runs import LogLimits
    from psync.daemon.server import Daemon, ServerSettings
    from psync.transport.gate import GateLimits

    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[LogFile(_paths().log)],
    )
    config = load_server(environ=os.environ, flags={"--listen": listen})
    settings = ServerSettings(
        listen=config.listen,
        origins=frozenset(config.origins),
        projects=os.fsdecode(config.projects),
        limits=LogLimits(unread=config.log_limit, kept=config.log_keep),
        retention=Retention(
            runs=config.retention.runs, age=config.retention.age, size=config.retention.size
        ),
        gate=GateLimits(
            handshake=config.limits.handshake,
            strangers=config.limits.strangers,
            strangers_per_address=config.limits.strangers_per_address,
            attempts=config.limits.attempts,
            tolerated=config.limits.failures,
            penalty=min(GateLimits().penalty, config.limits.penalty),
            longest=config.limits.penalty,
            exempt=config.limits.exempt,
        ),
        clients=ClientLimits(
            arguments=config.limits.arguments,
            words=config.limits.words,
            connections=config.limits.connections,
            runs=config.limits.runs,
            starts=config.limits.starts,
        ),
        message=config.limits.message,
        own=_own_certificate(config.cert, config.key),
        client_ca=None if config.client_ca is None else os.fsdecode(config.client_ca),
    )

    async def serve() -> None:
        await Daemon(_paths(), settings).serve(ready)

    try:
        asyncio.run(serve())
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = f"free some space in {printable(_paths().data)} and {printable(_paths().state)}"
        raise PsyncError(f"the daemon cannot go on: {printable(str(error))}", hint=hint) from error


def _own_certificate(cert: bytes | None, key: bytes | None) -> OwnCertificate | None:
    from psync.transport.contexts import OwnCertificate

    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing, given = ("cert", "key") if cert is None else ("key", "cert")
        raise ConfigError(
            f"server.toml sets {given} and not {missing}",
            hint=f"set {missing} as well: a certificate and its key belong together",
        )
    return OwnCertificate(os.fsdecode(cert), os.fsdecode(key))


def _start(options: argparse.Namespace) -> int:
    from psync.daemon.service import ensure, running

    try:
        before = running(_paths())
        presence = before or ensure(_paths(), os.environ)
    except PsyncError as error:
        if options.nonce is None:
            raise
        from psync.transport.enrolment import EnrolRefused, encode

        _answer(options.nonce, encode(EnrolRefused.of(error)))
        return error.exit_status
    if options.nonce is not None:
        import msgspec

        from psync.transport.whereabouts import Whereabouts

        where = Whereabouts(
            pid=presence.pid,
            port=presence.port,
            listen=presence.listen,
            started=before is None,
            facts=_facts(),
        )
        _answer(options.nonce, msgspec.json.encode(where))
        return 0
    verb = "runs already" if before else "started"
    print(f"psync-server {verb}: process {presence.pid}, on {', '.join(presence.listen)}")
    return 0


# -- clients ---------------------------------------------------------------------------


def _enroll(options: argparse.Namespace) -> int:
    from psync.daemon.enroll import enroll
    from psync.daemon.service import ensure
    from psync.transport.enrolment import EnrolRefused, encode

    paths = _paths()
    request = sys.stdin.buffer.read(REQUEST_LIMIT + 1)

    def where() -> tuple[int, tuple[str, ...]]:
        presence = ensure(paths, os.environ)
        return presence.port, presence.listen

    try:
        # what sshd sets: the client's address and port, this host's address and port
        came = os.environ.get("SSH_CONNECTION", "").split()
        answer = enroll(
            paths,
            request,
            listen_info=where,
            facts=_facts,
            via="ssh" if came else "local",
            address=printable(came[0])[:100] if came else "",
        )
    except PsyncError as error:
        _answer(options.nonce, encode(EnrolRefused.of(error)))
        return error.exit_status
    _answer(options.nonce, encode(answer))
    return 0


def _facts() -> HostFacts:
    from psync.config import load_server
    from psync.daemon.facts import host_facts

    return host_facts(load_server(environ=os.environ).projects)


def _answer(nonce: str, payload: bytes) -> None:
    from psync.transport.enrolment import frame

    sys.stdout.buffer.write(frame(nonce, payload))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
