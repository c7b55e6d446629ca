"""New certificates for clients whose own end soon."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.support.daemon import Client, Home, shell
from tests.support.waiting import wait_until

from psync.daemon.access import AccessList
from psync.daemon.renewal import renew
from psync.errors import NotPaired, ProtocolError, Refused
from psync.paths import write_atomic
from psync.protocol import messages as m
from psync.transport import certificates
from psync.transport.identity import ClientIdentity

DAY = 86400.0


@pytest.fixture
def ending(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A daemon with a client whose certificate ends in two months."""
    home.start()
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "LEAF_LIFETIME", 60 * DAY)
        # whatever this host's clock says, it is two months from now
        patched.setattr(certificates, "EARLIEST", 0.0)
        home.pair("desk")
    return home


def csr(home: Home, name: str = "desk") -> bytes:
    return ClientIdentity.load_or_create(str(home.directory / name)).csr(name)


def certificate(home: Home, name: str = "desk") -> Path:
    return home.directory / name / "client.pem"


def access(home: Home) -> AccessList:
    return AccessList(home.paths.clients)


async def ask(client: Client, request: bytes) -> m.CertificateRenewed:
    answer = await client.ask(m.RenewCertificate(request=1, csr=request))
    assert isinstance(answer, m.CertificateRenewed), answer
    return answer


async def refusal(client: Client, request: bytes) -> m.RequestRefused:
    answer = await client.ask(m.RenewCertificate(request=1, csr=request))
    assert isinstance(answer, m.RequestRefused), answer
    return answer


async def settled(home: Home) -> None:
    """Wait until only the newest certificate counts."""
    await asyncio.to_thread(wait_until, lambda: access(home).clients()[0].previous is None)


async def test_the_daemon_says_when_a_certificate_ends(ending: Home) -> None:
    (record,) = access(ending).clients()
    assert 59 * DAY < record.expires - time.time() < 61 * DAY
    async with ending.client() as client:
        assert client.link.peer.certificate_expires == record.expires
        assert "renew" in client.link.peer.features


async def test_a_new_one_ends_later_and_takes_the_place_of_the_old_one(ending: Home) -> None:
    (before,) = access(ending).clients()
    old = certificate(ending).read_bytes()
    async with ending.client() as client:
        answer = await ask(client, csr(ending))
        assert answer.expires > before.expires + 200 * DAY
        (record,) = access(ending).clients()
        assert record.expires == answer.expires
        assert record.previous == before.fingerprint
        assert (record.name, record.paired) == (before.name, before.paired)
        write_atomic(str(certificate(ending)), answer.certificate)
        run = client.start(*shell("echo on; read x; exit 5"))
        await run.shows(b"on\n")
        async with ending.client() as other:  # with the new one
            assert other.link.peer.certificate_expires == answer.expires
            await settled(ending)
            # the open connection is none the worse for it
            run.send(b"\n")
            assert (await run.ended()).status.code == 5
            assert (await other.start("true").ended()).status.code == 0
        assert not client.closed
    write_atomic(str(certificate(ending)), old)
    with pytest.raises(NotPaired):
        async with ending.client():
            pass


async def test_an_answer_that_got_lost(ending: Home) -> None:
    (before,) = access(ending).clients()
    async with ending.client() as client:
        lost = await ask(client, csr(ending))
    async with ending.client() as client:  # still the old one, and it says so
        assert client.link.peer.certificate_expires == before.expires
        again = await ask(client, csr(ending))
    assert access(ending).clients()[0].previous == before.fingerprint
    async with ending.client() as client:
        pass
    write_atomic(str(certificate(ending)), again.certificate)
    async with ending.client() as client:
        assert client.link.peer.certificate_expires == again.expires
    await settled(ending)
    write_atomic(str(certificate(ending)), lost.certificate)
    with pytest.raises(NotPaired):
        async with ending.client():
            pass


async def test_a_revoked_client_gets_none_and_neither_of_two_lets_it_in(ending: Home) -> None:
    async with ending.client() as client:
        answer = await ask(client, csr(ending))
    (record,) = access(ending).clients()
    assert record.previous is not None
    ending.server("revoke", "desk")
    with pytest.raises(NotPaired, match="does not take"):
        await renew(ending.paths, record, record.previous, csr(ending))
    for text in (certificate(ending).read_bytes(), answer.certificate):
        write_atomic(str(certificate(ending)), text)
        with pytest.raises(NotPaired, match="revoked"):
            async with ending.client():
                pass


async def test_only_for_the_same_key(ending: Home) -> None:
    ending.pair("other")
    async with ending.client() as client:
        refused = await refusal(client, csr(ending, "other"))
        assert "same key" in refused.message
        assert (await client.start("true").ended()).status.code == 0


async def test_a_damaged_request(ending: Home) -> None:
    async with ending.client() as client:
        for text in (b"", b"nonsense", csr(ending)[:-60]):
            refused = await refusal(client, text)
            assert refused.code == ProtocolError.code
        assert (await client.start("true").ended()).status.code == 0


async def test_it_is_too_early(home: Home) -> None:
    home.start()
    async with home.client() as client:
        refused = await refusal(client, csr(home))
        assert "not to be renewed yet" in refused.message
        assert refused.code == Refused.code


async def test_a_foreign_certificate_and_a_list_that_cannot_be_read(ending: Home) -> None:
    (record,) = access(ending).clients()
    with pytest.raises(NotPaired):
        await renew(ending.paths, record, "sha256:" + "0" * 64, csr(ending))
    async with ending.client() as client:
        write_atomic(ending.paths.clients, b'{"version": 99}')
        error = await client.expect_closed()
        assert isinstance(error, NotPaired)


async def test_it_stands_in_the_audit_log(ending: Home) -> None:
    async with ending.client() as client:
        await ask(client, csr(ending))
    assert '"event":"renewed","client":"desk"' in Path(ending.paths.audit).read_text()
