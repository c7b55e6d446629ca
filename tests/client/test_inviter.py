"""Finding the daemon that made an invitation, among others and impostors."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import pytest
from tests.client.inviting import Host, http, in_between
from tests.transport.peers import listening, says, self_signed

from psync.client import inviter as module
from psync.client.inviter import DoorClosed, find_inviter
from psync.errors import ConnectError, DaemonNotRunning, ProtocolError, PsyncError, WrongDaemon
from psync.transport.invitation import Invitation


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "there")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def fails(invitation: Invitation) -> PsyncError:
    with pytest.raises(PsyncError) as caught:
        await find_inviter(invitation)
    return caught.value


async def test_the_right_daemon(host: Host) -> None:
    async with host.listening() as port:
        found = await find_inviter(host.invite(port))
    assert (found.address, found.ca) == (("127.0.0.1", port), host.der)
    assert found.name == f"127.0.0.1:{port}"


async def test_a_name_that_leads_there(host: Host) -> None:
    async with host.listening() as port:
        invitation = host.invite(port)
        named = Invitation((("localhost", port),), invitation.ca, invitation.secret)
        assert (await find_inviter(named)).ca == host.der


async def test_other_addresses_do_not_matter_where_one_is_right(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    other.invite(1)
    with listening(says(b"SSH-2.0-OpenSSH\r\n")) as noise:
        async with host.listening() as port, other.listening() as wrong:
            ports = (free_port(), noise.port, wrong, port)
            assert (await find_inviter(host.invite(*ports))).address[1] == port


async def test_an_address_that_is_silent_keeps_nobody_waiting(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with host.listening() as port:
            found = await find_inviter(host.invite(silent.getsockname()[1], port))
            assert found.address[1] == port
        monkeypatch.setattr(module, "LOOK_TIMEOUT", 0.2)
        error = await fails(host.invite(silent.getsockname()[1]))
    assert type(error) is ConnectError
    assert "does not answer" in error.message


async def test_nobody_there(host: Host) -> None:
    one, two = free_port(), free_port()
    error = await fails(host.invite(one))
    assert isinstance(error, DaemonNotRunning)
    error = await fails(host.invite(one, two))
    assert f"127.0.0.1:{one}" in error.message
    assert f"127.0.0.1:{two}" in error.message
    assert "--address" in error.hint


async def test_a_name_nobody_knows(host: Host) -> None:
    invitation = host.invite(1)
    error = await fails(Invitation((("no.such.invalid", 1),), invitation.ca, invitation.secret))
    assert "no.such.invalid is not known" in error.message


async def test_a_daemon_that_pairs_nobody_now(host: Host) -> None:
    invitation = host.invite(1, life=60)
    host.invitations.withdraw("all")
    async with host.listening() as port:
        error = await fails(Invitation((("127.0.0.1", port),), invitation.ca, invitation.secret))
    assert isinstance(error, DoorClosed)
    assert "has expired or was used" in error.message
    assert "psync-server invite" in error.hint


async def test_another_daemon(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other")
    other.invite(1)
    async with other.listening() as port:
        error = await fails(host.invite(port))
    assert isinstance(error, WrongDaemon)
    assert "the secret was not sent" in error.message


async def test_somebody_in_between_with_a_ca_of_his_own(host: Host, tmp_path: Path) -> None:
    own = self_signed(tmp_path / "own", time.time())
    serve, heard = in_between(own.cert, own.key, http(Path(own.cert).read_bytes()))
    with listening(serve) as peer:
        invitation = host.invite(peer.port)
        error = await fails(invitation)
    assert isinstance(error, WrongDaemon)
    assert "somebody is in between" in error.message
    assert heard == [module._REQUEST]


async def test_a_certificate_with_something_beside_it(host: Host, tmp_path: Path) -> None:
    """What is compared is what is used, and nothing else."""
    own = self_signed(tmp_path / "own", time.time())
    theirs = host.authority.certificate
    mine = Path(own.cert).read_bytes()
    inside = theirs.replace(b"-----END", mine[30:90] + b"-----END")
    for body in (theirs + mine, mine + theirs, inside):
        serve, _ = in_between(own.cert, own.key, http(body))
        with listening(serve) as peer:
            try:
                found = await find_inviter(host.invite(peer.port))
            except (WrongDaemon, ProtocolError):
                continue
        assert found.ca == host.der


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        http(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"),
        http(b"\xff" * 100),
        http(b"x" * 60_000),
        http(b"", b"404 Not Found"),
        http(b"", b"301 Moved"),
        b"HTTP/1.1\r\n\r\n",
        b"\x1b[2Jhello",
        b"A" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
async def test_noise_over_tls(host: Host, tmp_path: Path, answer: bytes) -> None:
    own = self_signed(tmp_path / "own", time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.cert, own.key)

    def serve(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(answer)
            return b""

    with listening(serve) as peer:
        error = await fails(host.invite(peer.port))
    assert isinstance(error, (ProtocolError, DoorClosed, ConnectError, WrongDaemon))
    assert "\x1b" not in str(error)


async def test_noise_without_tls(host: Host) -> None:
    with listening(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as peer:
        assert isinstance(await fails(host.invite(peer.port)), ProtocolError)


async def test_cancelling_leaves_nothing_open(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        task = asyncio.create_task(find_inviter(host.invite(silent.getsockname()[1])))
        silent.setblocking(False)
        accepted, _ = await asyncio.get_running_loop().sock_accept(silent)
        with accepted:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            accepted.setblocking(False)
            async with asyncio.timeout(20):
                while await asyncio.get_running_loop().sock_recv(accepted, 4096):
                    pass
