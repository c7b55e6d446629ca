"""Paths and names that lead somewhere else, said by a paired client to a real daemon."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.mutate import NO_PROGRAM, PROJECT
from tests.attacks.raw import RawClient, connected, dial
from tests.support.daemon import Home

from psync.errors import PsyncError
from psync.protocol import messages as m
from psync.protocol.codec import HEADER


def request_id() -> str:
    """A new one each time: the same one again means the same run."""
    return secrets.token_hex(16)


@pytest.fixture(scope="module")
def served() -> Iterator[Home]:
    """A daemon whose tests leave it as it was."""
    with Home() as home:
        home.start()
        home.pair("desk")
        yield home


def projects(home: Home) -> Path:
    return Path(home.paths.projects)


def mirror(home: Home) -> Path:
    return projects(home) / PROJECT


def seen(home: Home) -> set[str]:
    """Everything of the home but what the daemon itself keeps: logs, runs, clients."""
    kept = (home.paths.state, home.paths.clients)
    found = set()
    for directory, names, files in os.walk(home.directory):
        for name in names + files:
            path = f"{directory}/{name}"
            if not path.startswith(kept):
                found.add(path)
    return found


async def ask(client: RawClient, kind: type[m.Control], **fields: Any) -> m.Message | None:
    """Send a message whose fields nobody has checked; return what comes back."""
    client.send(HEADER.pack(kind.TYPE, 0, 0, 0) + json.dumps(fields).encode())
    return await client.hear()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def open_project(client: RawClient) -> None:
    answer = await ask(
        client, m.OpenProject, request=1, project=PROJECT, source=b64(b"/src"), host="desk"
    )
    assert isinstance(answer, m.ProjectOpened), answer


async def start(client: RawClient, **spec: Any) -> m.Message | None:
    """Start what must not be started, in the project unless it is said otherwise."""
    spec = {"argv": [b64(NO_PROGRAM)], "project": PROJECT, **spec}
    return await ask(client, m.Start, channel=1, request_id=request_id(), spec=spec)


async def ending(client: RawClient) -> m.Exited | None:
    """Wait for the end of the run; None where the connection ended before."""
    while not isinstance(message := await client.hear(), m.Exited | None):
        pass
    return message


NAMES = [
    "",
    ".",
    "..",
    "../runs",
    "a/b",
    "/etc",
    "-rf",
    "--server",
    ".hidden",
    "host:path",
    "a b",
    "a\0b",
    "a\nb",
    "a\n",
    "\na",
    "UPPER",
    "ü",
    "\ud800",
    "a" * 81,
    "a" * 4096,
    "a" * 200_000,
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:10]))
async def test_names_of_projects(served: Home, name: str) -> None:
    before = seen(served)
    async with connected(served) as client:
        answer = await ask(
            client, m.OpenProject, request=1, project=name, source=b64(b"/src"), host="desk"
        )
        assert isinstance(answer, m.Error), answer
        assert answer.code == "protocol"
    async with connected(served) as client:
        answer = await start(client, project=name)
        assert isinstance(answer, m.Refused | m.Error), answer
        assert answer.code in ("refused", "protocol")
        assert len(answer.message) <= 4000
    assert seen(served) == before


PATHS = [
    b"",
    b".",
    b"..",
    b"x",
    b"/etc/passwd",
    b"/",
    b"//tree/x",
    b"tree/../../x",
    b"tree/..",
    b"tree/x/../..",
    b"outside/../project.json",
    b"../a-project/tree/x",
    b"project.json",
    b"tree\0/x",
    b"tree/a\0b",
    b"tree\n/x",
    b"Tree/x",
    b"trees/x",
    b"\xff\xfe/x",
    b"-e/x",
]


@pytest.mark.parametrize("which", ["program", "cwd"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: repr(path[:14]))
async def test_paths_that_leave_the_mirror(served: Home, path: bytes, which: str) -> None:
    async with connected(served) as client:
        await open_project(client)
        before = seen(served)
        answer = await start(client, **{which: b64(path)})
        assert isinstance(answer, m.Refused), answer
        assert answer.code == "refused"
        assert seen(served) == before


@pytest.mark.parametrize(
    "path",
    [
        b"tree/" + b"a" * 256,  # longer than a name may be
        b"tree/" + b"a/" * 2040,  # as long as a path may be, and as deep
        b"tree/" + b"b" * 200 + b"/c" * 2000,
        b"tree/" + b"a/" * 90_000,  # and far beyond
        b"tree/" + b"a" * 180_000,
    ],
    ids=lambda path: f"{len(path)}-{path.count(b'/')}",
)
@pytest.mark.parametrize("which", ["program", "cwd"])
async def test_paths_of_any_length(served: Home, path: bytes, which: str) -> None:
    """They are refused, or they work; the daemon does not care how deep they are."""
    async with connected(served) as client:
        await open_project(client)
        answer = await start(client, **{which: b64(path)})
        if isinstance(answer, m.Attached):
            assert await ending(client) is not None
        else:
            assert isinstance(answer, m.Refused), answer
            assert len(answer.message) <= 4000
        assert await client.survives(1) is None  # the connection goes on


@pytest.mark.parametrize(
    "path", [b"tree/-rf", b"tree/a:b", b"tree/a\nb", b"tree/\xff\xfe", b"tree/\x1b[2J", b"tree/ "]
)
async def test_strange_names_inside_the_mirror_are_names(served: Home, path: bytes) -> None:
    async with connected(served) as client:
        await open_project(client)
        before = seen(served)
        answer = await start(client, cwd=b64(path))
        assert isinstance(answer, m.Attached), answer
        assert seen(served) - before == {os.fsdecode(bytes(mirror(served)) + b"/" + path)}
        (mirror(served) / os.fsdecode(path)).rmdir()


@pytest.mark.parametrize("where", ["tree/link", "tree/link/deep/er", "tree", "outside/link/x"])
async def test_links_out_of_the_mirror(served: Home, tmp_path: Path, where: str) -> None:
    victim = tmp_path / "victim"
    (victim / "deep").mkdir(parents=True)
    (victim / "deep/er").write_text("#!/bin/sh\n")
    async with connected(served) as client:
        await open_project(client)
        at = mirror(served) / "/".join(where.split("/")[:2])
        if at.is_dir():
            at.rmdir()
        at.symlink_to(victim)
        try:
            for which in ("program", "cwd"):
                answer = await start(client, **{which: b64(where.encode() + b"/new")})
                assert isinstance(answer, m.Refused), answer
                assert "through a link" in answer.message
        finally:
            at.unlink()
        assert sorted(path.name for path in victim.rglob("*")) == ["deep", "er"]
        for name in ("tree", "outside"):
            (mirror(served) / name).mkdir(exist_ok=True)


RENAME_EXCHANGE = 2
AT_FDCWD = -100


@contextmanager
def flipping(path: Path, victim: Path) -> Iterator[None]:
    """Have ``path`` be a directory and a link out of the mirror in turns, as fast as it goes."""
    link = path.with_name("link")
    path.mkdir()
    link.symlink_to(victim)
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    over = threading.Event()

    def flip() -> None:
        while not over.is_set():
            exchange(AT_FDCWD, bytes(path), AT_FDCWD, bytes(link), RENAME_EXCHANGE)

    thread = threading.Thread(target=flip, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges two names at once")
async def test_a_link_that_comes_and_goes(served: Home, tmp_path: Path) -> None:
    """Nothing is made on the other side of a link, whatever happens between look and leap."""
    victim = tmp_path / "victim"
    victim.mkdir()
    async with connected(served) as client:
        await open_project(client)
        path = mirror(served) / "tree/flip"
        answers = set()
        with flipping(path, victim):
            for number in range(1500):
                spec = {
                    "argv": [],  # refused, after the directory was made
                    "project": PROJECT,
                    "cwd": b64(b"tree/flip/%d" % number),
                }
                answer = await ask(client, m.Start, channel=1, request_id=request_id(), spec=spec)
                assert isinstance(answer, m.Refused), answer
                answers.add(answer.message.partition("/")[0][:30])
        assert list(victim.iterdir()) == []
        assert len(answers) > 1  # it was a link at times, and at times a directory


async def test_a_source_of_any_length(served: Home) -> None:
    """What a client says of itself does not spoil what the daemon keeps of its project."""
    async with connected(served) as client:
        sources = (b"/" + b"x" * 4000, b"\0\n\x1b", b"/" + b"x" * 150_000)
        for number, source in enumerate(sources):
            fields = {
                "project": f"source-{number}",
                "host": "\x1b[2J\n" * 30,
                "source": b64(source),
            }
            first = await ask(client, m.OpenProject, request=1, **fields)
            again = await ask(client, m.OpenProject, request=2, **fields)
            assert type(first) is type(again), (first, again)
            assert isinstance(first, m.ProjectOpened | m.RequestRefused)
    async with served.client("other") as other:
        run = other.start("echo", "on")
        assert (await run.ended()).status.code == 0


async def test_another_clients_project(served: Home) -> None:
    async with connected(served) as client:
        await open_project(client)
    client = await dial(served, "thief")
    for kind, fields in (
        (m.OpenProject, {"request": 1, "project": PROJECT, "source": b64(b"/"), "host": "x"}),
        (
            m.Start,
            {
                "channel": 1,
                "request_id": request_id(),
                "spec": {"argv": [b64(NO_PROGRAM)], "project": PROJECT, "cwd": b64(b"tree")},
            },
        ),
    ):
        answer = await ask(client, kind, **fields)
        assert isinstance(answer, m.Refused | m.RequestRefused), answer
        assert answer.code == "refused"
    client.abort()


async def test_lives_that_are_no_number_of_seconds(served: Home) -> None:
    """A supervisor counts them; it must not fall over."""
    for seconds in (1e308, -1e308, 1e18, 2**63, 2**64, -1, 1e-300):
        async with connected(served) as client:
            spec = {"argv": [b64(b"/bin/true")], "disconnect_grace": seconds}
            answer = await ask(client, m.Start, channel=1, request_id=request_id(), spec=spec)
            if isinstance(answer, m.Attached):
                exited = await ending(client)
                assert exited is not None
                assert not exited.status.lost, (seconds, exited)
            else:
                assert isinstance(answer, m.Refused), (seconds, answer)


async def test_text_that_is_no_text(served: Home) -> None:
    """Half a surrogate pair, names of any length: what is kept can be told again."""
    async with connected(served) as client:
        for name in ("x" * 100_000, "\x1b]0;x\x07\n", "\u202e", "\0"):
            spec = {"argv": [b64(b"/bin/true")], "name": name, "revision": name[:200]}
            answer = await ask(client, m.Start, channel=1, request_id=request_id(), spec=spec)
            assert isinstance(answer, m.Attached | m.Refused), answer
            if isinstance(answer, m.Attached):
                assert await ending(client) is not None
                await ask_detach(client)
    async with connected(served) as client:
        listed = await ask(client, m.ListRuns, request=1)
        assert isinstance(listed, m.RunList)
        assert all(len(run.name) <= 200 for run in listed.runs)


async def ask_detach(client: RawClient) -> None:
    client.send(HEADER.pack(m.Detach.TYPE, 0, 0, 0) + b'{"channel":1}')
    error: PsyncError | None = await client.survives(99)
    assert error is None
