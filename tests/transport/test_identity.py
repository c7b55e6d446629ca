from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, strategies as st

from psync.errors import ConfigError, TrustError
from psync.transport.identity import (
    CLIENT_ID,
    ClientIdentity,
    key_path,
    read_client_id,
    safe_name,
)
from psync.transport.keyfile import key_id

MAKE = """
import sys
from psync.transport.identity import ClientIdentity
sys.stdin.read(1)
print(ClientIdentity.load_or_create(sys.argv[1]).client_id)
"""


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path / "data/identity")


def test_it_stays_the_same(directory: str) -> None:
    first = ClientIdentity.load_or_create(directory)
    again = ClientIdentity.load_or_create(directory)
    assert first.client_id == again.client_id == read_client_id(directory)
    assert first.key == again.key == key_path(directory)
    assert re.match(CLIENT_ID, first.client_id)


def test_it_is_private(directory: str) -> None:
    old = os.umask(0)
    try:
        ClientIdentity.load_or_create(directory)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(directory)} == {0o600}
    assert sorted(os.listdir(directory)) == ["id", "key.pem", "lock"]


def test_the_id_is_of_this_host_and_this_key(directory: str) -> None:
    identity = ClientIdentity.load_or_create(directory)
    host = re.sub("[^a-z0-9]+", "-", os.uname().nodename.partition(".")[0].lower()).strip("-")
    request = x509.load_pem_x509_csr(identity.csr("x"))
    slug, _, digits = identity.client_id.rpartition("-")
    assert host.startswith(slug) or slug == "client"
    assert digits == key_id(request.public_key())  # type: ignore[arg-type]


def test_there_is_no_id_without_an_identity(directory: str) -> None:
    assert read_client_id(directory) is None


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xff", b"desk\n", b"../../x-0123456789abcdef", b"a" * 4096]
)
def test_a_damaged_id_is_made_again(directory: str, text: bytes) -> None:
    made = ClientIdentity.load_or_create(directory).client_id
    Path(directory, "id").write_bytes(text)
    assert read_client_id(directory) is None
    assert ClientIdentity.load_or_create(directory).client_id == made
    assert read_client_id(directory) == made


def test_a_line_break_ends_an_id() -> None:
    assert re.match(CLIENT_ID, "desk-0123456789abcdef")
    assert not re.match(CLIENT_ID, "desk-0123456789abcdef\n")


def test_an_id_follows_its_key(directory: str) -> None:
    first = ClientIdentity.load_or_create(directory)
    os.unlink(first.key)
    second = ClientIdentity.load_or_create(directory)
    assert second.client_id != first.client_id
    assert read_client_id(directory) == second.client_id


def test_an_id_survives_a_new_host_name(directory: str) -> None:
    made = ClientIdentity.load_or_create(directory).client_id
    moved = f"elsewhere-{made.rpartition('-')[2]}"
    Path(directory, "id").write_text(f"{moved}\n")
    assert ClientIdentity.load_or_create(directory).client_id == moved


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
    assert found == {f"{read_client_id(directory)}\n".encode()}


def test_a_request_is_signed_and_named_safely(directory: str) -> None:
    identity = ClientIdentity.load_or_create(directory)
    request = x509.load_pem_x509_csr(identity.csr("Zoë's\x1b[31m desk\n" * 20))
    assert request.is_signature_valid
    (name,) = request.subject
    assert isinstance(name.value, str)
    assert name.value.startswith("Zo-s-31m-desk")
    assert len(name.value) <= 64


def test_a_readable_key_is_refused(directory: str) -> None:
    os.chmod(ClientIdentity.load_or_create(directory).key, 0o644)
    with pytest.raises(TrustError, match="read by others"):
        ClientIdentity.load_or_create(directory)


def test_an_open_directory_is_refused(directory: str) -> None:
    ClientIdentity.load_or_create(directory)
    os.chmod(directory, 0o755)
    with pytest.raises(ConfigError, match="others may read"):
        ClientIdentity.load_or_create(directory)


@given(st.text())
def test_a_name_is_always_safe(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,47}", safe_name(name))


@pytest.mark.parametrize("name", ["desk", "Desk_2.local", "a"])
def test_a_safe_name_stays(name: str) -> None:
    assert safe_name(name) == name


def test_reading_the_id_needs_neither_cryptography_nor_ssl(directory: str) -> None:
    made = ClientIdentity.load_or_create(directory).client_id
    code = (
        "import sys; from psync.transport.identity import read_client_id; "
        "print(read_client_id(sys.argv[1])); "
        "print([n for n in ('cryptography', 'ssl', 'asyncio', 'fcntl') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, directory],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
        text=True,
    )
    assert done.stdout.split("\n")[:2] == [made, "[]"]
