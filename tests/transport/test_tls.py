from __future__ import annotations

import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.x509.oid import NameOID
from tests.transport.peers import (
    GREETING,
    TIMEOUT,
    Files,
    Pair,
    daemon,
    failure,
    listening,
    new_key,
    says,
    self_signed,
    store,
    talk,
)

from psync.errors import ConnectError, NotPaired, ProtocolError, PsyncError, TrustError, WrongDaemon
from psync.paths import write_atomic
from psync.transport import certificates
from psync.transport.tls import client_context, explain, fingerprint, server_context

YEAR = 365 * certificates.DAY


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let certificates be made long ago; psync takes such a clock for one that was never set."""
    monkeypatch.setattr(certificates, "EARLIEST", 0.0)


def explained(context: ssl.SSLContext, port: int, name: str) -> PsyncError:
    error = explain(failure(context, port, name))
    assert error is not None
    return error


# -- a daemon and its client -----------------------------------------------------------------------


def test_a_paired_client_is_accepted(pair: Pair) -> None:
    with listening(daemon(pair.server_context())) as peer:
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING
    (seen,) = peer.seen
    assert isinstance(seen, bytes)
    assert fingerprint(seen) == pair.signed.fingerprint


def test_tls_1_3_without_tickets_is_spoken(pair: Pair) -> None:
    context = pair.client_context()
    with (
        listening(daemon(pair.server_context())) as peer,
        socket.create_connection(("127.0.0.1", peer.port), TIMEOUT) as sock,
        context.wrap_socket(sock, server_hostname=pair.name) as tls,
    ):
        tls.sendall(b"hello\n")
        assert tls.recv(100) == GREETING
        assert tls.version() == "TLSv1.3"
        # A ticket would come before the first data. Resuming would skip the client's certificate.
        assert tls.session is None or not tls.session.has_ticket


def test_a_session_is_never_resumed(pair: Pair) -> None:
    """The same server with tickets does resume: so this test can tell."""
    resumed = []
    for tickets in (0, 2):
        server = pair.server_context()
        if tickets:
            server.num_tickets = tickets
            server.options &= ~ssl.OP_NO_TICKET
        client = pair.client_context()
        with listening(daemon(server)) as peer:
            session = None
            for _ in range(2):
                with (
                    socket.create_connection(("127.0.0.1", peer.port), TIMEOUT) as sock,
                    client.wrap_socket(sock, server_hostname=pair.name, session=session) as tls,
                ):
                    tls.sendall(b"hello\n")
                    assert tls.recv(100) == GREETING
                    reused = tls.session_reused
                    session = tls.session
            resumed.append(reused)
    assert resumed == [False, True]


# -- clients that are turned away ------------------------------------------------------------------


def stranger_without_certificate(pair: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pair.ca)
    return context


def with_certificate(pair: Pair, files: Files) -> ssl.SSLContext:
    return client_context(pair.ca, files.cert, files.key)


def stranger_self_signed(pair: Pair) -> ssl.SSLContext:
    return with_certificate(pair, self_signed(pair.root / "stranger", time.time()))


def stranger_from_another_daemon(pair: Pair) -> ssl.SSLContext:
    return with_certificate(pair, Pair(pair.root / "other").client)


def stranger_expired(pair: Pair) -> ssl.SSLContext:
    return with_certificate(pair, pair.client_signed_at(time.time() - YEAR - 60))


def stranger_from_the_future(pair: Pair) -> ssl.SSLContext:
    return with_certificate(pair, pair.client_signed_at(time.time() + 2 * certificates.DAY))


def stranger_with_the_daemons_certificate(pair: Pair) -> ssl.SSLContext:
    return with_certificate(pair, pair.server)


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (stranger_without_certificate, "got none"),
        (stranger_self_signed, "does not know the authority"),
        (stranger_from_another_daemon, "does not know the authority"),
        (stranger_expired, "has expired"),
        (stranger_from_the_future, "does not accept"),
        (stranger_with_the_daemons_certificate, "of this kind"),
    ],
)
def test_a_stranger_is_turned_away_and_told(
    tmp_path: Path, stranger: Callable[[Pair], ssl.SSLContext], words: str
) -> None:
    # The CA is old enough to have signed what has expired by now.
    pair = Pair(tmp_path, time.time() - 2 * YEAR)
    files = pair.server_signed_at(time.time())
    server = server_context(files.cert, files.key, pair.ca)
    with listening(daemon(server)) as peer:
        error = explained(stranger(pair), peer.port, pair.name)
    assert isinstance(error, NotPaired)
    assert words in error.message
    assert "psync pair" in error.hint
    (seen,) = peer.seen
    assert isinstance(seen, ssl.SSLError)


def test_a_client_below_tls_1_3_is_turned_away(pair: Pair) -> None:
    context = pair.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with listening(daemon(pair.server_context())) as peer:
        assert isinstance(failure(context, peer.port, pair.name), ssl.SSLError)
    (seen,) = peer.seen
    assert isinstance(seen, ssl.SSLError)


# -- daemons that are not the paired one -----------------------------------------------------------


def impostor_with_another_ca(pair: Pair) -> ssl.SSLContext:
    """A man in the middle with a CA of its own, for the right name."""
    other = Pair(pair.root / "other")
    ca_key, ca = other.secrets()
    key = new_key()
    made = certificates.sign_server(ca_key, ca, key.public_key(), pair.name, time.time())
    files = store(pair.root / "impostor", made, key)
    return server_context(files.cert, files.key, pair.ca)


def impostor_with_a_ca_of_the_same_name(pair: Pair) -> ssl.SSLContext:
    _, ca = pair.secrets()
    forged_key, key = new_key(), new_key()
    name = ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    assert isinstance(name, str)
    forged = certificates.sign_ca(forged_key, name, time.time())
    made = certificates.sign_server(forged_key, forged, key.public_key(), pair.name, time.time())
    files = store(pair.root / "impostor", made, key)
    return server_context(files.cert, files.key, pair.ca)


def impostor_self_signed(pair: Pair) -> ssl.SSLContext:
    files = self_signed(pair.root / "impostor", time.time())
    return server_context(files.cert, files.key, pair.ca)


def impostor_with_another_name(pair: Pair) -> ssl.SSLContext:
    files = pair.server_signed_at(time.time(), name="d-0123456789abcdef.psync.invalid")
    return server_context(files.cert, files.key, pair.ca)


def impostor_with_a_clients_certificate(pair: Pair) -> ssl.SSLContext:
    return server_context(pair.client.cert, pair.client.key, pair.ca)


def daemon_with_an_expired_certificate(pair: Pair) -> ssl.SSLContext:
    files = pair.server_signed_at(time.time() - YEAR - 60)
    return server_context(files.cert, files.key, pair.ca)


def daemon_with_a_fast_clock(pair: Pair) -> ssl.SSLContext:
    files = pair.server_signed_at(time.time() + 2 * certificates.DAY)
    return server_context(files.cert, files.key, pair.ca)


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("impostor", "words", "hint"),
    [
        (impostor_with_another_ca, "from another authority", "psync pair"),
        (impostor_with_a_ca_of_the_same_name, "from another authority", "psync pair"),
        (impostor_self_signed, "from another authority", "psync pair"),
        (impostor_with_another_name, "another daemon", "psync pair"),
        (impostor_with_a_clients_certificate, "not a daemon's", "psync pair"),
        (daemon_with_an_expired_certificate, "has expired", "clocks"),
        (daemon_with_a_fast_clock, "not valid yet", "clocks"),
    ],
)
def test_an_impostor_is_found_out(
    tmp_path: Path, impostor: Callable[[Pair], ssl.SSLContext], words: str, hint: str
) -> None:
    pair = Pair(tmp_path, time.time() - 2 * YEAR)
    server = impostor(pair)
    client = with_certificate(pair, pair.client_signed_at(time.time()))
    with listening(daemon(server)) as peer:
        error = explained(client, peer.port, pair.name)
    assert isinstance(error, WrongDaemon)
    assert words in error.message
    assert hint in error.hint
    (seen,) = peer.seen
    assert isinstance(seen, OSError)  # not a byte was exchanged


def test_a_clients_certificate_with_a_daemons_name_is_no_daemons(pair: Pair) -> None:
    """Not the missing name alone gives it away, the purpose does."""
    client = pair.client_context()
    client.check_hostname = False
    with listening(daemon(impostor_with_a_clients_certificate(pair))) as peer:
        error = explained(client, peer.port, pair.name)
    assert "not a daemon's" in error.message


def test_the_common_name_is_no_name(pair: Pair) -> None:
    assert not pair.client_context().hostname_checks_common_name


def test_the_systems_authorities_are_not_trusted(pair: Pair) -> None:
    assert pair.client_context().cert_store_stats()["x509_ca"] == 1
    assert pair.server_context().cert_store_stats()["x509_ca"] == 1


# -- something else --------------------------------------------------------------------------------


def tls_1_2_only(pair: Pair) -> Callable[[socket.socket], bytes]:
    context = pair.server_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return daemon(context)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x00" * 300,
        b"\xff" * 300,
        bytes(range(256)) * 4,
        b"\x16\x03\x03\xff\xff" + b"x" * 400,  # a TLS record that is too long
        b"\x16\x03\x03\x00\x20" + b"x" * 400,  # a TLS record with nonsense in it
        b"\x15\x03\x03\x00\x02\x02\xfe",  # an alert nobody knows
        b"\x17\x03\x03\x00\x10" + b"x" * 16,  # data before the handshake
    ],
)
def test_what_speaks_no_tls_is_named_so(pair: Pair, words: bytes) -> None:
    with listening(says(words)) as peer:
        error = explained(pair.client_context(), peer.port, pair.name)
    assert isinstance(error, ProtocolError)
    assert "not a psync daemon" in error.message
    assert "port" in error.hint


def test_an_older_tls_is_named_so(pair: Pair) -> None:
    with listening(tls_1_2_only(pair)) as peer:
        error = explained(pair.client_context(), peer.port, pair.name)
    assert isinstance(error, ProtocolError)
    assert "speaks TLS, but not as a psync daemon" in error.message


def test_openssl_as_a_stranger(pair: Pair, tmp_path: Path) -> None:
    """Another implementation of the server's side, which asks for no client certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    files = self_signed(tmp_path / "www", time.time())
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-www"]
    with subprocess.Popen(
        [*command, "-cert", files.cert, "-key", files.key],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"ACCEPT"):
                    break
            port = int(line.split(b":")[-1])
            error = explained(pair.client_context(), port, pair.name)
        finally:
            process.kill()
    assert isinstance(error, WrongDaemon)


def closes_at_once(_sock: socket.socket) -> bytes:
    return b""


def closes_after_reading(sock: socket.socket) -> bytes:
    return sock.recv(65536)


def resets(sock: socket.socket) -> bytes:
    sock.recv(65536)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return b""


@pytest.mark.parametrize("answer", [closes_at_once, closes_after_reading, resets])
def test_a_cut_connection_may_be_tried_again(
    pair: Pair, answer: Callable[[socket.socket], bytes]
) -> None:
    with listening(answer) as peer:
        error = explained(pair.client_context(), peer.port, pair.name)
    assert type(error) is ConnectError
    assert "closed the connection" in error.message


def test_silence_is_named_so(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = socket.create_connection(listener.getsockname(), TIMEOUT)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError) as caught, sock:
            pair.client_context().wrap_socket(sock, server_hostname=pair.name)
    error = explain(caught.value)
    assert type(error) is ConnectError
    assert "does not answer" in error.message


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        # OpenSSL 3.2 and later say "ssl/tls alert …" for what was "sslv3 alert …" and "tlsv1 …"
        ("SSL/TLS_ALERT_BAD_CERTIFICATE", NotPaired),
        ("SSL/TLS_ALERT_CERTIFICATE_REVOKED", NotPaired),
        ("SSL/TLS_ALERT_CERTIFICATE_EXPIRED", NotPaired),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", NotPaired),
        ("TLSV1_ALERT_UNKNOWN_CA", NotPaired),
        ("tlsv1 alert unknown ca", NotPaired),
        ("TLSV1_ALERT_ACCESS_DENIED", ConnectError),
        ("RECORD_LAYER_FAILURE", ProtocolError),
        ("WRONG_VERSION_NUMBER", ProtocolError),
        ("UNSUPPORTED_PROTOCOL", ProtocolError),
        ("SSL/TLS_ALERT_HANDSHAKE_FAILURE", ProtocolError),
        ("TLSV1_UNRECOGNIZED_NAME", ProtocolError),
        ("UNEXPECTED_EOF_WHILE_READING", ConnectError),
        ("TLSV1_ALERT_INTERNAL_ERROR", ConnectError),
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", ConnectError),
    ],
)
def test_reasons_of_other_versions(reason: str, expected: type[PsyncError]) -> None:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    assert type(explain(error)) is expected
    # where Python has no word for it, OpenSSL's text has
    assert type(explain(ssl.SSLError(1, f"[SSL] {reason.lower().replace('_', ' ')} (x.c:1)"))) is (
        expected
    )


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x"), ValueError("x"), OSError(113, "x")])
def test_what_is_not_of_tls_is_left_alone(error: Exception) -> None:
    assert explain(error) is None


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["ca", "cert", "key"])
def test_a_missing_file_means_not_paired(pair: Pair, missing: str) -> None:
    files = {"ca": pair.ca, "cert": pair.client.cert, "key": pair.client.key}
    files[missing] = str(pair.root / "nothing here")
    with pytest.raises(NotPaired, match="nothing here"):
        client_context(files["ca"], files["cert"], files["key"])


@pytest.mark.parametrize("damaged", ["ca", "cert", "key"])
@pytest.mark.parametrize("text", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_file_is_named(pair: Pair, damaged: str, text: bytes) -> None:
    files = {"ca": pair.ca, "cert": pair.client.cert, "key": pair.client.key}
    write_atomic(files[damaged], text)
    with pytest.raises(TrustError, match=os.path.basename(files[damaged])):
        client_context(files["ca"], files["cert"], files["key"])


def test_a_key_of_another_certificate_is_refused(pair: Pair) -> None:
    with pytest.raises(TrustError, match="does not belong"):
        client_context(pair.ca, pair.client.cert, pair.server.key)
    with pytest.raises(TrustError, match="does not belong"):
        server_context(pair.server.cert, pair.client.key, pair.ca)


def test_an_encrypted_key_does_not_ask_on_the_terminal(pair: Pair) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
    )

    key, _ = pair.secrets()
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    write_atomic(pair.client.key, locked)
    with pytest.raises(TrustError, match="passphrase"):
        pair.client_context()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777])
def test_a_key_that_others_can_read_is_refused(pair: Pair, mode: int) -> None:
    os.chmod(pair.client.key, mode)
    os.chmod(pair.server.key, mode)
    with pytest.raises(TrustError, match="read by others") as caught:
        pair.client_context()
    assert "chmod 0600" in caught.value.hint
    with pytest.raises(TrustError, match="read by others"):
        pair.server_context()


def test_no_cryptography_is_needed_to_connect() -> None:
    code = (
        "import sys, psync.transport.tls; "
        "print([name for name in ('cryptography', 'asyncio', 'msgspec') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=60, text=True
    )
    assert done.stdout.strip() == "['msgspec']"
