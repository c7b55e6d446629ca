"""Certificates of the user's own, beside psync's."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.transport.peers import GREETING, TIMEOUT, Files, Pair, daemon, failure, listening, talk

from psync.errors import NotPaired, TrustError, WrongDaemon
from psync.paths import write_atomic
from psync.transport.contexts import OwnCertificate, ServerContexts, check_certificate
from psync.transport.tls import client_context, explain, server_context

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
HOST = "deck.example"
ROOTS = ("Company Root", "Company Issuing CA")  # signed with the root's key


def new_key(kind: str = "ec") -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP384R1())


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class PKI:
    """An authority as many companies have one: a root, an intermediate, and no key identifiers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self._root_key, self._key = new_key(), new_key()
        top = self._certificate("Company Root", self._root_key, None, ca=True)
        self.middle = self._certificate("Company Issuing CA", self._key, top, ca=True)
        self.ca = str(root / "root.pem")
        write_atomic(self.ca, top.public_bytes(Encoding.PEM))

    def _certificate(
        self, name: str, key: Key, issuer: x509.Certificate | None, *, ca: bool,
        purpose: x509.ObjectIdentifier | None = None, hosts: tuple[str, ...] = (),
        days: tuple[float, float] = (-1, 30),
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name(name))
            .issuer_name(issuer.subject if issuer else common_name(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if hosts:
            names: list[x509.GeneralName] = [
                x509.IPAddress(ipaddress.ip_address(host))
                if host[0].isdigit()
                else x509.DNSName(host)
                for host in hosts
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        key_of_issuer = self._key if issuer is not None and name not in ROOTS else self._root_key
        return builder.sign(key_of_issuer, SHA256())

    def issue(
        self, name: str, purpose: x509.ObjectIdentifier | None, *hosts: str, kind: str = "ec",
        days: tuple[float, float] = (-1, 30),
    ) -> Files:  # fmt: skip
        """A leaf with its chain, as a file, and its key."""
        key = new_key(kind)
        leaf = self._certificate(
            name, key, self.middle, ca=False, purpose=purpose, hosts=hosts, days=days
        )
        files = Files(str(self.root / f"{name}.pem"), str(self.root / f"{name}.key"))
        chain = leaf.public_bytes(Encoding.PEM) + self.middle.public_bytes(Encoding.PEM)
        write_atomic(files.cert, chain)
        write_atomic(
            files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return files


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "psync")


@pytest.fixture
def pki(tmp_path: Path) -> PKI:
    return PKI(tmp_path / "pki")


def own(files: Files) -> OwnCertificate:
    return OwnCertificate(files.cert, files.key)


def answer(contexts: ServerContexts, *, demand: bool = True) -> Callable[[socket.socket], bytes]:
    """Answer as the door does: the context is chosen by the first bytes."""

    def serve(sock: socket.socket) -> bytes:
        hello = sock.recv(4096, socket.MSG_PEEK)
        return daemon(contexts.choose(hello, demand=demand))(sock)

    return serve


@pytest.mark.parametrize("kind", ["ec", "rsa", "ed25519"])
def test_both_kinds_of_clients_live_side_by_side(pair: Pair, pki: PKI, kind: str) -> None:
    server = pki.issue("deck", SERVER, HOST, "127.0.0.1", kind=kind)
    client = pki.issue("desk", CLIENT, kind=kind)
    contexts = ServerContexts(pair.authority.server, own=own(server), client_ca=pki.ca)
    theirs = client_context(pki.ca, client.cert, client.key, own=True)
    with listening(answer(contexts)) as peer:
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING
        assert talk(theirs, peer.port, HOST) == GREETING
        assert talk(theirs, peer.port, "127.0.0.1") == GREETING  # without a name in the handshake
        mixed = client_context(pki.ca, pair.client.cert, pair.client.key, own=True)
        assert talk(mixed, peer.port, HOST) == GREETING
    paired, foreign, *_ = peer.seen
    assert isinstance(paired, bytes)
    assert isinstance(foreign, bytes)
    assert contexts.is_paired(paired)
    assert not contexts.is_paired(foreign)


def test_verification_stays_on(pair: Pair, pki: PKI, tmp_path: Path) -> None:
    server = pki.issue("deck", SERVER, HOST)
    client = pki.issue("desk", CLIENT)
    contexts = ServerContexts(pair.authority.server, own=own(server), client_ca=pki.ca)
    other = PKI(tmp_path / "other")

    def why(name: str, ca: str, files: Files) -> Exception | None:
        context = client_context(ca, files.cert, files.key, own=True)
        return explain(failure(context, peer.port, name))

    with listening(answer(contexts)) as peer:
        assert isinstance(why("another.example", pki.ca, client), WrongDaemon)
        assert isinstance(why(HOST, other.ca, client), WrongDaemon)
        assert isinstance(why(HOST, pki.ca, other.issue("desk", CLIENT)), NotPaired)
        assert isinstance(why(HOST, pki.ca, pki.issue("x", SERVER)), NotPaired)
        expired = pki.issue("old", CLIENT, days=(-30, -1))
        refused = why(HOST, pki.ca, expired)
        assert isinstance(refused, NotPaired)
        assert "expired" in refused.message


def test_without_client_ca_only_paired_clients_are_let_in(pair: Pair, pki: PKI) -> None:
    contexts = ServerContexts(pair.authority.server, own=own(pki.issue("deck", SERVER, HOST)))
    client = pki.issue("desk", CLIENT)
    with listening(answer(contexts)) as peer:
        theirs = client_context(pki.ca, client.cert, client.key, own=True)
        assert isinstance(explain(failure(theirs, peer.port, HOST)), NotPaired)
    assert contexts.is_paired(b"whatever was verified is psync's")


def test_a_stranger_may_have_no_certificate_but_no_bad_one(pair: Pair, tmp_path: Path) -> None:
    contexts = ServerContexts(pair.authority.server)
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(pair.ca)
    bad = Pair(tmp_path / "other").client
    with listening(answer(contexts, demand=False)) as peer:
        assert talk(stranger, peer.port, pair.name) == GREETING
        context = client_context(pair.ca, bad.cert, bad.key)
        assert isinstance(explain(failure(context, peer.port, pair.name)), NotPaired)
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING
    with listening(answer(contexts)) as peer:
        assert isinstance(explain(failure(stranger, peer.port, pair.name)), NotPaired)


def test_renewed_files_are_taken(pair: Pair, pki: PKI) -> None:
    server = pki.issue("deck", SERVER, HOST)
    contexts = ServerContexts(pair.authority.server, own=own(server))
    client = client_context(pki.ca, pair.client.cert, pair.client.key, own=True)

    def serial() -> str:
        with (
            socket.create_connection(("127.0.0.1", peer.port), TIMEOUT) as sock,
            client.wrap_socket(sock, server_hostname=HOST) as tls,
        ):
            tls.sendall(b"hello\n")
            assert tls.recv(100) == GREETING
            shown = tls.getpeercert()
            assert shown is not None
            return str(shown["serialNumber"])

    with listening(answer(contexts)) as peer:
        first = serial()
        assert serial() == first
        pki.issue("deck", SERVER, HOST, kind="rsa")  # over the same files
        contexts.renew(pair.authority.server)
        second = serial()
        assert second != first
        pki.issue("deck", SERVER, HOST, days=(-3, -1))
        with pytest.raises(TrustError, match="expired"):
            contexts.renew(pair.authority.server)
        assert serial() == second
        assert talk(pair.client_context(), peer.port, pair.name) == GREETING


# -- files that will not do ------------------------------------------------------------------------


def complaint(pair: Pair, files: Files, client_ca: str | None = None) -> str:
    with pytest.raises(TrustError) as caught:
        ServerContexts(pair.authority.server, own=own(files), client_ca=client_ca)
    return str(caught.value)


def test_what_is_wrong_with_a_certificate_is_named(pair: Pair, pki: PKI) -> None:
    day = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    expired = complaint(pair, pki.issue("a", SERVER, HOST, days=(-9, -2)))
    assert f"a.pem expired on {day:%Y-%m-%d}; renew it" in expired
    assert "and not now" in complaint(pair, pki.issue("b", SERVER, HOST, days=(2, 9)))
    assert "not for servers" in complaint(pair, pki.issue("c", CLIENT, HOST))
    assert "names no host" in complaint(pair, pki.issue("d", SERVER))
    ServerContexts(pair.authority.server, own=own(pki.issue("e", None, HOST)))


def test_an_expired_link_of_the_chain_is_named(pki: PKI) -> None:
    files = pki.issue("a", SERVER, HOST)
    old = pki.issue("old", SERVER, HOST, days=(-9, -2))
    write_atomic(files.cert, Path(files.cert).read_bytes() + Path(old.cert).read_bytes())
    with pytest.raises(TrustError, match=r"certificate 3 in .*a.pem expired"):
        check_certificate(files.cert)


def test_missing_damaged_and_foreign_files_are_named(pair: Pair, pki: PKI) -> None:
    good = pki.issue("deck", SERVER, HOST)
    other = pki.issue("other", SERVER, HOST)
    assert "nothing.pem is missing" in complaint(pair, Files("nothing.pem", good.key))
    assert "nothing.key is missing" in complaint(pair, Files(good.cert, "nothing.key"))
    assert "does not belong" in complaint(pair, Files(good.cert, other.key))
    assert "root.key is missing" in complaint(pair, good, str(pki.root / "root.key"))
    damaged = str(pki.root / "damaged.pem")
    write_atomic(damaged, b"nonsense")
    assert "damaged.pem is damaged" in complaint(pair, Files(damaged, good.key))
    assert "damaged.pem is damaged" in complaint(pair, good, damaged)
    os.chmod(good.key, 0o644)
    assert "read by others" in complaint(pair, good)


def test_a_chain_in_the_wrong_order_is_named(pki: PKI) -> None:
    files = pki.issue("deck", SERVER, HOST)
    end = b"-----END CERTIFICATE-----\n"
    leaf, middle, _ = Path(files.cert).read_bytes().split(end)
    write_atomic(files.cert, middle + end + leaf + end)
    with pytest.raises(TrustError, match="the first one in the file must"):
        server_context(files.cert, files.key, pki.ca)


def test_a_clients_own_missing_file_is_no_matter_of_pairing(pki: PKI) -> None:
    client = pki.issue("desk", CLIENT)
    with pytest.raises(TrustError, match="is missing") as caught:
        client_context(pki.ca, client.cert, "nothing.key", own=True)
    assert not isinstance(caught.value, NotPaired)


def test_psyncs_own_certificates_are_held_to_the_letter(pair: Pair, pki: PKI) -> None:
    """Without certificates of somebody else's nothing is let pass."""
    strict = ssl.VERIFY_X509_STRICT
    assert pair.client_context().verify_flags & strict
    plain = ServerContexts(pair.authority.server)
    assert plain.choose(b"", demand=True).verify_flags & strict
    mixed = ServerContexts(pair.authority.server, client_ca=pki.ca)
    assert not mixed.choose(b"", demand=True).verify_flags & strict
