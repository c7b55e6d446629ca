"""Every state file truncated and with bits flipped: the daemon starts, names what is damaged, and
serves the rest.

What no checksum covers may be wrong afterwards (a digit of a time in a JSON file, a byte of the
output itself); what a run's log says is either right or refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.world import seed_of
from tests.support.daemon import Client, Home, shell

from psync.protocol import messages as m

SCRIPT = "i=0; while [ $i -lt 20 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 3"
RUN_FILES = [
    "run.json",
    "spec.json",
    "supervisor.json",
    "exit.json",
    "cursor",
    "output-" + "0" * 20,
    "index-" + "0" * 20,
]

# Of no use to a run that is over.
NEEDLESS = {"spec.json", "supervisor.json"}


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


class Original:
    """A run that is over, and what it wrote."""

    def __init__(self, directory: Path, output: bytes) -> None:
        self.directory = directory
        self.id = directory.name
        self.output = output


class Case:
    """One damaged copy of a run."""

    def __init__(self, directory: Path, name: str, what: str) -> None:
        self.directory = directory
        self.id = directory.name
        self.name = name
        self.what = what


async def prepare(home: Home) -> Original:
    """Have a daemon run something to its end, and leave."""
    home.start()
    async with home.client() as client:
        run = client.start(*shell(SCRIPT))
        assert (await run.ended()).status.code == 3
        run_id = await run.running()
    home.leave()
    return Original(home.run(run_id), run.output)


def damage(original: Original, name: str, data: bytes, number: int, what: str) -> Case:
    """Make a copy of a run in which one file is another one."""
    copy = original.directory.with_name(f"{name.split('.')[0].split('-')[0]}{number}")
    shutil.copytree(original.directory, copy)
    (copy / name).write_bytes(data)
    return Case(copy, name, what)


async def look(client: Client, home: Home, case: Case, log: str, output: bytes) -> None:
    """See whether a damaged run is named, or what is served of it is right."""
    attachment = client.attach(case.id)
    await client.wait(lambda: attachment.has(m.Exited) or attachment.has(m.Refused))
    label = f"{case.name} {case.what}"
    named = f"run {case.id} is damaged" in log or f"run {case.id} is of a later version" in log
    if named:
        assert attachment.has(m.Refused), label
        assert case.name not in NEEDLESS or "later version" in log, label
        return
    if attachment.has(m.Refused):  # found out on reading
        refused = await attachment.refused()
        assert "cannot be read" in refused.message, label
        assert str(case.directory) in home.log, label
        assert case.name.startswith(("output", "index", "cursor")), label
        assert output.startswith(attachment.output), label
        return
    ended = await attachment.ended()
    if case.name.startswith("output"):
        assert len(attachment.output) == len(output), label
    else:
        assert attachment.output == output, label
    assert ended.status.code == 3, label


async def check(home: Home, cases: list[Case], original: Original) -> None:
    """Start a daemon on damaged copies of a run and look at all of them, and at one that is not."""
    before = len(home.log)
    home.start()
    async with home.client() as client:
        log = home.log[before:]
        for case in cases:
            await look(client, home, case, log, original.output)
        sound = client.attach(original.id)
        assert (await sound.ended()).status.code == 3
        assert sound.output == original.output
        assert (await client.start(*shell("exit 4")).ended()).status.code == 4
    assert "Traceback" not in home.log
    assert home.leave() == 0
    for case in cases:
        for left in case.directory.parent.glob(f"{case.id}*"):
            shutil.rmtree(left)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


async def test_every_file_of_a_run_damaged_somewhere(home: Home) -> None:
    dice = seed_of("damaged runs")
    original = await prepare(home)
    cases: list[Case] = []
    for name in RUN_FILES:
        data = (original.directory / name).read_bytes()
        for size in {0, 1, len(data) - 1, dice.randrange(len(data))}:
            number = len(cases)
            cases.append(damage(original, name, data[:size], number, f"cut to {size}"))
        for bit in [0, len(data) * 8 - 1, *(dice.randrange(len(data) * 8) for _ in range(4))]:
            number = len(cases)
            cases.append(damage(original, name, flipped(data, bit), number, f"bit {bit} flipped"))
    await check(home, cases, original)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RUN_FILES)
async def test_every_byte_of_a_file_of_a_run(home: Home, name: str) -> None:
    dice = seed_of(f"every byte of {name}")
    original = await prepare(home)
    data = (original.directory / name).read_bytes()
    step = max(1, len(data) // 1000)
    for start in range(0, len(data), 100 * step):
        cases: list[Case] = []
        for at in range(start, min(start + 100 * step, len(data)), step):
            bit = at * 8 + dice.randrange(8)
            cases.append(damage(original, name, flipped(data, bit), at, f"bit {bit} flipped"))
        await check(home, cases, original)
        cases = [
            damage(original, name, data[:size], size, f"cut to {size}")
            for size in range(start, min(start + 100 * step, len(data)), step)
        ]
        await check(home, cases, original)


# psync makes no other by itself: every client depends on it.
CA_KEY = "ca-key.pem"


async def whole(home: Home) -> tuple[str, Original]:
    """Leave a home with one of everything; return a run that goes on, and one that is over."""
    config = Path(home.paths.config_file)
    config.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_text("[retention]\nruns = 100000\n")
    home.start()
    async with home.client() as client:
        for project in ("p", "q"):
            opened = await client.ask(
                m.OpenProject(request=1, project=project, source=b"/s", host="h")
            )
            assert isinstance(opened, m.ProjectOpened)
        living = client.start(*shell("echo on; read x; exit 5"), project="p", disconnect_grace=None)
        await living.shows(b"on\n")
        over = client.start(*shell(SCRIPT))
        await over.ended()
        runs = await living.running(), await over.running()
    home.leave()
    return runs[0], Original(home.run(runs[1]), over.output)


def daemon_files(home: Home) -> list[Path]:
    """The files of the daemon itself."""
    base = home.directory / "there"
    return sorted(
        path
        for path in base.rglob("*")
        if path.is_file()
        and Path(home.paths.runs) not in path.parents
        and path.suffix not in (".log", ".toml")
        and path.stat().st_size
    )


async def serves(
    home: Home, runs: tuple[str, Original], *, client_name: str, damaged: str = ""
) -> None:
    """See that a daemon that runs serves what it has.

    ``damaged`` is the project whose marker is; its client is told, or it was one byte of a name.
    """
    async with home.client(client_name) as client:
        assert (await client.start(*shell("exit 4")).ended()).status.code == 4
        for project in ("q", "new"):
            opened = await client.ask(
                m.OpenProject(request=1, project=project, source=b"/s", host="h")
            )
            if isinstance(opened, m.RequestRefused):
                assert project == damaged or client_name != "desk", opened
                assert "damaged" in opened.message or "belongs" in opened.message, opened
        if client_name == "desk":
            await client.attach(runs[0]).shows(b"on\n")
            again = client.attach(runs[1].id)
            assert (await again.ended()).status.code == 3
            assert again.output == runs[1].output


async def try_all(home: Home, variants: dict[str, list[Callable[[bytes], bytes]]]) -> list[str]:
    """Start a daemon with every variant of its files, and return those that it noticed."""
    runs = await whole(home)
    template = home.directory / "template"
    there = home.directory / "there"
    shutil.copytree(there / "data", template / "data", symlinks=True)
    state = {path.name: path.read_bytes() for path in (there / "state").glob("daemon.*")}
    noticed: list[str] = []
    for relative, changes in variants.items():
        for change in changes:
            shutil.rmtree(there / "data")
            shutil.copytree(template / "data", there / "data")
            for name, data in state.items():
                if name != "daemon.log":
                    (there / "state" / name).write_bytes(data)
            path = there / relative
            path.write_bytes(change(path.read_bytes()))
            log = len(home.log)
            try:
                home.start()
            except AssertionError:  # it says why it does not start
                assert path.name == CA_KEY, home.log
                assert str(path) in home.log[log:]
                continue
            name = "desk"
            if path.name == "clients.json":  # of a list that is damaged nothing may be let in
                name = f"other{len(noticed)}"
                home.pair(name)
            damaged = path.parent.name if path.name == "project.json" else ""
            await serves(home, runs, client_name=name, damaged=damaged)
            assert "Traceback" not in home.log
            if str(path) in home.log[log:]:
                noticed.append(path.name)
            home.leave()
    return noticed


async def files_of_a_daemon() -> list[str]:
    """The names of all files that a daemon has, below its home."""
    with Home() as model:
        await whole(model)
        base = model.directory / "there"
        return [str(path.relative_to(base)) for path in daemon_files(model)]


@pytest.mark.timeout(120)
async def test_every_file_of_the_daemon_damaged(home: Home) -> None:
    dice = seed_of("damaged daemon")
    variants: dict[str, list[Callable[[bytes], bytes]]] = {}
    for name in await files_of_a_daemon():
        variants[name] = [
            lambda data: data[: dice.randrange(len(data))],
            lambda data: flipped(data, dice.randrange(len(data) * 8)),
        ]
    noticed = await try_all(home, variants)
    assert {"server-cert.pem", "server-key.pem", "ca-cert.pem"} <= set(noticed)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_every_file_of_the_daemon_damaged_in_many_places(home: Home) -> None:
    dice = seed_of("much damaged daemon")
    variants: dict[str, list[Callable[[bytes], bytes]]] = {}
    for name in await files_of_a_daemon():
        variants[name] = [lambda _data: b"", lambda data: data[:-1]]
        for _ in range(20):
            variants[name].append(lambda data: data[: dice.randrange(len(data))])
            variants[name].append(lambda data: flipped(data, dice.randrange(len(data) * 8)))
    await try_all(home, variants)
