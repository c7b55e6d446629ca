"""Renewing this client's certificate in the background."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.field import Field
from tests.support.waiting import wait_until

from psync.client.renewal import renew
from psync.client.targets import TargetFiles, TargetRecord
from psync.daemon.access import AccessList
from psync.daemon.enroll import enroll
from psync.errors import ConnectionLost, Refused
from psync.paths import ClientPaths, ServerPaths, write_atomic
from psync.protocol.messages import CertificateRenewed, RenewCertificate
from psync.transport import certificates
from psync.transport.enrolment import EnrolRequest, encode
from psync.transport.filelock import FileLock
from psync.transport.identity import ClientIdentity

DAY = 86400.0


@pytest.fixture
def field() -> Iterator[Field]:
    with Field(sshd=False) as field:
        yield field


@pytest.fixture
def ending(field: Field, monkeypatch: pytest.MonkeyPatch) -> Field:
    """A client of the target ``local`` whose certificate ends in two months."""
    assert field.psync("run", "true").returncode == 0
    paths, server = client_paths(field), server_paths(field)
    files = TargetFiles(paths, "local")
    record = files.read()
    assert record is not None
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "LEAF_LIFETIME", 60 * DAY)
        patched.setattr(certificates, "EARLIEST", 0.0)
        identity = ClientIdentity.load_or_create(paths.identity)
        answer = enroll(
            server,
            encode(
                EnrolRequest(name="desk", client_id=identity.client_id, csr=identity.csr("desk"))
            ),
            listen_info=lambda: (record.port, record.listen),
            facts=lambda: record.facts,
        )
    files.write_certificates(ca=answer.ca_cert, certificate=answer.client_cert)
    return field


def client_paths(field: Field) -> ClientPaths:
    return ClientPaths.from_environ(field.env)


def server_paths(field: Field) -> ServerPaths:
    return ServerPaths.from_environ({"PSYNC_SERVER_HOME": client_paths(field).local})


def stored(field: Field, name: str = "local") -> Path:
    return Path(TargetFiles(client_paths(field), name).certificate)


def test_an_active_client_renews_it_while_its_run_goes_on(ending: Field) -> None:
    targets = stored(ending).parent.parent
    shutil.copytree(targets / "local", targets / "other")  # another name for the same daemon
    shutil.copytree(targets / "local", targets / "elsewhere")
    path = targets / "elsewhere" / "target.json"
    elsewhere = msgspec.json.decode(path.read_bytes(), type=TargetRecord)
    write_atomic(
        str(path), msgspec.json.encode(msgspec.structs.replace(elsewhere, server_name="x.invalid"))
    )
    before = stored(ending).read_bytes()
    process = ending.start("run", "cat")
    wait_until(lambda: stored(ending).read_bytes() != before)
    out, err = process.communicate(b"hello\n", 30)
    assert (process.returncode, out) == (0, b"hello\n")
    assert b"certificate" not in err
    assert stored(ending, "other").read_bytes() == stored(ending).read_bytes()
    assert stored(ending, "elsewhere").read_bytes() == before
    access = AccessList(server_paths(ending).clients)
    (record,) = access.clients()
    assert record.previous is not None
    assert ending.psync("run", "true").returncode == 0  # with the new one
    wait_until(lambda: access.clients()[0].previous is None)
    after = stored(ending).read_bytes()
    again = ending.psync("run", "true")  # not due any more
    assert (again.returncode, stored(ending).read_bytes()) == (0, after)
    assert not list(stored(ending).parent.glob("*.new"))


def test_a_command_that_ends_at_once_is_not_held_up_and_leaves_no_process(ending: Field) -> None:
    """Whether it was renewed or not: what is there works, also the next time."""
    for _ in range(3):
        done = ending.psync("run", "true")
        assert (done.returncode, done.stdout) == (0, b"")
        assert b"Traceback" not in done.stderr
    assert mine("psync.client.renewal", client_paths(ending).identity) == []


def mine(*words: str) -> list[int]:
    """Process IDs whose command lines hold all of these words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if all(os.fsencode(word) in line for word in words):
            found.append(int(entry.name))
    return found


def test_a_list_that_cannot_be_written_fails_no_command(ending: Field) -> None:
    server = server_paths(ending)
    before = stored(ending).read_bytes()
    text = Path(server.clients).read_bytes()
    with FileLock(f"{server.clients}.lock"):  # for as long as it likes
        done = ending.psync("run", "true")
    assert done.returncode == 0
    assert stored(ending).read_bytes() == before
    assert Path(server.clients).read_bytes() == text


# -- one by one ------------------------------------------------------------------------------------


class Daemon:
    """Answers a request as it is told."""

    def __init__(self, answer: Callable[[RenewCertificate], CertificateRenewed]) -> None:
        self.asked: list[RenewCertificate] = []
        self._answer = answer

    async def ask(self, make: Callable[[int], RenewCertificate]) -> CertificateRenewed:
        self.asked.append(make(7))
        return self._answer(self.asked[-1])


async def attempt(field: Field, daemon: Daemon, *, later: float = 0.0) -> bool:
    paths = client_paths(field)
    record = TargetFiles(paths, "local").read()
    assert record is not None
    (known,) = AccessList(server_paths(field).clients).clients()
    return await renew(daemon.ask, paths, "local", record, known.expires + later)


def lost(_request: RenewCertificate) -> CertificateRenewed:
    raise ConnectionLost("cut")


def refused(_request: RenewCertificate) -> CertificateRenewed:
    raise Refused("not yet")


def nonsense(request: RenewCertificate) -> CertificateRenewed:
    return CertificateRenewed(request=request.request, certificate=b"nonsense", expires=2e9)


@pytest.mark.parametrize("answer", [lost, refused, nonsense])
async def test_what_does_not_work_out_changes_nothing(
    ending: Field, answer: Callable[[RenewCertificate], CertificateRenewed]
) -> None:
    before = stored(ending).read_bytes()
    daemon = Daemon(answer)
    assert not await attempt(ending, daemon)
    assert daemon.asked[0].request == 7
    assert b"CERTIFICATE REQUEST" in daemon.asked[0].csr
    assert stored(ending).read_bytes() == before
    assert not list(stored(ending).parent.glob("*.new"))


async def test_a_certificate_for_another_key_is_not_taken(ending: Field, tmp_path: Path) -> None:
    from psync.transport.authority import Authority

    other = ClientIdentity.load_or_create(str(tmp_path / "identity"))
    signed = Authority.load_or_create(server_paths(ending).ca).sign_client(other.csr("x"), "x")
    before = stored(ending).read_bytes()
    daemon = Daemon(
        lambda request: CertificateRenewed(
            request=request.request, certificate=signed.pem, expires=signed.expires
        )
    )
    assert not await attempt(ending, daemon)
    assert stored(ending).read_bytes() == before


async def test_one_process_at_a_time(ending: Field) -> None:
    daemon = Daemon(lost)
    with FileLock(f"{client_paths(ending).identity}/renewal.lock"):
        assert not await attempt(ending, daemon)
    assert daemon.asked == []


async def test_another_process_was_faster(ending: Field) -> None:
    daemon = Daemon(lost)
    assert not await attempt(ending, daemon, later=86400.0)
    assert daemon.asked == []


async def test_a_client_without_its_key(ending: Field) -> None:
    daemon = Daemon(lost)
    paths = client_paths(ending)
    os.truncate(f"{paths.identity}/key.pem", 5)
    assert not await attempt(ending, daemon)
    assert daemon.asked == []
    assert json.loads(Path(server_paths(ending).clients).read_bytes())["version"] == 2
