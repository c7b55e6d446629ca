"""The registry of runs across the deaths of daemons, supervisors and launchers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.supervisor.support import Connection
from tests.support.daemon import Client, Home, python, shell, spec
from tests.support.waiting import alive, wait_until

from psync.daemon.pace import FIRST
from psync.daemon.retention import Retention
from psync.daemon.rundir import DAMAGED
from psync.daemon.viewer import SMALL_PIECE
from psync.model import RunInfo, RunSpec, RunState
from psync.protocol import messages as m
from psync.supervisor import record

COUNTER = python(
    "import sys\n"
    "print('ready', flush=True)\n"
    "sys.stdin.readline()\n"
    "for i in range(200000): print(i)\n"
    "sys.exit(7)"
)
COUNTED = b"ready\n" + b"".join(b"%d\n" % i for i in range(200000))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("ends", ["before", "between", "after"])
async def test_a_run_outlives_its_daemon(home: Home, number: int, ends: str) -> None:
    """``ends``: when the program gets to its end, with regard to the change of daemons."""
    home.start()
    async with home.client() as client:
        run = client.start(*COUNTER, disconnect_grace=None)
        run_id = await run.running()
        await run.shows(b"ready\n")
        if ends == "between":
            run.send(b"\n")
            await client.wait(lambda: run.end > 100_000)
        elif ends == "before":
            run.send(b"\n")
            await run.ended()
        seen = run.end
        assert home.leave(number) == (0 if number == signal.SIGTERM else -number)
    if ends == "between":
        wait_until(lambda: not record.read_owner(str(home.run(run_id))).alive)
    home.start()
    async with home.client() as client:
        again = client.attach(run_id)
        attached = await again.expect(m.Attached)
        if ends == "after":
            assert (attached.state, attached.stdin) == (RunState.RUNNING, 0)
            again.send(b"\n")
        ended = await again.ended()
        assert (ended.status.code, again.output == COUNTED) == (7, True)
        # and from where the first client was
        rest = client.attach(run_id, seen)
        await rest.ended()
        assert rest.output == COUNTED[seen:]


async def test_a_request_sent_twice_starts_one_run(home: Home) -> None:
    home.start()
    request = "r" * 16
    async with home.client() as client, home.client() as other, home.client("laptop") as laptop:
        first = client.start(*shell("read x"), request=request)
        second = client.start(*shell("read x"), request=request)
        third = other.start(*shell("read x"), request=request)
        run_id = await first.running()
        assert await second.running() == await third.running() == run_id
        # another client's request of that name is another one
        assert await laptop.start("true", request=request).running() != run_id
        assert len(home.runs()) == 2
    home.leave(signal.SIGKILL)
    home.start()
    async with home.client() as client:
        again = client.start(*shell("read x"), request=request)
        assert await again.running() == run_id
        again.send(b"\n")
        assert (await again.ended()).status.code == 0
        late = client.start(*shell("read x"), request=request)
        assert await late.running() == run_id
        assert (await late.ended()).status.code == 0
    assert len(home.runs()) == 2


async def listed(client: Client, run_id: str) -> RunInfo:
    """What the daemon tells of one run."""
    answer = await client.ask(m.ListRuns(request=1, match=run_id))
    assert isinstance(answer, m.RunList)
    (info,) = answer.runs
    return info


async def test_a_killed_supervisor_means_lost_and_nobody_survives(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("setsid sleep 1000 & sleep 1000 & echo $! $$; wait"))
        await run.shows(b"\n")
        directory = home.run(await run.running())
        pids = [int(word) for word in run.output.split()]
        os.kill(record.read_owner(str(directory)).pid, signal.SIGKILL)
        ended = await run.ended()
        assert (ended.status.lost, ended.status.returncode) == (True, 255)
        wait_until(lambda: not any(map(alive, pids)))
        wait_until(lambda: (directory / "lost").exists() and (directory / "lost").read_bytes())
        assert _marked(directory.name) == []
        known = round((await listed(client, directory.name)).ended or 0.0, 3)
        assert (await client.start("true").ended()).status.code == 0
        assert await client.attach(directory.name).running()
    home.leave()
    home.start()
    async with home.client() as client:
        again = client.attach(directory.name)
        assert (await again.ended()).status.lost
        assert again.output == run.output
        info = await listed(client, directory.name)
        assert (info.state, info.ended) == (RunState.LOST, known)
        assert info.started is not None
        assert info.started <= known
    assert home.log.count(f"run {directory.name} is lost") == 1
    assert "Traceback" not in home.log


@pytest.mark.parametrize("over", [False, True])
async def test_a_request_that_a_killed_daemon_took_starts_nothing_again(
    home: Home, tmp_path: Path, over: bool
) -> None:
    proof = tmp_path / "proof"
    argv = shell(f"echo once >> {proof}; echo on; read x; exit 6")
    home.start()
    async with home.client() as client:
        run = client.start(*argv, request="r" * 16, disconnect_grace=None)
        await run.shows(b"on\n")
        run_id = await run.running()
        if over:
            run.send(b"\n")
            await run.ended()
        home.leave(signal.SIGKILL)
    home.start()
    async with home.client() as client:
        again = client.start(*argv, request="r" * 16)
        assert await again.running() == run_id
        if not over:
            again.send(b"\n")
        assert (await again.ended()).status.code == 6
        assert again.output == b"on\n"
    assert proof.read_text() == "once\n"


async def test_a_daemon_killed_between_the_request_and_the_launch(
    home: Home, tmp_path: Path
) -> None:
    """The client was told nothing, and its request means the same to the next daemon."""
    proof = tmp_path / "proof"
    argv = shell(f"echo once >> {proof}; exit 6")
    home.start()
    assert home.daemon is not None
    (launcher,) = _children(home.daemon.pid)
    os.kill(launcher, signal.SIGSTOP)
    async with home.client() as client:
        run = client.start(*argv, request="r" * 16)
        wait_until(lambda: any(not directory.suffix for directory in home.runs()))
        assert not run.said
        home.leave(signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)
    (first,) = home.runs()
    home.start()
    assert f"run {first.name} was never begun" in home.log
    wait_until(lambda: not home.runs())
    async with home.client() as client:
        again = client.start(*argv, request="r" * 16)
        assert (await again.ended()).status.code == 6
        assert await again.running() != first.name
    assert proof.read_text() == "once\n"
    assert [run.name for run in home.runs()] == [await again.running()]


async def test_what_was_half_made_is_removed(home: Home) -> None:
    for name in ("abc.new", "abd.gone"):
        home.run(name).mkdir(parents=True, mode=0o700)
        (home.run(name) / "run.json").touch()
    os.chmod(home.paths.state, 0o700)
    os.chmod(home.paths.runs, 0o700)
    home.start()
    wait_until(lambda: not home.runs())
    assert "damaged" not in home.log


async def test_runs_of_a_later_version_are_left_alone(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start("true")
        await run.ended()
    home.leave()
    directory = home.run(await run.running())
    ticket = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(ticket | {"format": 9, "new": True}))
    home.start()
    async with home.client() as client:
        assert "no run" in (await client.attach(directory.name).refused()).message
        assert f"run {directory.name} is of a later version" in home.log
    assert home.leave() == 0
    (directory / "run.json").write_text(json.dumps(ticket))  # as that version reads it
    home.start()
    async with home.client() as client:
        assert (await client.attach(directory.name).ended()).status.code == 0


@pytest.mark.parametrize("rule", ["age", "size"])
async def test_what_is_configured_decides_what_is_kept(home: Home, rule: str) -> None:
    config = Path(home.paths.config_file)
    config.parent.mkdir(parents=True, exist_ok=True)
    value = {"age": '"0.5s"', "size": '"150KiB"'}[rule]
    config.write_text(f"[retention]\n{rule} = {value}\n")
    home.start()
    async with home.client() as client:
        first = client.start(*shell("head -c 90000 /dev/zero"))
        await first.ended()
        directory = home.run(await first.running())
    home.leave()
    home.start()
    async with home.client() as client:
        living = client.start(*shell("read x"))
        await living.running()
        last = client.start(*shell("head -c 90000 /dev/zero"))
        await last.ended()
        wait_until(lambda: not directory.exists())
        if rule == "size":
            assert home.run(await last.running()).exists()
        assert home.run(await living.running()).exists()


async def test_a_supervisor_killed_while_no_daemon_ran(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("echo $$; exec sleep 1000"))
        await run.shows(b"\n")
        directory = home.run(await run.running())
    home.leave()
    os.kill(record.read_owner(str(directory)).pid, signal.SIGKILL)
    home.start()
    async with home.client() as client:
        assert (await client.attach(directory.name).ended()).status.lost
    wait_until(lambda: not alive(int(run.output)))


def _marked(run_id: str) -> list[str]:
    """Living processes that carry the run's mark."""
    mark = f"PSYNC_RUN={run_id}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(entry.name)
            except OSError:
                continue
    return found


async def test_a_supervisor_that_hangs_up_and_lives_is_met_again(home: Home) -> None:
    """Another daemon's connection replaces ours; the run must not be taken for lost."""
    home.start()
    async with home.client() as client:
        run = client.start(*shell("echo on; read x; read y; echo $x$y"))
        await run.shows(b"on\n")
        run.send(b"a\n")
        await client.wait(lambda: run.stdin_taken == 2)
        intruder = Connection(home.run(await run.running()))
        intruder.expect_closed()  # the daemon is back
        intruder.close()
        await client.wait(lambda: sum(isinstance(s, m.Attached) for s in run.said) == 2)
        assert run.said[-1].stdin == 2  # type: ignore[union-attr]
        run.send(b"b\n", 2)
        await run.shows(b"ab\n")
        assert (await run.ended()).status.code == 0


async def test_stopping_a_run_that_has_only_just_been_asked_for(shared: Home) -> None:
    async with shared.client() as client:
        for kill, name in ((True, "SIGKILL"), (False, "SIGTERM")):
            run = client.start(*shell("echo on; while :; do sleep 1000; done"))
            client.link.send(m.Stop(channel=run.channel, kill=kill))
            ended = await run.ended()
            assert ended.status.signal == name
            assert run.said.count(await run.expect(m.Attached)) == 1


async def test_stdin_with_a_hole_or_over_its_window_ends_only_that_connection(
    shared: Home,
) -> None:
    async with shared.client() as good:
        run = good.start(*shell("echo on; read x; echo $x"))
        await run.shows(b"on\n")
        run_id = await run.running()
        good.link.send(m.Detach(channel=run.channel))
        for data, offset in ((b"x", 5), (bytes(m.MAX_DATA), m.WINDOW_STDIN)):
            async with shared.client() as bad:
                attachment = bad.attach(run_id)
                await attachment.running()
                attachment.send(data, offset)
                error = await bad.expect_closed()
                assert error is not None
                assert error.code == "protocol"
        async with shared.client() as bad:
            attachment = bad.attach(run_id)
            await attachment.running()
            bad.link.send(m.StdinEnd(attachment.channel, 9))
            error = await bad.expect_closed()
            assert error is not None
            assert "stdin ends at 9" in error.message
        run = good.attach(run_id)
        assert (await run.expect(m.Attached)).holder is None
        run.send(b"fine\n")
        await run.shows(b"fine\n")
        assert (await run.ended()).status.code == 0


async def test_a_killed_launcher_costs_nothing(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    async with home.client() as client:
        kept = client.start(*shell("read x"))
        await kept.running()
        (launcher,) = _children(home.daemon.pid)
        os.kill(launcher, signal.SIGKILL)
        wait_until(lambda: not alive(launcher))
        assert (await client.start("true").ended()).status.code == 0
        assert len(_children(home.daemon.pid)) == 1
        kept.send(b"\n")
        assert (await kept.ended()).status.code == 0


async def test_a_launcher_that_hangs_is_replaced(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    async with home.client() as client:
        (launcher,) = _children(home.daemon.pid)
        os.kill(launcher, signal.SIGSTOP)
        refused = client.start("true", request="r" * 16)
        assert (await refused.refused()).code == "launch"
        wait_until(lambda: not alive(launcher))
        # refused, so that it may be asked for again
        assert (await client.start("true", request="r" * 16).ended()).status.code == 0
    wait_until(lambda: len([run for run in home.runs() if run.suffix != ".gone"]) == 1)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split() if alive(int(word))]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda _text: b"",
    "bytes": lambda _text: bytes(range(256)),
    "deep": lambda _text: b"[" * 100_000,
    "other": lambda _text: b'{"format": 1}',
}


@pytest.mark.parametrize("name", ["run.json", "exit.json", "cursor"])
async def test_damaged_directories_are_set_aside_and_the_others_served(
    home: Home, name: str
) -> None:
    home.start()
    async with home.client() as client:
        sound = client.start(*shell("echo sound"))
        await sound.ended()
        living = client.start(*shell("read x"))
        await living.running()
    home.leave()
    original = home.run(await sound.running())
    damaged = []
    for number, damage in enumerate(DAMAGE.values()):
        copy = original.with_name(f"bad{number}")
        shutil.copytree(original, copy)
        (copy / name).write_bytes(damage((copy / name).read_bytes()))
        damaged.append(copy.name)
    (original.with_name("empty")).mkdir()
    (original.with_name("afile")).touch()
    (original.with_name(f"bad0{DAMAGED}")).mkdir()  # from an earlier time
    home.start()
    async with home.client() as client:
        for run_id in [*damaged, "empty", "afile"]:
            assert f"run {run_id} is damaged and set aside as {home.run(run_id)}" in home.log
            assert not home.run(run_id).exists()
            assert "no run" in (await client.attach(run_id).refused()).message
        again = client.attach(original.name)
        assert ((await again.ended()).status.code, again.output) == (0, b"sound\n")
        again = client.attach(await living.running())
        await again.running()
        again.send(b"\n")
        assert (await again.ended()).status.code == 0
    assert (home.run(f"bad0{DAMAGED}-2") / "run.json").exists()
    assert "Traceback" not in home.log
    assert home.leave() == 0


@pytest.mark.parametrize("name", ["spec.json", "supervisor.json", "ctl", "index-" + "0" * 20])
async def test_damage_that_costs_no_ending(home: Home, name: str) -> None:
    """These are of no use to a run that is over (without an index, only its output is)."""
    home.start()
    async with home.client() as client:
        run = client.start("true")
        await run.ended()
    home.leave()
    directory = home.run(await run.running())
    (directory / name).write_bytes(b"\xff garbage")
    home.start()
    async with home.client() as client:
        assert (await client.attach(directory.name).ended()).status.code == 0


async def test_a_run_that_goes_on_is_kept_whatever_became_of_its_ticket(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("read x; exit 3"))
        await run.running()
    home.leave()
    directory = home.run(await run.running())
    (directory / "run.json").write_bytes(b"")
    home.start()
    assert f"run {directory.name} goes on" in home.log
    async with home.client() as client:
        run = client.attach(directory.name)
        await run.running()
        run.send(b"\n")
        assert (await run.ended()).status.code == 3


async def test_directories_are_private_and_left_overs_are_removed(home: Home) -> None:
    leftover = home.run("abc.gone")
    leftover.mkdir(parents=True)
    (leftover / "output").touch()
    os.chmod(home.paths.state, 0o700)
    os.chmod(home.paths.runs, 0o700)
    home.start()
    wait_until(lambda: not leftover.exists())
    async with home.client() as client:
        run = client.start("true")
        await run.ended()
        directory = home.run(await run.running())
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(home.paths.runs).st_mode) == 0o700


async def test_the_oldest_finished_runs_go_but_not_while_somebody_watches(home: Home) -> None:
    home.start()
    async with home.client() as client:
        run = client.start(*shell("head -c 5000000 /dev/zero"))
        await run.ended()
        original = home.run(await run.running())
    home.leave()
    ticket = json.loads((original / "run.json").read_text())
    copies = [f"copy{number:03}" for number in range(Retention().runs + 1)]
    for number, name in enumerate(copies):
        directory = home.run(name)
        shutil.copytree(original, directory) if number == 1 else directory.mkdir(mode=0o700)
        for file in ("exit.json", "cursor"):
            shutil.copy(original / file, directory)
        later = {"created": ticket["created"] + 1 + number, "request": f"{number}".zfill(16)}
        (directory / "run.json").write_text(json.dumps(ticket | later))
    home.start()
    wait_until(lambda: [run.name for run in home.runs()] == copies[1:])
    async with home.client() as watcher, home.client() as client:
        lazy = watcher.attach(copies[1], acks=False)
        await watcher.wait(lambda: lazy.end > FIRST - SMALL_PIECE)
        await client.start("true").ended()
        assert home.run(copies[1]).exists()
        assert home.run(copies[2]).exists()
        lazy.resume()
        assert (await lazy.ended()).end == 5_000_000
        wait_until(lambda: not home.run(copies[1]).exists())
        assert home.run(copies[2]).exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (spec("a\0b"), "NUL"),
        (spec("env", env=((b"A", b"\0"),)), "NUL"),
        (spec("env", env=((b"A\0", b""),)), "NUL"),
        (spec("env", env=((b"A=B", b""),)), "not the name"),
        (spec("env", env=((b"", b""),)), "not the name"),
        (spec(), "empty"),
        (spec("env", disconnect_grace=-1.0), "negative"),
        (spec("env", project="nobody-s"), "ever synced"),
        (spec("env", project="../../etc"), "not a project's ID"),
        (spec("env", program=b"tree/x"), "needs a project"),
        (spec("env", project="p" * 100_000), "pppp"),
    ],
)
async def test_what_cannot_be_run_is_refused(shared: Home, what: RunSpec, words: str) -> None:
    async with shared.client() as client:
        before = shared.runs()
        refused = await client.start_spec(what).refused()
        assert words in refused.message
        assert len(refused.message) <= 4000
        assert shared.runs() == before
        assert (await client.start("true").ended()).status.code == 0


async def test_a_grace_of_years_is_no_trouble(shared: Home) -> None:
    async with shared.client() as client:
        run_id = await client.start(*shell("read x; exit 4"), disconnect_grace=1e300).running()
    async with shared.client() as client:
        run = client.attach(run_id)
        await run.running()
        run.send(b"\n")
        assert (await run.ended()).status.code == 4


async def test_a_full_disk_is_told(home: Home) -> None:
    home.start()
    os.chmod(home.paths.runs, 0o500)
    if os.access(home.paths.runs, os.W_OK):  # root may write anywhere
        shutil.rmtree(home.paths.runs)
        Path(home.paths.runs).touch()
    async with home.client() as client:
        refused = await client.start("true").refused()
        assert "cannot be recorded" in refused.message


@pytest.mark.long
async def test_many_runs_leak_nothing(home: Home) -> None:
    home.start()
    assert home.daemon is not None
    process = Path(f"/proc/{home.daemon.pid}")

    def resident() -> int:
        (line,) = (
            li for li in (process / "status").read_text().splitlines() if li.startswith("VmRSS")
        )
        return int(line.split()[1])

    async def some(count: int) -> None:
        async with home.client() as client:
            for _ in range(count):
                run = client.start(*shell("echo hello"))
                assert (await run.ended()).status.code == 0

    await some(Retention().runs + 50)
    wait_until(lambda: len(home.runs()) == Retention().runs)
    descriptors, memory = len(list((process / "fd").iterdir())), resident()
    await some(200)
    await some(200)
    wait_until(lambda: len(home.runs()) == Retention().runs)
    wait_until(lambda: len(list((process / "fd").iterdir())) <= descriptors)
    assert resident() - memory < 4 * 1024  # KiB; 10 KiB for each run would show
    assert len(home.log.splitlines()) < 1500  # about one line for each run
