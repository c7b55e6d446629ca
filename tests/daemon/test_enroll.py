"""Pairing whole: a client's request, the daemon's answer, and a connection with what came of it."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.transport.peers import failure, listening, talk

from psync.daemon.access import AccessList
from psync.daemon.enroll import enroll
from psync.errors import ConfigError, NotPaired, ProtocolError, TrustError
from psync.model import HostFacts
from psync.paths import ServerPaths, write_atomic
from psync.transport.authority import ensure_server_identity
from psync.transport.enrolment import (
    EnrolAnswer,
    EnrolRefused,
    EnrolRequest,
    decode_answer,
    encode,
    frame,
    unframe,
)
from psync.transport.identity import ClientIdentity
from psync.transport.tls import client_context, explain, fingerprint, server_context

FACTS = HostFacts("handheld", "Linux", "x86_64", b"/projects", None, "/bin/psync-server", "0.1")
LISTEN = (7433, ("127.0.0.1:7433",))


@pytest.fixture
def paths(tmp_path: Path) -> ServerPaths:
    return ServerPaths.from_environ({"PSYNC_SERVER_HOME": str(tmp_path / "home")})


@pytest.fixture
def identity(tmp_path: Path) -> ClientIdentity:
    return ClientIdentity.load_or_create(str(tmp_path / "identity"))


def request_of(identity: ClientIdentity, name: str = "desk") -> bytes:
    return encode(EnrolRequest(name=name, client_id=identity.client_id, csr=identity.csr(name)))


def pair(paths: ServerPaths, request: bytes) -> EnrolAnswer:
    return enroll(paths, request, listen_info=lambda: LISTEN, facts=lambda: FACTS)


class Client:
    """What a client keeps after pairing."""

    def __init__(self, directory: Path, identity: ClientIdentity, answer: EnrolAnswer) -> None:
        directory.mkdir(exist_ok=True)
        self.answer = answer
        self.fingerprint = fingerprint(ssl.PEM_cert_to_DER_cert(answer.client_cert.decode()))
        write_atomic(f"{directory}/ca.pem", answer.ca_cert)
        write_atomic(f"{directory}/client.pem", answer.client_cert)
        self.context = client_context(
            f"{directory}/ca.pem", f"{directory}/client.pem", identity.key
        )


def test_a_stranger_becomes_a_client(
    tmp_path: Path, paths: ServerPaths, identity: ClientIdentity
) -> None:
    nonce = "0123456789abcdef"
    output = b"motd" + frame(nonce, encode(pair(paths, request_of(identity)))) + b"bye"
    answer = decode_answer(unframe(output, nonce))
    assert (answer.port, answer.listen, answer.facts) == (*LISTEN, FACTS)
    client = Client(tmp_path / "target", identity, answer)

    access = AccessList(paths.clients)
    server = ensure_server_identity(paths.ca)
    assert server.name == answer.server_name
    context = server_context(server.certificate, server.key, server.ca)

    def daemon(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(100)
            der = tls.getpeercert(binary_form=True)
            assert der is not None
            try:
                name = access.admit(fingerprint(der)).name
            except NotPaired as error:
                name = error.message
            tls.sendall(name.encode())
            return b""

    with listening(daemon) as peer:
        assert talk(client.context, peer.port, answer.server_name) == b"desk"
        # TLS alone would let it in until its certificate ends: the list is what decides
        AccessList(paths.clients).revoke("desk")
        assert access.changed()
        assert b"revoked" in talk(client.context, peer.port, answer.server_name)
        # pairing again lifts it, for the new certificate only
        again = Client(tmp_path / "again", identity, pair(paths, request_of(identity)))
        assert talk(again.context, peer.port, answer.server_name) == b"desk"
        assert b"does not know" in talk(client.context, peer.port, answer.server_name)


def test_two_daemons_do_not_mix(tmp_path: Path, identity: ClientIdentity) -> None:
    first, second = (
        ServerPaths.from_environ({"PSYNC_SERVER_HOME": str(tmp_path / name)}) for name in "ab"
    )
    client = Client(tmp_path / "target", identity, pair(first, request_of(identity)))
    server = ensure_server_identity(second.ca)
    context = server_context(server.certificate, server.key, server.ca)

    def daemon(sock: socket.socket) -> bytes:
        with context.wrap_socket(sock, server_side=True) as tls:
            return tls.recv(100)

    with listening(daemon) as peer:
        for name in (client.answer.server_name, server.name):
            error = explain(failure(client.context, peer.port, name))
            assert error is not None
            assert error.code == "wrong-daemon"


def test_the_list_says_who_was_paired(paths: ServerPaths, identity: ClientIdentity) -> None:
    answer = pair(paths, request_of(identity, "Zoë's desk"))
    (record,) = AccessList(paths.clients).clients()
    assert record.name == "Zo-s-desk"
    assert record.client_id == identity.client_id
    der = ssl.PEM_cert_to_DER_cert(answer.client_cert.decode())
    assert record.fingerprint == fingerprint(der)
    assert record.expires - record.paired == pytest.approx(365 * 86400, abs=60)


def test_nobody_takes_anothers_id(
    tmp_path: Path, paths: ServerPaths, identity: ClientIdentity
) -> None:
    pair(paths, request_of(identity))
    thief = ClientIdentity.load_or_create(str(tmp_path / "thief"))
    request = EnrolRequest(name="x", client_id=identity.client_id, csr=thief.csr("x"))
    with pytest.raises(ProtocolError, match="does not belong to the key"):
        pair(paths, encode(request))
    assert [one.name for one in AccessList(paths.clients).clients()] == ["desk"]


@pytest.mark.parametrize("request_bytes", [b"", b"{}", b"\xff", b'{"version": 9}'])
def test_garbage_makes_nothing(paths: ServerPaths, request_bytes: bytes) -> None:
    with pytest.raises(ProtocolError):
        pair(paths, request_bytes)
    assert not os.path.exists(paths.data)


def test_a_failing_question_makes_nothing(paths: ServerPaths, identity: ClientIdentity) -> None:
    def fail() -> HostFacts:
        raise TrustError("no facts")

    with pytest.raises(TrustError, match="no facts"):
        enroll(paths, request_of(identity), listen_info=lambda: LISTEN, facts=fail)
    assert not os.path.exists(paths.data)


def test_an_unusable_directory_is_told_to_the_client(
    paths: ServerPaths, identity: ClientIdentity
) -> None:
    os.makedirs(paths.ca, 0o755)
    os.chmod(paths.ca, 0o755)
    with pytest.raises(ConfigError) as caught:
        pair(paths, request_of(identity))
    with pytest.raises(ConfigError, match="others may read") as told:
        decode_answer(encode(EnrolRefused.of(caught.value)))
    assert "chmod 0700" in told.value.hint


ENROLL = """
import sys
from psync.daemon.enroll import enroll
from psync.model import HostFacts
from psync.paths import ServerPaths
from psync.transport.enrolment import encode
paths = ServerPaths.from_environ({"PSYNC_SERVER_HOME": sys.argv[1]})
facts = HostFacts("h", "Linux", "x", b"/", None, "/x", "0")
answer = enroll(paths, sys.stdin.buffer.read(), listen_info=lambda: (1, ()), facts=lambda: facts)
sys.stdout.buffer.write(encode(answer))
"""


def test_clients_that_pair_at_the_same_moment(tmp_path: Path, paths: ServerPaths) -> None:
    """The first pairing makes the CA; all get the same one."""
    identities = [ClientIdentity.load_or_create(str(tmp_path / name)) for name in "abc"]
    home = os.path.dirname(paths.data)
    started = []
    for one in identities:
        process = subprocess.Popen(
            [sys.executable, "-c", ENROLL, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(request_of(one))
        process.stdin.flush()
        started.append(process)
    answers = []
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    for process in started:
        with process:
            assert process.stdout is not None
            answers.append(decode_answer(process.stdout.read()))
    assert len({one.ca_cert for one in answers}) == 1
    assert len({one.server_name for one in answers}) == 1
    names = sorted(one.name for one in AccessList(paths.clients).clients())
    assert names == ["desk", "desk-2", "desk-3"]
