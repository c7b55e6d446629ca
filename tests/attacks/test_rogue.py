"""A daemon whose every word is chosen to do harm: to the terminal, to memory, to patience."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.attacks.rogue import NASTY, RUN, Rogue, nasty_facts, obedient, run_info
from tests.support.field import Field, read_until
from tests.transport.peers import listening

from psync.errors import _BY_CODE, ConnectionLost
from psync.model import ExitStatus, RunInfo, RunState, Stream
from psync.protocol import messages as m
from psync.transport.link import Link
from psync.transport.tls import server_context

MOST_LINES = 30
"""Lines that psync may say, whatever the daemon says. An honest daemon brings one or two."""

MOST_SAID = 20_000
"""Bytes that psync may say of itself."""

MEMORY = 400 << 20
"""Bytes of address space beyond what psync needs in any case."""


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    with Field(sshd=False) as field, Rogue(field) as rogue:
        yield rogue


@pytest.fixture
def field(rogue: Rogue) -> Field:
    return rogue.field


def check_harmless(said: bytes) -> str:
    """Make sure that a terminal shows this and does nothing else; return it."""
    text = said.decode()  # nothing but UTF-8
    bad = {char for char in text if char != "\n" and not char.isprintable()}
    assert not bad, (bad, said[:2000])
    assert len(said) <= MOST_SAID, said[:2000]
    assert text.count("\n") <= MOST_LINES, said[:3000]
    assert "a defect in psync" not in text, text
    assert "Traceback" not in text, text
    assert "\npsync: forged" not in text
    assert "\nforged line" not in text
    return text


def check(done: subprocess.CompletedProcess[bytes], output: bytes | None = b"") -> str:
    """The same for all that a psync printed; ``output`` is the program's own, None for any."""
    if output is None:
        check_harmless(done.stdout)
    else:
        assert done.stdout == output
    return check_harmless(done.stderr)


LONG = NASTY * 200  # some 16,000 characters: as long as a text of the protocol may be


CODES = ("connection-lost", "interrupted", "not-executable", "refused", "run-lost", "unheard-of")


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=[] if code in CODES else pytest.mark.long)
        for code in sorted({*_BY_CODE, *CODES})
    ],
)
@pytest.mark.parametrize("where", ["Error", "RequestRefused", "Refused", "Exited"])
def test_errors(rogue: Rogue, field: Field, code: str, where: str) -> None:
    text = {"message": LONG[: 16 * 1024], "hint": LONG[: 16 * 1024]}
    match where:
        case "Error":
            rogue.answer = obedient(OpenProject=[m.Error(code=code, **text)])
        case "RequestRefused":
            rogue.answer = obedient(
                OpenProject=[lambda n: m.RequestRefused(request=n, code=code, **text)]
            )
        case "Refused":
            rogue.answer = obedient(Start=[lambda n: m.Refused(channel=n, code=code, **text)])
        case "Exited":
            rogue.answer = obedient(
                Start=[
                    lambda n: m.Attached(
                        channel=n, run=RUN, state=RunState.STARTING, stdin=0, holder=NASTY
                    ),
                    lambda n: m.Exited(
                        channel=n,
                        end=0,
                        status=ExitStatus(code=127),
                        error=code,
                        message=text["message"],
                    ),
                ]
            )
    done = field.psync("run", "--no-sync", "true")
    said = check(done)
    assert done.returncode != 0
    assert said.startswith("psync: ")


def nasty_run(**fields: Any) -> RunInfo:
    """A run all of whose words are nasty."""
    known: dict[str, Any] = {
        "command": (NASTY.encode(), b"\xff\xfe", b"-e"),
        "name": NASTY,
        "project": NASTY,
        "client": NASTY,
        "revision": "\x1b[2J\n" * 3,
        "reason": NASTY,
        "status": ExitStatus(signal=NASTY),
        "state": RunState.EXITED,
    }
    return run_info(**{**known, **fields})


NUMBERS: dict[str, dict[str, Any]] = {
    "words": {},
    "large": {"created": 1e308, "started": -1e308, "ended": 1e308},
    "small": {"created": -1e308, "started": 1e308, "ended": -1e308},
    "grace": {"disconnect_grace": 1e308, "state": RunState.RUNNING, "status": None},
    "output": {"output": 2**63 - 1, "oldest": 2**63 - 1, "viewers": 2**63 - 1},
    "code": {"status": ExitStatus(code=255)},
}


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(name, marks=[] if name in ("words", "large", "output") else pytest.mark.long)
        for name in NUMBERS
    ],
)
def test_lists(rogue: Rogue, field: Field, numbers: str) -> None:
    run = nasty_run(**NUMBERS[numbers])
    rogue.answer = obedient((run, msgspec.structs.replace(run, id="abc")))
    for words in (["ps", "-a"], ["ps"], ["ps", "-a", "--all-targets"]):
        done = field.psync(*words)
        check(done, None)
        assert done.returncode == 0
        assert done.stdout.count(b"\n") <= 3
    quiet = field.psync("ps", "-aq")
    assert sorted(quiet.stdout.split()) == [RUN.encode(), b"abc"]
    found = json.loads(field.psync("ps", "-a", "--json").stdout)
    assert found[0]["name"] == NASTY  # which JSON escapes
    assert field.psync("ps", "-a", "--json").stdout.isascii()


@pytest.mark.parametrize(
    "fields",
    [
        {"output": 10**4000},
        {"viewers": 10**4000},
        {"output": -1},
        {"status": {"code": 256}},
        {"status": {"code": -1}},
        {"status": {"code": 10**4000}},
        {"id": "../x"},
        {"id": ""},
    ],
    ids=lambda fields: json.dumps(fields)[:30],
)
def test_numbers_that_are_none(rogue: Rogue, field: Field, fields: dict[str, Any]) -> None:
    """They end the connection in words; psync does not fall over them later."""

    def answer(link: Link, message: m.Message) -> None:
        if isinstance(message, m.ListRuns):
            told = {**msgspec.to_builtins(run_info()), **fields}
            body = {"request": message.request, "runs": [told]}
            link._write(m.RunList.TYPE.to_bytes(1, "big") + bytes(11) + json.dumps(body).encode())

    rogue.answer = answer
    done = field.psync("ps")
    assert "damaged RunList" in check(done)
    assert done.returncode == 125


@pytest.mark.parametrize("status", [ExitStatus(signal=NASTY), ExitStatus(lost=True)])
def test_endings(rogue: Rogue, field: Field, status: ExitStatus) -> None:
    rogue.answer = obedient(output=b"its own \x1b[31mwords\n", status=status)
    for words in (["run", "--no-sync", "true"], ["attach", RUN], ["logs", RUN]):
        check(field.psync(*words), b"its own \x1b[31mwords\n")
    check(field.psync("stop", RUN))
    rogue.answer = obedient((nasty_run(),))
    said = check(field.psync("stop", RUN))
    assert "over already" in said
    check(field.psync("logs", "-t", RUN), b"")
    rogue.answer = obedient((nasty_run(), msgspec.structs.replace(nasty_run(), id="0123")))
    check(field.psync("stop", "01"))  # the beginning of both
    rogue.answer = obedient(())
    check(field.psync("stop", NASTY.replace("\0", "")))


def test_who_holds_stdin_and_what_is_gone(rogue: Rogue, field: Field) -> None:
    """Words and numbers while a run goes on, thousands of times."""

    def answer(link: Link, message: m.Message) -> None:
        if not isinstance(message, m.Start):
            obedient()(link, message)
            return
        n = message.channel
        link.send(m.Attached(channel=n, run=RUN, state=RunState.RUNNING, stdin=0, holder=NASTY))
        for offset in range(0, 3000, 2):
            link.send(m.StdinHolder(channel=n, offset=0, holder=f"{NASTY} {offset}"))
            link.send(m.Gap(channel=n, start=offset, end=offset + 1))
            link.send(m.Data(n, Stream.STDOUT, offset + 1, b"x"))
        link.send(m.Gap(channel=n, start=3000, end=2**63 - 1))
        link.send(m.Exited(channel=n, end=2**63 - 1, status=ExitStatus(code=0)))

    rogue.answer = answer
    done = field.psync("run", "--no-sync", "true")
    check(done, b"x" * 1500)


@pytest.mark.parametrize("rsync", [True, False])
def test_facts(field: Field, rogue: Rogue, rsync: bool) -> None:
    facts = nasty_facts()
    if not rsync:
        facts = msgspec.structs.replace(facts, rsync=None)
    rogue.hello = msgspec.structs.replace(rogue.hello, facts=facts, software=NASTY[:200])
    check(field.psync("run", "--no-sync", "true"))
    check(field.psync("targets"), None)
    json.loads(field.psync("targets", "--json").stdout)
    for words in (["sync"], ["run", "true"]):
        done = field.psync(*words)
        assert "rsync" in check(done)
        assert done.returncode == 125


def test_facts_of_a_quarter_megabyte(field: Field, rogue: Rogue) -> None:
    facts = nasty_facts("\x1b" * 4000)
    rogue.hello = msgspec.structs.replace(rogue.hello, facts=facts)
    for _ in range(2):  # what is kept of them can be read again
        assert field.psync("run", "--no-sync", "true").returncode == 0
    check(field.psync("sync"))
    facts = msgspec.structs.replace(facts, hostname="h" * 230_000)
    rogue.hello = msgspec.structs.replace(rogue.hello, facts=facts)
    for _ in range(2):
        check(field.psync("run", "--no-sync", "true"))


def test_versions_and_features(field: Field, rogue: Rogue) -> None:
    rogue.hello = msgspec.structs.replace(
        rogue.hello, versions=tuple(range(10**300, 10**300 + 16)), software=NASTY[:200]
    )
    check(field.psync("ps"))
    rogue.hello = msgspec.structs.replace(rogue.hello, versions=(1,), features=())
    assert "older version" in check(field.psync("ps"))


@pytest.mark.parametrize(
    "listen", [["nonsense"], ["x:y"], [NASTY], ["0.0.0.0:99999"], [":0"], [""]]
)
def test_addresses(field: Field, rogue: Rogue, listen: list[str]) -> None:
    """What a daemon once said of where it listens is nothing to fall over."""
    rogue.pair(listen=tuple(listen))
    field.config.write_text('[targets.rogue]\nhost = "127.0.0.1"\n')
    field.env["PSYNC_SSH"] = "false"  # ssh is the other way
    done = field.psync("run", "--no-sync", "true")
    check(done)
    assert done.returncode == 125


# -- more than was asked for ----------------------------------------------------------------------


def attached(link: Link, message: m.Message) -> int:
    """Answer everything; return the channel where it was a start, or 0."""
    if not isinstance(message, m.Start | m.Attach):
        obedient()(link, message)
        return 0
    link.send(m.Attached(channel=message.channel, run=RUN, state=RunState.RUNNING, stdin=0, end=0))
    return message.channel


def too_much(link: Link, n: int) -> None:
    for number in range(2048):  # 128 MiB
        link.send(m.Data(n, Stream.STDOUT, number * 65536, bytes(65536)))


def a_hole(link: Link, n: int) -> None:
    link.send(m.Data(n, Stream.STDOUT, 1 << 40, b"x"))


def far_away(link: Link, n: int) -> None:
    link.send(m.Data(n, Stream.STDOUT, 2**64 - 1, b"xx"))


def a_wrong_end(link: Link, n: int) -> None:
    link.send(m.Exited(channel=n, end=1 << 40, status=ExitStatus(code=0)))


def stdin_that_was_never_sent(link: Link, n: int) -> None:
    link.send(m.Ack(n, 1 << 40))


def times_without_end(link: Link, n: int) -> None:
    for number in range(200):
        first = 1 + number * 4096
        stamps = tuple((at, 2**63 - 1) for at in range(first, first + 4096))
        link.send(m.Times(channel=n, stamps=stamps))


def stdin_of_a_client(link: Link, n: int) -> None:
    link.send(m.Data(n, Stream.STDIN, 0, b"x"))


def a_gap_backwards(link: Link, n: int) -> None:
    link.send(m.Gap(channel=n, start=5, end=3))


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (too_much, "more output than was asked for"),
        (a_hole, "are missing"),
        (far_away, "are missing"),
        (a_wrong_end, "output ends at"),
        (stdin_that_was_never_sent, "acknowledged"),
        (times_without_end, "times of output that does not come"),
        (stdin_of_a_client, "flows the other way"),
        (a_gap_backwards, "does not fit"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_nobody_asked_for(
    field: Field, rogue: Rogue, attack: Callable[[Link, int], None], words: str
) -> None:
    def answer(link: Link, message: m.Message) -> None:
        if channel := attached(link, message):
            attack(link, channel)

    rogue.answer = answer
    process = field.start("run", "--no-sync", "true", preexec_fn=_limited)  # stdout is not read
    assert process.wait(40) == 125
    stdout, stderr = process.communicate()
    assert words in check_harmless(stderr)
    assert stdout.strip(b"\0") == b""


def _limited() -> None:
    """Give psync so much memory and no more."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def test_thousands_of_channels_and_requests(field: Field, rogue: Rogue) -> None:
    def answer(link: Link, message: m.Message) -> None:
        channel = attached(link, message)
        if not channel:
            return
        for n in range(2, 5000):
            link.send(m.Data(n, Stream.STDOUT, 0, bytes(1000)))
            link.send(m.Attached(channel=n, run=RUN, state=RunState.RUNNING, stdin=0))
            link.send(m.Refused(channel=n, code="refused", message=NASTY))
            link.send(m.RequestRefused(request=n, code="refused", message=NASTY))
            link.send(m.Ping(n))
        link.send(m.Exited(channel=channel, end=0, status=ExitStatus(code=7)))

    rogue.answer = answer
    process = field.start("run", "--no-sync", "true", preexec_fn=_limited)
    stdout, stderr = process.communicate(timeout=40)
    assert (process.returncode, stdout) == (7, b"")
    assert check_harmless(stderr) == ""


@pytest.mark.parametrize("new", [False, True], ids=["the-same-runs", "other-runs"])
def test_a_list_without_end(field: Field, rogue: Rogue, new: bool) -> None:
    pages = 0

    def answer(link: Link, message: m.Message) -> None:
        nonlocal pages
        if isinstance(message, m.ListRuns):
            pages += 1
            run = run_info(name="x" * 180_000)
            if new:
                run = msgspec.structs.replace(run, id=f"{pages:010x}")
            link.send(m.RunList(request=message.request, runs=(run,), more=True))

    rogue.answer = answer
    process = field.start("ps", preexec_fn=_limited)
    stdout, stderr = process.communicate(timeout=50)
    assert "does not end" in check_harmless(stderr)
    assert (process.returncode, stdout) == (125, b"")


@pytest.mark.long
def test_a_daemon_that_says_nothing_can_be_left(field: Field, rogue: Rogue) -> None:
    """It takes everything and answers nothing: Ctrl-C leaves, at the latest the fourth."""
    rogue.answer = obedient(Start=[m.Ping(1)], Stop=[])
    process = field.start("run", "--no-sync", "true")
    said = b""
    rogue.wait(m.Start)
    for words in (b"again stops", b"again kills", b"again leaves", b"does not answer"):
        process.send_signal(signal.SIGINT)
        said += read_until(process, words, stderr=True)
    stdout, rest = process.communicate(timeout=20)
    check_harmless(said + rest)
    assert (process.returncode, stdout) == (130, b"")


def test_a_daemon_that_never_says_hello(field: Field, rogue: Rogue) -> None:
    with listening(lambda sock: silent(rogue, sock)) as peer:
        rogue.pair(port=peer.port)
        rogue.point_at(peer.port)
        done = field.psync("ps")
    check(done)
    assert done.returncode == 125


def silent(rogue: Rogue, sock: socket.socket) -> bytes:
    """Shake hands as TLS and websockets do, and then say nothing more."""
    server = rogue.authority.server
    context = server_context(server.certificate, server.key, server.ca)
    with context.wrap_socket(sock, server_side=True) as tls:
        asked = tls.recv(65536)
        key = re.search(rb"(?i)sec-websocket-key: *(\S+)", asked)
        assert key is not None
        accept = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        tls.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: psync.v1\r\nSec-WebSocket-Accept: "
            + base64.b64encode(accept)
            + b"\r\n\r\n"
        )
        while tls.recv(65536):
            pass
    return b""


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize("words", [["ps"], ["run", "--no-sync", "true"], ["stop", RUN]])
def test_a_daemon_that_answers_nothing_is_given_up(
    field: Field, rogue: Rogue, words: list[str]
) -> None:
    """Heartbeats go on, answers do not come: the request's own time is over after a minute."""
    rogue.answer = lambda link, message: None
    process = field.start(*words)
    stdout, stderr = process.communicate(timeout=120)
    assert "did not answer within 60 seconds" in check_harmless(stderr)
    assert (process.returncode, stdout) == (125, b"")


def test_a_connection_that_ends_again_and_again(field: Field, rogue: Rogue) -> None:
    """Each attempt is a line or two, and the attempts become fewer."""
    tries = 0

    def answer(link: Link, message: m.Message) -> None:
        nonlocal tries
        if attached(link, message):
            tries += 1
            if tries == 5:
                link.send(m.Exited(channel=1, end=0, status=ExitStatus(code=3)))
            else:
                link.close(ConnectionLost(NASTY * 20, hint=NASTY * 20))

    rogue.answer = answer
    done = field.psync("run", "--no-sync", "true")
    check(done)
    assert done.returncode == 3


@pytest.mark.parametrize("expires", [0.0, 1.0, 1e10])
def test_certificates_that_nobody_asked_for(field: Field, rogue: Rogue, expires: float) -> None:
    """It says that the client's certificate ends, and brings another one, which is none."""
    rogue.hello = msgspec.structs.replace(rogue.hello, certificate_expires=expires)
    answers = [lambda n: m.CertificateRenewed(request=n, certificate=NASTY.encode(), expires=1e10)]
    rogue.answer = obedient(RenewCertificate=answers)
    for _ in range(2):
        done = field.psync("run", "--no-sync", "true")
        check(done)
        assert done.returncode == 0
