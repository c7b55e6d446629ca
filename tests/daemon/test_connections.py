"""Who is let in, with what rights, and for how long: against a real daemon."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.support.daemon import Client, Home, shell
from tests.support.waiting import wait_until

from psync.daemon.access import AccessList
from psync.daemon.listening import read_presence
from psync.daemon.seen import read_sightings
from psync.errors import NotPaired, PsyncError, Refused
from psync.model import Stream
from psync.paths import write_atomic
from psync.protocol import messages as m
from psync.transport.connect import HungUp, connect
from psync.transport.tls import client_context

GAME, TOOL = "game-0123456789abcdef", "tool-0123456789abcdef"
WAIT = "echo on; while :; do sleep 0.05; done"


def listed(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(home.server("clients", "--json").stdout)
    return found


def done(home: Home, *words: str) -> None:
    result = home.server(*words)
    assert result.returncode == 0, result.stderr


def settings(home: Home, text: str) -> None:
    path = Path(home.paths.config_file)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text)


def opening(project: str) -> m.OpenProject:
    return m.OpenProject(request=1, project=project, source=b"/game", host="desk")


async def refusal(client: Client, message: m.Message) -> m.RequestRefused:
    answer = await client.ask(message)
    assert isinstance(answer, m.RequestRefused), answer
    return answer


# -- revoked ---------------------------------------------------------------------------------------


async def test_revoked_a_moment_ago_on_an_open_and_on_a_new_connection(home: Home) -> None:
    home.start()
    async with home.client("desk") as desk, home.client("laptop") as laptop:
        kept = desk.start(*shell(WAIT), disconnect_grace=None)
        brief = desk.start(*shell(WAIT), disconnect_grace=0.5)
        await kept.shows(b"on\n")
        await brief.shows(b"on\n")
        done(home, "revoke", "desk")
        error = await desk.expect_closed()
        assert isinstance(error, NotPaired)
        assert "revoked this client" in error.message
        with pytest.raises(NotPaired, match="revoked"):
            async with home.client("desk"):
                pass
        # its runs are without a client now, and nobody else's are
        wait_until((home.run(await brief.running()) / "exit.json").exists)
        assert not (home.run(await kept.running()) / "exit.json").exists()
        other = laptop.attach(await kept.running())
        await other.shows(b"on\n")
        assert (await laptop.start("true").ended()).status.code == 0
        laptop.link.send(m.Stop(channel=other.channel, kill=True))
        await other.ended()


async def test_a_client_that_is_removed_from_the_list(home: Home) -> None:
    home.start()
    async with home.client() as client:
        os.unlink(home.paths.clients)
        error = await client.expect_closed()
        assert isinstance(error, NotPaired)


async def test_paired_anew_the_old_connection_ends(home: Home) -> None:
    home.start()
    async with home.client() as client:
        home.pair()
        assert isinstance(await client.expect_closed(), NotPaired)
    async with home.client() as client:
        assert (await client.start("true").ended()).status.code == 0


async def test_a_new_name_ends_nothing(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("echo on; read x"))
        await run.shows(b"on\n")
        done(home, "rename", "desk", "tower")
        # a run without a project is none of its business then, which tells that the list was read
        done(home, "limit", "tower", "--project", "*")
        assert "no run" in (await run.refused()).message
        assert not client.closed


# -- rights ----------------------------------------------------------------------------------------


async def test_a_viewer_tries_everything(home: Home) -> None:
    home.start()
    home.pair("desk")
    home.pair("tv")
    done(home, "limit", "tv", "--view")
    async with home.client("desk") as desk, home.client("tv") as viewer:
        run = desk.start(*shell("echo on; read x; echo $x; exit 3"))
        await run.shows(b"on\n")
        run_id = await run.running()
        before = set(home.runs())
        # what it may not
        for refused in (
            await refusal(viewer, opening(GAME)),
            await viewer.start("touch", str(home.directory / "proof")).refused(),
            await viewer.attach(run_id).refused(),
        ):
            assert refused.code == Refused.code
            assert "only look" in refused.message
            assert "psync-server limit tv --run" in refused.hint
        # what it may
        seen = viewer.attach(run_id, read_only=True)
        await seen.shows(b"on\n")
        runs = await viewer.ask(m.ListRuns(request=2))
        assert isinstance(runs, m.RunList)
        assert [one.id for one in runs.runs] == [run_id]
        where = await viewer.ask(m.Locate(request=3, run=run_id, lines=1))
        assert isinstance(where, m.Located)
        # what is ignored
        seen.send(b"no\n")
        viewer.link.send(m.Signal(channel=seen.channel, name="SIGKILL"))
        viewer.link.send(m.Stop(channel=seen.channel, kill=True))
        viewer.link.send(m.Stop(channel=seen.channel, kill=False, signal="SIGTERM"))
        viewer.link.send(m.StdinEnd(seen.channel, 0))
        for stream in (Stream.STDOUT, Stream.STDERR):
            viewer.link.send(m.CloseOutput(channel=seen.channel, stream=stream))
        await viewer.ask(m.ListRuns(request=4))  # all of it has arrived by now
        run.send(b"yes\n")
        assert (await run.ended()).status.code == 3
        assert (await seen.ended()).status.code == 3
        assert seen.output == run.output == b"on\nyes\n"
        assert set(home.runs()) == before
        assert not (home.directory / "proof").exists()


async def test_a_client_becomes_a_viewer_while_it_is_connected(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("echo on; read x"), disconnect_grace=None)
        await run.shows(b"on\n")
        done(home, "limit", "desk", "--view")
        assert "only look" in (await run.refused()).message
        assert "only look" in (await client.start("true").refused()).message
        again = client.attach(await run.running(), read_only=True)
        await again.shows(b"on\n")
        done(home, "limit", "desk", "--run")
        first = client.start("true")
        while (answer := await one_of(first, m.Exited, m.Refused)) and isinstance(
            answer, m.Refused
        ):
            first = client.start("true")  # within the second it takes
        assert answer.status.code == 0


async def one_of(attachment: Any, *kinds: type) -> Any:
    await attachment.client.wait(lambda: any(attachment.has(kind) for kind in kinds))
    return next(message for message in attachment.said if isinstance(message, kinds))


async def test_a_client_with_one_project(home: Home) -> None:
    home.start()
    async with home.client("desk") as desk:
        assert isinstance(await desk.ask(opening(TOOL)), m.ProjectOpened)
        free = desk.start(*shell("echo on; read x"))
        tool = desk.start(*shell("echo on; read x"), project=TOOL)
        await free.shows(b"on\n")
        await tool.shows(b"on\n")
        done(home, "limit", "desk", "--project", "game-*")
        # those that it has open end for it, though not for others
        for run in (free, tool):
            assert "there is no run" in (await run.refused()).message
        assert (await refusal(desk, opening(TOOL))).code == Refused.code
        assert isinstance(await desk.ask(opening(GAME)), m.ProjectOpened)
        for project in (None, TOOL):
            refused = await desk.start("true", project=project).refused()
            assert "only game-*" in refused.message
            assert "psync-server limit desk" in refused.hint
        for run in (free, tool):
            for read_only in (False, True):
                refused = await desk.attach(await run.running(), read_only=read_only).refused()
                assert "there is no run" in refused.message
            assert "no run" in (await refusal(desk, locate(await run.running()))).message
        game = desk.start("true", project=GAME)
        assert (await game.ended()).status.code == 0
        runs = await desk.ask(m.ListRuns(request=2))
        assert isinstance(runs, m.RunList)
        assert [one.id for one in runs.runs] == [await game.running()]
        assert len(home.runs()) == 3


def locate(run: str) -> m.Locate:
    return m.Locate(request=9, run=run, lines=1)


# -- limits ----------------------------------------------------------------------------------------


async def test_limits_are_told_in_words_and_the_connection_goes_on(home: Home) -> None:
    settings(home, "[limits]\nruns = 2\nstarts = 9\nconnections = 2\n")
    home.start()
    async with home.client() as client:
        refused = await client.start("echo", "x" * (65 << 10)).refused()
        assert "over the daemon's limit of 65536" in refused.message
        refused = await client.start("true", env=((b"A", b""),) * 1025).refused()
        assert "1025 variables are over" in refused.message
        refused = await client.start("true", *["x"] * 1024).refused()
        assert "1025 arguments are over" in refused.message
        assert "server.toml" in refused.hint
        active = [client.start(*shell("echo on; read x")) for _ in range(2)]
        for run in active:
            await run.shows(b"on\n")
        refused = await client.start("true").refused()
        assert "2 active runs" in refused.message
        async with home.client() as second:
            assert "2 active runs" in (await second.start("true").refused()).message
            with pytest.raises(PsyncError) as full:
                async with home.client() as third:
                    raise await third.expect_closed() or AssertionError("no reason")
            assert isinstance(full.value, Refused)
            assert "2 connections" in full.value.message
            async with home.client("laptop") as other:  # nobody else's limit
                assert (await other.start("true").ended()).status.code == 0
        for run in active:
            run.send(b"\n")
            await run.ended()
        outcome, count = None, -1
        while not isinstance(outcome, m.Refused):  # more come while it goes on, but not as fast
            outcome = await one_of(client.start("true"), m.Exited, m.Refused)
            count += 1
        assert count >= 7
        assert "more than 9 runs in a minute" in outcome.message


# -- certificates of the user's own authority ------------------------------------------------------


class Authority:
    """A PKI of the user's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example CA")])
        basic = x509.BasicConstraints(ca=True, path_length=None)
        ca = self._builder(self._name, self._key).add_extension(basic, critical=True)
        self.path = directory / "example-ca.pem"
        self.path.write_bytes(ca.sign(self._key, SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[str, str]:
        """Return the paths of a new certificate for this client and of its key."""
        key = ec.generate_private_key(ec.SECP384R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        made = self._builder(subject, key).add_extension(usage, critical=False)
        path = self.directory / f"own-{os.urandom(4).hex()}"
        write_atomic(
            f"{path}.key",
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
        write_atomic(
            f"{path}.pem",
            made.sign(self._key, SHA256()).public_bytes(serialization.Encoding.PEM),
        )
        return f"{path}.pem", f"{path}.key"

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
        )


@pytest.fixture
def pki(home: Home) -> Iterator[Authority]:
    """A daemon that lets the clients of a PKI in."""
    pki = Authority(home.directory)
    settings(home, f'client_ca = "{pki.path}"\n')
    home.pair("desk")
    home.start()
    yield pki


@asynccontextmanager
async def certified(home: Home, files: tuple[str, str]) -> Any:
    presence = read_presence(home.paths.record)
    assert presence is not None
    directory = home.directory / "desk"
    link = await connect(
        ("127.0.0.1", presence.port),
        tls=client_context(f"{directory}/ca.pem", *files, own=True),
        server_name=(directory / "name").read_text(),
        software="a test",
    )
    client = Client(link)
    try:
        yield client
    finally:
        link.close()
        await link.wait_closed()


async def test_a_client_of_the_users_own_authority_is_let_in_and_listed(
    home: Home, pki: Authority
) -> None:
    files = pki.issue("Anna's Büro\x1b")
    async with certified(home, files) as client:
        assert (await client.start("true").ended()).status.code == 0
        assert client.link.peer.certificate_expires is None
        refused = await refusal(client, m.RenewCertificate(request=1, csr=b"x"))
        assert "not the daemon's own" in refused.message
    desk, one = listed(home)
    assert (desk["name"], desk["via"]) == ("desk", "ssh")
    assert (one["name"], one["via"], one["paired_from"]) == (
        "Anna-s-B-ro",
        "certificate",
        "127.0.0.1",
    )
    async with certified(home, files):
        pass
    async with certified(home, pki.issue("Anna's Büro\x1b")) as client:  # issued anew
        assert (await client.start("true").ended()).status.code == 0
    assert len(listed(home)) == 2
    async with certified(home, pki.issue("desk")):  # a name that is taken
        pass
    assert [one["name"] for one in listed(home)] == ["desk", "Anna-s-B-ro", "desk-2"]
    async with home.client("desk") as client:  # and the paired ones come as before
        assert (await client.start("true").ended()).status.code == 0


async def test_it_can_be_revoked_renamed_and_limited(home: Home, pki: Authority) -> None:
    files = pki.issue("anna")
    async with certified(home, files) as client:
        done(home, "rename", "anna", "berta")
        done(home, "limit", "berta", "--view")
        while not isinstance(await one_of(client.start("true"), m.Exited, m.Refused), m.Refused):
            pass
        done(home, "revoke", "berta")
        assert isinstance(await client.expect_closed(), NotPaired)
    for again in (files, pki.issue("anna")):  # a new certificate is no way back
        with pytest.raises(NotPaired, match="revoked"):
            async with certified(home, again) as client:
                raise await client.expect_closed() or AssertionError("no reason")
    async with certified(home, pki.issue("carla")) as client:
        assert (await client.start("true").ended()).status.code == 0


async def test_another_authoritys_client_stays_out(home: Home, pki: Authority) -> None:
    (home.directory / "elsewhere").mkdir()
    files = Authority(home.directory / "elsewhere").issue("anna")
    with pytest.raises(HungUp, match="certificate"):
        async with certified(home, files):
            pass
    assert [one["name"] for one in listed(home)] == ["desk"]


async def test_a_client_of_psyncs_authority_that_is_not_listed_stays_out(
    home: Home, pki: Authority
) -> None:
    access = AccessList(home.paths.clients)
    (record,) = access.clients()
    write_atomic(home.paths.clients, b'{"version": 2, "clients": []}')
    with pytest.raises(NotPaired, match="does not know"):
        async with home.client("desk"):
            pass
    assert AccessList(home.paths.clients).clients() == ()
    assert record.name == "desk"


# -- what is noted ---------------------------------------------------------------------------------


async def test_who_was_here_and_what_it_did(home: Home) -> None:
    home.start()
    async with home.client() as client:
        wait_until(
            lambda: any(one.connections for one in read_sightings(home.paths.seen).clients.values())
        )
        (one,) = listed(home)
        assert (one["connected"], one["address"]) == (1, "127.0.0.1")
        run = client.start(*shell("exit 3"), env=((b"TOKEN", b"s3cret"),))
        await run.ended()
        again = client.attach(await run.running(), read_only=True)
        await again.ended()
        waits = client.start(*shell("echo on; read x"))
        await waits.shows(b"on\n")
        client.link.send(m.Stop(channel=waits.channel, kill=True))
        await waits.ended()
    home.leave()
    (one,) = listed(home)
    assert one["connected"] == 0
    assert one["last_seen"] is not None
    text = Path(home.paths.audit).read_text()
    events = [json.loads(line) for line in text.splitlines()]
    mine = [event for event in events if event.get("client") == "desk"]
    assert [event["event"] for event in mine] == [
        "paired",
        "connected",
        "started",
        "exited",
        "attached",
        "started",
        "stopped",
        "exited",
        "left",
    ]
    assert mine[2]["command"] == "/bin/sh -c 'exit 3'"
    assert mine[3]["reason"] == "exit status 3"
    assert mine[6]["reason"] == "killed"
    assert events[-1]["event"] == "daemon-left"
    assert "s3cret" not in text


async def test_strangers_are_written_down(home: Home) -> None:
    presence = home.start()
    with socket.create_connection(("127.0.0.1", presence.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    wait_until(lambda: '"event":"refused"' in Path(home.paths.audit).read_text())
