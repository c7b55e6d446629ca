"""A target with certificates of the user's own: nothing is paired."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from tests.support.daemon import Home
from tests.support.field import Field

from psync.api import target_spec
from psync.config import TargetConfig
from psync.errors import ConfigError
from psync.paths import write_atomic

PEM = serialization.Encoding.PEM


class Authority:
    """A PKI of the user's own, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, f"CA {os.urandom(4).hex()}")]
        )
        basic = x509.BasicConstraints(ca=True, path_length=None)
        ca = self._certificate(self._name, self._key.public_key()).add_extension(basic, True)
        (directory / "ca.pem").write_bytes(ca.sign(self._key, SHA256()).public_bytes(PEM))

    def issue(self, name: str) -> None:
        """Make NAME.pem and NAME.key, for the address 127.0.0.1 where it is a daemon's."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        made = self._certificate(subject, key.public_key()).add_extension(names, False)
        (self.directory / f"{name}.pem").write_bytes(
            made.sign(self._key, SHA256()).public_bytes(PEM)
        )
        private = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomic(str(self.directory / f"{name}.key"), private)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
        )


@pytest.fixture
def field() -> Iterator[Field]:
    with Field(sshd=False) as field:
        yield field


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


def configure(field: Field, home: Home, pki: Path, **settings: str) -> None:
    """Set the target ``deck`` up for the daemon of ``home``."""
    lines = {
        "address": f"127.0.0.1:{home.start().port}",
        "ca": str(pki / "ca.pem"),
        "cert": str(pki / "anna.pem"),
        "key": str(pki / "anna.key"),
    } | settings
    text = "".join(f'{key} = "{value}"\n' for key, value in lines.items() if value)
    field.config.parent.mkdir(parents=True, mode=0o700)
    field.config.write_text(f"[targets.deck]\n{text}")


@pytest.fixture
def pki(home: Home, tmp_path: Path) -> Path:
    authority = Authority(tmp_path)
    for name in ("daemon.example", "anna"):
        authority.issue(name)
    config = Path(home.paths.config_file)
    config.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    config.write_text(
        f'cert = "{tmp_path}/daemon.example.pem"\nkey = "{tmp_path}/daemon.example.key"\n'
        f'client_ca = "{tmp_path}/ca.pem"\n'
    )
    return tmp_path


@pytest.mark.parametrize("name", ["", "daemon.example"])
def test_a_program_runs_there_without_any_pairing(
    field: Field, home: Home, pki: Path, name: str
) -> None:
    configure(field, home, pki, server_name=name)
    for _ in range(2):
        done = field.psync("run", "--on", "deck", "--no-sync", "echo", "hello")
        assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    assert b" anna " in b" " + home.server("clients").stdout.replace(b"\n", b" ")
    assert not Path(f"{field.data}/targets/deck/client.crt").exists()


def test_another_name_is_not_it(field: Field, home: Home, pki: Path) -> None:
    configure(field, home, pki, server_name="other.example")
    done = field.psync("run", "--on", "deck", "--no-sync", "true")
    assert done.returncode == 125
    assert b"another daemon" in done.stderr


def test_another_authority_is_not_it(field: Field, home: Home, pki: Path) -> None:
    elsewhere = pki / "elsewhere"
    elsewhere.mkdir()
    Authority(elsewhere)
    configure(field, home, pki, ca=f"{elsewhere}/ca.pem")
    done = field.psync("run", "--on", "deck", "--no-sync", "true")
    assert done.returncode == 125
    assert b"another authority" in done.stderr
    assert b"check ca, cert, key and server_name in [targets.deck]" in done.stderr


def test_a_paired_client_comes_as_before(field: Field, home: Home, pki: Path) -> None:
    """It verifies the daemon by psync's authority, whatever others are shown."""
    import asyncio

    home.start()

    async def run() -> int | None:
        async with home.client() as client:
            return (await client.start("true").ended()).status.code

    assert asyncio.run(run()) == 0


def test_a_file_that_is_missing_is_named(field: Field, home: Home, pki: Path) -> None:
    configure(field, home, pki)
    os.unlink(pki / "anna.key")
    done = field.psync("run", "--on", "deck", "--no-sync", "true")
    assert done.returncode == 125
    assert b"anna.key is missing" in done.stderr


@pytest.mark.parametrize(
    ("left_out", "said"),
    [("ca", "not ca"), ("cert", "not cert"), ("key", "not key"), ("address", "not address")],
)
def test_they_belong_together(left_out: str, said: str) -> None:
    settings = {"ca": b"/a", "cert": b"/b", "key": b"/c", "address": ("host", 1)}
    del settings[left_out]
    with pytest.raises(ConfigError, match=said):
        target_spec(TargetConfig("deck", "deck", **settings))  # type: ignore[arg-type]


def test_the_name_is_the_hosts_unless_it_is_set() -> None:
    config = TargetConfig("deck", "x", address=("host", 1), ca=b"/a", cert=b"/b", key=b"/c")
    own = target_spec(config).own
    assert own is not None and own.server_name == "host"
    assert target_spec(TargetConfig("deck", "x", address=("host", 1))).own is None


def test_a_projects_file_may_not_say_which_certificates_count(field: Field) -> None:
    (field.project / "psync.toml").write_text('[targets.deck]\nca = "/tmp/ca.pem"\n')
    done = field.psync("run", "--on", "deck", "true")
    assert done.returncode == 2
    assert b"may not say which certificates count" in done.stderr
