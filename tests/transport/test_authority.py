from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.transport.peers import GREETING, Pair, daemon, listening, new_key, talk

from psync.errors import ConfigError, ProtocolError, TrustError
from psync.paths import write_atomic
from psync.transport import certificates
from psync.transport.authority import (
    RENEW_BEFORE,
    Authority,
    ensure_server_identity,
    read_server_identity,
    set_damaged_aside,
)
from psync.transport.identity import ClientIdentity
from psync.transport.tls import fingerprint

DAY = certificates.DAY
MODERN = certificates.EARLIEST + 100 * DAY

MAKE = """
import sys
from psync.transport.authority import Authority
sys.stdin.read(1)
made = Authority.load_or_create(sys.argv[1])
print(made.server.name, made.certificate.hex())
"""


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "data/ca")


@pytest.fixture
def csr(tmp_path: Path) -> bytes:
    return ClientIdentity.load_or_create(str(tmp_path / "identity")).csr("desk")


def contents(directory: str) -> dict[str, bytes]:
    return {entry.name: Path(entry.path).read_bytes() for entry in os.scandir(directory)}


def certificate(path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(path).read_bytes())


# -- making it -------------------------------------------------------------------------------------


def test_it_is_made_once(directory: str) -> None:
    first = Authority.load_or_create(directory)
    made = contents(directory)
    second = Authority.load_or_create(directory)
    assert contents(directory) == made
    assert first.certificate == second.certificate
    assert first.server == second.server == read_server_identity(directory)
    assert sorted(made) == [
        "ca-cert.copy",
        "ca-cert.pem",
        "ca-key.pem",
        "lock",
        "server-cert.pem",
        "server-key.pem",
        "server.json",
    ]


def test_it_is_private(directory: str) -> None:
    old = os.umask(0)
    try:
        Authority.load_or_create(directory)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(directory)} == {0o600}


def test_processes_that_start_together_agree(directory: str) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    found = set()
    for process in started:
        with process:
            assert process.stdout is not None
            found.add(process.stdout.read())
        assert process.returncode == 0
    made = Authority.load_or_create(directory)
    assert found == {f"{made.server.name} {made.certificate.hex()}\n".encode()}


@pytest.mark.parametrize("survivors", range(6))
def test_a_crash_at_any_point_is_made_good(directory: str, survivors: int) -> None:
    """What was written before the crash is kept, what was not is made."""
    Authority.load_or_create(directory)
    written = ["lock", "ca-key.pem", "ca-cert.pem", "server-key.pem", "server-cert.pem"]
    kept = {name: contents(directory)[name] for name in written[:survivors]}
    for name in os.listdir(directory):
        if name not in kept:
            os.unlink(f"{directory}/{name}")
    server = ensure_server_identity(directory)
    now = contents(directory)
    # a certificate is made anew whenever the note beside it is missing
    kept.pop("server-cert.pem", None)
    assert {name: now[name] for name in kept} == kept
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)


def test_two_daemons_have_two_names(tmp_path: Path) -> None:
    first = Authority.load_or_create(str(tmp_path / "1"))
    second = Authority.load_or_create(str(tmp_path / "2"))
    assert first.server.name != second.server.name
    assert certificate(first.server.ca).subject != certificate(second.server.ca).subject


def test_it_says_what_it_is(directory: str) -> None:
    server = Authority.load_or_create(directory).server
    ca, own = certificate(server.ca), certificate(server.certificate)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [server.name]
    purpose = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert server.name.endswith(".psync.invalid")
    for one in (ca, own):
        # a year and ten years, and a day for clocks that are behind
        assert one.not_valid_before_utc.timestamp() <= time.time() - DAY + 60
    lifetime = ca.not_valid_after_utc - ca.not_valid_before_utc
    assert lifetime.days == 3651


def test_openssl_agrees(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here")
    pair = Pair(tmp_path)

    def verifies(purpose: str, path: str) -> bool:
        command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", pair.ca, path]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    assert verifies("sslserver", pair.server.cert)
    assert verifies("sslclient", pair.client.cert)
    assert not verifies("sslclient", pair.server.cert)
    assert not verifies("sslserver", pair.client.cert)
    # a leaf signs nothing
    ca_key, _ = pair.secrets()
    leaf = certificate(pair.client.cert)
    made = certificates.sign_client(ca_key, leaf, new_key().public_key(), "x", time.time())
    write_atomic(str(tmp_path / "below.pem"), made.public_bytes(Encoding.PEM))
    assert not verifies("sslclient", str(tmp_path / "below.pem"))


# -- renewing --------------------------------------------------------------------------------------


def test_the_daemons_certificate_renews_itself(directory: str) -> None:
    first = ensure_server_identity(directory, MODERN)
    early = first.expires - RENEW_BEFORE - 1
    assert ensure_server_identity(directory, early) == first
    before = contents(directory)
    renewed = ensure_server_identity(directory, first.expires - RENEW_BEFORE)
    assert renewed.expires > first.expires
    assert renewed.name == first.name
    after = contents(directory)
    assert {name for name in after if after[name] != before[name]} == {
        "server-cert.pem",
        "server.json",
    }
    assert certificate(renewed.certificate).not_valid_after_utc.timestamp() == renewed.expires


def test_a_certificate_from_the_future_is_made_again(directory: str) -> None:
    ahead = ensure_server_identity(directory, MODERN + 3 * DAY)
    assert ensure_server_identity(directory, MODERN + 2.5 * DAY) == ahead
    # the clock was set back behind its beginning, but not behind the CA's
    server = ensure_server_identity(directory, ahead.expires - RENEW_BEFORE)
    again = ensure_server_identity(directory, MODERN + 3 * DAY)
    assert again.issued < server.issued


def test_a_renewed_certificate_serves_in_a_context_that_is_in_use(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    context = pair.server_context()
    server = pair.authority.server
    with listening(daemon(context)) as peer:
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING
        os.unlink(tmp_path / "ca/server.json")
        renewed = ensure_server_identity(str(tmp_path / "ca"))
        context.load_cert_chain(renewed.certificate, renewed.key)
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING
    assert renewed.name == server.name


def test_a_clock_that_was_never_set_costs_no_pairing(directory: str, csr: bytes) -> None:
    """A board starts in 1970, makes its CA, pairs, and learns the time only then."""
    authority = Authority.load_or_create(directory, 1000.0)
    signed = authority.sign_client(csr, "desk", 2000.0)
    later = certificates.EARLIEST + 200 * DAY
    ca = certificate(authority.server.ca)
    assert ca.not_valid_before_utc.timestamp() < 1000.0
    assert ca.not_valid_after_utc.timestamp() > later + 8 * 365 * DAY
    assert signed.expires > later
    assert Authority.load_or_create(directory, later).server.name == authority.server.name


def test_no_leaf_outlives_its_ca(directory: str, csr: bytes) -> None:
    authority = Authority.load_or_create(directory, MODERN)
    end = certificate(authority.server.ca).not_valid_after_utc.timestamp()
    late = Authority.load_or_create(directory, end - 10 * DAY)
    assert late.server.expires == end
    assert late.sign_client(csr, "desk", end - 10 * DAY).expires == end


# -- what it refuses to repair ---------------------------------------------------------------------


def test_an_expired_ca_says_so(directory: str) -> None:
    authority = Authority.load_or_create(directory, MODERN)
    end = certificate(authority.server.ca).not_valid_after_utc.timestamp()
    for wrong in (end, MODERN - 2 * DAY):
        with pytest.raises(TrustError, match="and not now"):
            Authority.load_or_create(directory, wrong)


def test_a_lost_key_is_not_made_again(directory: str) -> None:
    Authority.load_or_create(directory)
    os.unlink(f"{directory}/ca-key.pem")
    with pytest.raises(TrustError, match="is gone") as caught:
        Authority.load_or_create(directory)
    assert "pair every client again" in caught.value.hint
    assert not os.path.exists(f"{directory}/ca-key.pem")
    # what is there is enough to serve the clients that are paired
    assert ensure_server_identity(directory).ca == f"{directory}/ca-cert.pem"


@pytest.mark.parametrize("name", ["ca-key.pem", "ca-cert.pem"])
@pytest.mark.parametrize("text", [b"", b"garbage"])
def test_a_damaged_ca_is_left_alone(directory: str, name: str, text: bytes) -> None:
    Authority.load_or_create(directory)
    if name == "ca-cert.pem":  # with its copy it is restored, see test_spare
        os.unlink(f"{directory}/ca-cert.copy")
    write_atomic(f"{directory}/{name}", text)
    before = contents(directory)
    with pytest.raises(TrustError, match=name):
        Authority.load_or_create(directory)
    assert contents(directory) == before


def test_a_ca_of_two_halves_is_refused(tmp_path: Path) -> None:
    for name in ("1", "2"):
        Authority.load_or_create(str(tmp_path / name))
    shutil.copy(tmp_path / "1/ca-key.pem", tmp_path / "2/ca-key.pem")
    with pytest.raises(TrustError, match="does not belong to its key"):
        Authority.load_or_create(str(tmp_path / "2"))


@pytest.mark.parametrize("name", ["ca-key.pem", "server-key.pem"])
def test_a_readable_key_is_refused(directory: str, name: str) -> None:
    Authority.load_or_create(directory)
    os.chmod(f"{directory}/{name}", 0o644)
    os.unlink(f"{directory}/server.json")
    with pytest.raises(TrustError, match="read by others"):
        Authority.load_or_create(directory)


def test_an_open_directory_is_refused(directory: str) -> None:
    Authority.load_or_create(directory)
    os.chmod(directory, 0o750)
    for make in (Authority.load_or_create, ensure_server_identity):
        with pytest.raises(ConfigError, match="others may read"):
            make(directory)


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff", b'{"name":1}', b"[" * 4000])
def test_a_damaged_note_is_made_again(directory: str, text: bytes) -> None:
    first = Authority.load_or_create(directory).server
    write_atomic(f"{directory}/server.json", text)
    assert read_server_identity(directory) is None
    assert ensure_server_identity(directory).name == first.name
    assert read_server_identity(directory) is not None


# -- signing ---------------------------------------------------------------------------------------


def test_a_client_gets_what_it_needs_and_no_more(directory: str, csr: bytes) -> None:
    signed = Authority.load_or_create(directory, MODERN).sign_client(csr, "desk", MODERN)
    made = x509.load_pem_x509_certificate(signed.pem)
    assert signed.fingerprint == fingerprint(made.public_bytes(Encoding.DER))
    assert signed.expires == made.not_valid_after_utc.timestamp() == MODERN + 365 * DAY
    assert made.not_valid_before_utc.timestamp() == MODERN - DAY
    purpose = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert [name.value for name in made.subject] == ["desk"]
    again = Authority.load_or_create(directory, MODERN).sign_client(csr, "desk", MODERN)
    assert again.fingerprint != signed.fingerprint


def test_a_request_asks_for_nothing_but_its_key(directory: str) -> None:
    key = new_key()
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("d-1.psync.invalid")]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, SHA256())
    )
    signed = Authority.load_or_create(directory).sign_client(
        greedy.public_bytes(Encoding.PEM), "Zoë's desk"
    )
    made = x509.load_pem_x509_certificate(signed.pem)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    purpose = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purpose) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [name.value for name in made.subject] == ["Zo-s-desk"]


def test_a_request_with_a_foreign_key_is_refused(directory: str, csr: bytes) -> None:
    """Its signature must be made with the key it asks for."""
    mine = x509.load_pem_x509_csr(csr).public_bytes(Encoding.DER)
    # the last bytes are of the signature
    forged = mine[:-4] + bytes(4)
    pem = ssl.DER_cert_to_PEM_cert(forged).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(ProtocolError, match="not signed with its own key"):
        Authority.load_or_create(directory).sign_client(pem.encode(), "desk")


def test_another_kind_of_key_is_refused(directory: str) -> None:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    csr = request.sign(ec.generate_private_key(ec.SECP384R1()), SHA256())
    with pytest.raises(ProtocolError, match="not for an ECDSA P-256 key"):
        Authority.load_or_create(directory).sign_client(csr.public_bytes(Encoding.PEM), "desk")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_request_is_a_protocol_error(csr: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(csr) - 1))
    damaged = csr[:at] + data.draw(st.binary(max_size=20)) + csr[at + 5 :]
    try:
        certificates.requested_key(damaged)
    except ProtocolError:
        pass
    else:  # hardly ever: what was put in means the same
        assert x509.load_pem_x509_csr(damaged).is_signature_valid


# -- start-up --------------------------------------------------------------------------------------


def test_a_daemon_that_has_everything_needs_no_cryptography(directory: str) -> None:
    name = Authority.load_or_create(directory).server.name
    code = (
        "import sys; from psync.transport.authority import ensure_server_identity as e; "
        "print(e(sys.argv[1]).name, 'cryptography' in sys.modules, 'ssl' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    assert done.stdout.split() == [name, "False", "False"]


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_damaged_certificate_of_the_daemon_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = str(tmp_path / "ca")
    first = ensure_server_identity(directory)
    set_damaged_aside(directory)
    assert ensure_server_identity(directory) == first
    assert caplog.text == ""
    for path in (first.certificate, first.key):
        good = Path(path).read_bytes()
        for damaged in (b"", good[:-40], *(flip(good, at) for at in range(30, len(good), 7))):
            Path(path).write_bytes(damaged)
            caplog.clear()
            set_damaged_aside(directory)
            assert path in caplog.text
            again = ensure_server_identity(directory)
            assert (again.name, again.ca) == (first.name, first.ca)
            set_damaged_aside(directory)
            assert ensure_server_identity(directory) == again
            good = Path(path).read_bytes()
    set_damaged_aside(str(tmp_path / "none"))
