"""A daemon's door as configured: systemd's sockets, limits, certificates of the user's own."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.daemon import Home, shell
from tests.support.waiting import wait_until
from tests.transport.peers import Pair, self_signed

from psync.daemon.listening import name_of, read_presence
from psync.errors import ProtocolError
from psync.protocol import messages as m
from psync.protocol.codec import HEADER

TIMEOUT = 20.0


def configure(home: Home, text: str) -> None:
    directory = Path(home.env["PSYNC_SERVER_HOME"])
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / "server.toml").write_text(text)


def start_as_systemd_does(home: Home, sock: socket.socket) -> None:
    """Start the daemon with a socket at descriptor 3; its process ID is only known to itself."""
    os.makedirs(home.paths.state, mode=0o700, exist_ok=True)
    number = sock.fileno()
    moves = "" if number == 3 else f"3<&{number} {number}<&-"
    with open(home.paths.log, "ab") as log:
        home.daemon = subprocess.Popen(
            [
                *("bash", "-c", f'export LISTEN_PID=$$; exec "$@" {moves}', "bash"),
                *(sys.executable, "-P", "-m", "psync.cli.server", "serve"),
            ],
            env={**home.env, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "psync.socket"},
            cwd="/",
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    home._started.append(home.daemon)


async def test_a_socket_of_systemds_is_used_and_runs_see_nothing_of_it(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        name = name_of(sock)
        start_as_systemd_does(home, sock)
    wait_until(lambda: read_presence(home.paths.record))
    presence = read_presence(home.paths.record)
    assert presence is not None
    assert presence.listen == (name,)
    async with home.client() as client:
        run = client.start(*shell("env; ls -l /proc/self/fd"))
        assert (await run.ended()).status.code == 0
    assert b"LISTEN_" not in run.output
    assert b"pipe:" in run.output
    assert b"socket:" not in run.output
    assert f"listening on {name}" in home.log
    assert home.leave() == 0


async def test_a_message_over_the_configured_limit_is_refused(home: Home) -> None:
    configure(home, "[limits]\nmessage = 16384\n")
    home.start()
    async with home.client() as client:
        client.link._write(HEADER.pack(m.Start.TYPE, 0, 0, 0) + b" " * 16385)
        error = await client.expect_closed()
    assert isinstance(error, ProtocolError)
    assert "a message of 16385 bytes is over the other side's limit of 16384" in error.message
    assert "[limits]" in error.hint


def test_the_configured_deadline_and_places_hold(home: Home) -> None:
    configure(home, '[limits]\nhandshake = "1s"\nstrangers = 2\n')
    presence = home.start()

    def knock() -> socket.socket:
        return socket.create_connection(("127.0.0.1", presence.port), TIMEOUT)

    with knock() as first, knock() as second, knock() as third:
        assert first.recv(100) == b"\x15\x03\x03\x00\x02\x02\x50"
        assert second.recv(100) == b""
        assert third.recv(100) == b""
    wait_until(lambda: "not done with its handshakes after 1 s" in home.log)
    assert "turned away 127.0.0.1: too many strangers at the door" in home.log
    assert "Traceback" not in home.log


async def test_a_revoked_client_has_failed(home: Home) -> None:
    home.start()
    async with home.client():
        pass
    assert home.server("revoke", "desk").returncode == 0
    for _ in range(5):
        with pytest.raises(Exception, match="revoked"):
            async with home.client() as client:
                raise await client.expect_closed() or AssertionError("it was let in")
    assert (
        home.log.count("refused the revoked client desk from 127.0.0.1") == 1
    )  # the rest is counted


@pytest.mark.parametrize(
    ("which", "words"),
    [("cert", "sets cert and not key"), ("key", "sets key and not cert")],
)
def test_half_a_certificate_is_refused(home: Home, which: str, words: str) -> None:
    configure(home, f'{which} = "/nonexistent"\n')
    done = home.server("serve")
    assert done.returncode == 2
    assert words.encode() in done.stderr


def test_a_certificate_that_will_not_do_is_named_at_the_start(home: Home, tmp_path: Path) -> None:
    files = self_signed(tmp_path / "old", time.time() - 20 * 365 * 86400)
    configure(home, f'cert = "{files.cert}"\nkey = "{files.key}"\n')
    done = home.server("serve")
    assert done.returncode == 125
    assert b"old-cert.pem" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_a_certificate_of_the_users_own_is_shown_beside_psyncs(
    home: Home, tmp_path: Path
) -> None:
    other = Pair(tmp_path)
    server = other.server
    configure(home, f'cert = "{server.cert}"\nkey = "{server.key}"\nclient_ca = "{other.ca}"\n')
    presence = home.start()
    async with home.client() as client:  # it was paired, and asks for psync's
        assert (await client.start("true").ended()).status.code == 0
    with (
        socket.create_connection(("127.0.0.1", presence.port), TIMEOUT) as sock,
        other.client_context().wrap_socket(sock, server_hostname=other.name) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown == ssl.PEM_cert_to_DER_cert(Path(server.cert).read_text())
