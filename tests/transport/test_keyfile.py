from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from psync.errors import TrustError
from psync.paths import write_atomic
from psync.transport.authority import Authority
from psync.transport.identity import ClientIdentity
from psync.transport.keyfile import check_key_file, key_id, load_key, load_or_create_key

NOBODY = 65534

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def open_directory() -> Iterator[str]:
    """A directory that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield directory


def read_as_nobody(paths: list[str]) -> dict[str, str]:
    """Try to read each path as another user; return the outcome of each."""
    code = """
import os, sys
os.setgroups([]); os.setgid({0}); os.setuid({0})
for path in sys.argv[1:]:
    try:
        open(path, "rb").read()
    except OSError as error:
        print(type(error).__name__)
    else:
        print("read")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code.format(NOBODY), *paths],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return dict(zip(paths, done.stdout.split(), strict=True))


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    old = os.umask(0)
    try:
        key = load_or_create_key(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert key_id(load_or_create_key(path).public_key()) == key_id(key.public_key())
    assert os.listdir(tmp_path) == ["key.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o644, 0o777])
def test_others_must_not_read_it(tmp_path: Path, mode: int) -> None:
    path = str(tmp_path / "key.pem")
    load_or_create_key(path)
    os.chmod(path, mode)
    for load in (check_key_file, load_key, load_or_create_key):
        with pytest.raises(TrustError, match=f"mode {mode:04o}") as caught:
            load(path)
        assert "chmod 0600" in caught.value.hint


def test_it_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="not a file"):
        check_key_file(str(tmp_path))
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(TrustError, match="not a file"):
        load_key(str(tmp_path / "fifo"))


@pytest.mark.parametrize(
    "other",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_another_kind_of_key_is_refused(
    tmp_path: Path, other: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    path = str(tmp_path / "key.pem")
    write_atomic(path, other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(TrustError, match="not an ECDSA P-256 key"):
        load_or_create_key(path)


@pytest.mark.parametrize("text", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_never_replaced(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "key.pem"
    write_atomic(str(path), text)
    with pytest.raises(TrustError, match="damaged"):
        load_or_create_key(str(path))
    assert path.read_bytes() == text


@root_only
def test_it_must_be_ones_own(tmp_path: Path) -> None:
    path = str(tmp_path / "key.pem")
    load_or_create_key(path)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(TrustError, match="another user"):
        check_key_file(path)


@root_only
@pytest.mark.parametrize(("mode", "accepted"), [(0o640, True), (0o644, False), (0o660, False)])
def test_roots_key_may_be_lent_to_a_group(open_directory: str, mode: int, accepted: bool) -> None:
    path = f"{open_directory}/key.pem"
    load_or_create_key(path)
    os.chown(path, 0, NOBODY)
    os.chmod(path, mode)
    code = f"""
import os, sys
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from psync.errors import TrustError
from psync.transport.keyfile import check_key_file
try:
    check_key_file(sys.argv[1])
except TrustError:
    print(False)
else:
    print(True)
"""
    done = subprocess.run(
        # imported before the change of user: the sources may be out of reach after it
        [sys.executable, "-c", f"import psync.transport.keyfile\n{code}", path],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(accepted)


@root_only
def test_another_user_can_read_no_key(open_directory: str) -> None:
    ClientIdentity.load_or_create(f"{open_directory}/client/identity")
    Authority.load_or_create(f"{open_directory}/server/ca")
    control = f"{open_directory}/for everybody"
    Path(control).write_text("x")
    os.chmod(control, 0o644)
    keys = [str(path) for path in Path(open_directory).rglob("*key.pem")]
    assert len(keys) == 3
    outcome = read_as_nobody([control, *keys])
    assert outcome.pop(control) == "read"
    assert set(outcome.values()) == {"PermissionError"}
    # and not only because the directory is closed
    for directory in ("client", "client/identity", "server", "server/ca"):
        assert stat.S_IMODE(os.stat(f"{open_directory}/{directory}").st_mode) == 0o700
        os.chmod(f"{open_directory}/{directory}", 0o755)
    assert set(read_as_nobody(keys).values()) == {"PermissionError"}
