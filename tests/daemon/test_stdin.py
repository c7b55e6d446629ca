"""The stdin of a real run, among several clients, cuts, and daemons."""

from __future__ import annotations

import json
import secrets
import signal

import pytest
from tests.support.daemon import Attachment, Client, Home, python, shell
from tests.support.waiting import wait_until

from psync.daemon.stdin import NAME
from psync.protocol import messages as m

CAT = shell("echo on; exec cat")

SLEEPY = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.write(1, b"on\\n")
signal.sigwait([signal.SIGUSR1])
os.execvp("cat", ["cat"])
"""


async def started(client: Client, request: str = "") -> tuple[Attachment, str]:
    run = client.start(*CAT, request=request or None)
    await run.shows(b"on\n")
    return run, await run.running()


def detach(attachment: Attachment) -> None:
    attachment.client.link.send(m.Detach(channel=attachment.channel))


async def test_the_starter_holds_it_and_others_only_look(shared: Home) -> None:
    async with shared.client() as desk, shared.client("laptop") as laptop:
        first, run_id = await started(desk)
        assert (await first.expect(m.Attached)).holder is None
        second = laptop.attach(run_id)
        attached = await second.expect(m.Attached)
        assert (attached.holder, attached.stdin, attached.end) == ("desk", 0, 3)
        second.send(b"ignored")
        laptop.link.send(m.StdinEnd(second.channel, 7))
        await second.shows(b"on\n")
        first.send(b"heard\n")
        await second.shows(b"heard\n")
        assert not laptop.closed
        assert second.stdin_taken == 0
        desk.link.send(m.StdinEnd(first.channel, 6))
        assert (await second.ended()).status.code == 0
        assert first.output == second.output == b"on\nheard\n"


async def test_who_detaches_hands_it_to_the_one_that_has_waited_longest(shared: Home) -> None:
    async with shared.client() as desk, shared.client("laptop") as laptop:
        first, run_id = await started(desk)
        second = laptop.attach(run_id)
        await second.running()
        third = desk.attach(run_id)
        await third.running()
        first.send(b"one\n")
        await second.shows(b"one\n")
        detach(first)
        told = await second.expect(m.StdinHolder)
        assert (told.offset, told.holder) == (4, None)
        assert (await third.expect(m.StdinHolder)).holder == "laptop"
        second.send(b"two\n", 4)
        await third.shows(b"two\n")
        detach(second)
        await third.wait_holder(None)
        third.send(b"three\n", 8)
        desk.link.send(m.StdinEnd(third.channel, 14))
        await third.ended()
        assert third.output == b"on\none\ntwo\nthree\n"


async def test_who_attaches_takes_it_from_one_whose_connection_is_lost(shared: Home) -> None:
    request = secrets.token_hex(16)
    async with shared.client("laptop") as laptop:
        async with shared.client() as desk:
            first, run_id = await started(desk, request)
            waiting = laptop.attach(run_id, viewer="w" * 16)
            await waiting.running()
            first.send(b"one\n")
            await waiting.shows(b"one\n")
        # lost: nobody takes it by having waited
        async with shared.client() as desk:
            again = desk.attach(run_id, viewer=request)
            attached = await again.expect(m.Attached)
            assert (attached.stdin, attached.holder) == (4, None)
            again.send(b"e\ntwo\n", 2)  # it may send again what came already
            await waiting.shows(b"two\n")
        while True:  # until the daemon has noticed the loss
            taker = laptop.attach(run_id)
            attached = await taker.expect(m.Attached)
            if attached.holder is None:
                break
            laptop.link.send(m.Detach(channel=taker.channel))
        assert attached.stdin == 8
        assert (await waiting.expect(m.StdinHolder)).holder == "laptop"
        async with shared.client() as desk:
            late = desk.attach(run_id, viewer=request)
            assert (await late.expect(m.Attached)).holder == "laptop"
            late.send(b"lost\n", 8)
            desk.link.send(m.Detach(channel=late.channel))
            desk.link.send(m.OpenProject(request=1, project="x", source=b"/", host="h"))
            await desk.wait(lambda: desk.said)
        taker.send(b"three\n", 8)
        laptop.link.send(m.StdinEnd(taker.channel, 14))
        await waiting.ended()
        assert waiting.output == b"on\none\ntwo\nthree\n"


async def test_who_waits_has_it_when_the_holder_stays_away(shared: Home) -> None:
    request = secrets.token_hex(16)
    async with shared.client("laptop") as laptop:
        async with shared.client() as desk:
            first = desk.start(*CAT, request=request, disconnect_grace=0.3)
            await first.shows(b"on\n")
            waiting = laptop.attach(await first.running())
            assert (await waiting.expect(m.Attached)).holder == "desk"
            first.send(b"one\n")
            await waiting.shows(b"one\n")
        told = await waiting.expect(m.StdinHolder)  # the connection is lost, and it waits only
        assert (told.offset, told.holder) == (4, None)
        waiting.send(b"two\n", 4)
        await waiting.shows(b"two\n")
        async with shared.client() as desk:
            late = desk.attach(await waiting.running(), viewer=request)
            assert (await late.expect(m.Attached)).holder == "laptop"
            detach(waiting)
            await late.wait_holder(None)  # it has waited since it is back
            late.send(b"three\n", 8)
            await late.shows(b"three\n")
            desk.link.send(m.StdinEnd(late.channel, 14))
            await late.ended()


async def test_who_was_away_too_long_loses_it_to_the_next_one_that_comes_back(
    home: Home,
) -> None:
    """Also where both were away, and where another daemon has taken over meanwhile."""
    home.start()
    request = secrets.token_hex(16)
    async with home.client("laptop") as laptop, home.client() as desk:
        first = desk.start(*CAT, request=request, disconnect_grace=60.0)
        await first.shows(b"on\n")
        run_id = await first.running()
        waiting = laptop.attach(run_id, viewer="w" * 16)
        await waiting.running()
    wait_until(lambda: (home.run(run_id) / NAME).exists())
    home.leave(signal.SIGKILL)
    ticket = home.run(run_id) / "run.json"
    short = json.loads(ticket.read_bytes()) | {"disconnect_grace": 0.2}
    ticket.write_text(json.dumps(short))
    home.start()
    async with home.client("laptop") as laptop:
        again = laptop.attach(run_id, viewer="w" * 16)
        assert (await again.expect(m.Attached)).holder == "desk"
        await again.wait_holder(None)
        again.send(b"one\n")
        await again.shows(b"one\n")
        laptop.link.send(m.StdinEnd(again.channel, 4))
        await again.ended()


async def test_a_client_that_is_back_before_its_loss_was_noticed_goes_on(shared: Home) -> None:
    """The old connection may seem alive for a while; it holds nobody up, and nothing."""
    request = secrets.token_hex(16)
    async with shared.client() as old, shared.client() as new:
        first, run_id = await started(old, request)
        first.send(b"one\n")
        await first.shows(b"one\n")
        again = new.attach(run_id, viewer=request)
        assert (await again.expect(m.Attached)).holder is None
        first.send(b"late\n", 4)
        await first.wait_holder("desk")
        again.send(b"two\n", 4)
        await again.shows(b"two\n")
        old.link.close()
        await old.expect_closed()
        again.send(b"three\n", 8)
        await again.shows(b"three\n")
        assert again.output == b"on\none\ntwo\nthree\n"
        detach(again)


async def test_the_next_holder_begins_when_what_was_sent_before_is_in_the_pipe(
    shared: Home,
) -> None:
    async with shared.client() as desk, shared.client("laptop") as laptop:
        run = desk.start(*python(SLEEPY))
        await run.shows(b"on\n")
        run_id = await run.running()
        size = m.WINDOW_STDIN  # the pipe takes 64 KiB, the supervisor keeps the rest
        for start in range(0, size, m.MAX_DATA):
            run.send(b"a" * m.MAX_DATA, start)
        await desk.wait(lambda: run.stdin_taken > 0)
        second = laptop.attach(run_id)
        await second.running()
        detach(run)
        third = laptop.attach(run_id)
        assert (await third.expect(m.Attached)).holder == "desk"
        laptop.link.send(m.Signal(channel=second.channel, name="SIGUSR1"))
        told = await second.expect(m.StdinHolder)
        assert (told.offset, told.holder) == (size, None)
        for start in range(size, 2 * size, m.MAX_DATA):
            await second.takes(start + m.MAX_DATA)
            second.send(b"b" * m.MAX_DATA, start)
        await second.takes(2 * size)
        laptop.link.send(m.StdinEnd(second.channel, 2 * size))
        await second.ended()
        assert second.output == b"on\n" + b"a" * size + b"b" * size


async def test_a_piece_of_stdin_may_be_as_large_as_hello_says(shared: Home) -> None:
    async with shared.client() as desk:
        run = desk.start(*shell("wc -c"))
        await run.running()
        most = desk.link.peer.limits.data
        run.send(bytes(most))
        desk.link.send(m.StdinEnd(run.channel, most))
        assert (await run.ended()).status.code == 0
        assert run.output == b"%d\n" % most


async def test_after_the_end_of_stdin_there_is_nothing_to_hold(shared: Home) -> None:
    async with shared.client() as desk, shared.client("laptop") as laptop:
        run = desk.start(*shell("echo on; cat; echo over; trap 'exit 3' USR1; sleep 100 & wait"))
        await run.shows(b"on\n")
        other = laptop.attach(await run.running())
        await other.running()
        desk.link.send(m.StdinEnd(run.channel, 0))
        await other.expect(m.StdinClosed)
        await other.shows(b"over\n")
        detach(run)
        late = laptop.attach(await run.running())
        await late.expect(m.StdinClosed)
        late.send(b"too late")
        laptop.link.send(m.Signal(channel=late.channel, name="SIGUSR1"))
        assert (await other.ended()).status.code == 3
        assert not any(isinstance(said, m.StdinHolder) for said in other.said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_next_daemon_knows_whose_it_is(home: Home, number: int) -> None:
    home.start()
    starter, waiting, taker = (letter * 16 for letter in "swt")
    async with home.client() as desk:
        run, run_id = await started(desk, starter)
    home.leave(number)
    home.start()
    async with home.client() as desk:  # of what nobody but its starter has used there is no file
        second = desk.attach(run_id, viewer=waiting)
        assert (await second.expect(m.Attached)).holder is None
        detach(second)
        run = desk.attach(run_id, viewer=starter)
        assert (await run.expect(m.Attached)).holder is None
        assert await desk.attach(run_id, viewer=waiting).running()
    wait_until((home.run(run_id) / NAME).exists)
    home.leave(number)
    home.start()
    async with home.client() as desk, home.client("laptop") as laptop:
        second = laptop.attach(run_id, viewer=waiting)  # this one is another client's
        await second.running()
        second.send(b"one\n")
        await second.shows(b"one\n")
        third = desk.attach(run_id, viewer=waiting)
        fourth = desk.attach(run_id, viewer=taker)
        assert (await third.expect(m.Attached)).holder == "laptop"
        assert (await fourth.expect(m.Attached)).holder == "laptop"
    home.leave(number)
    home.start()
    async with home.client() as desk, home.client("laptop") as laptop:
        third = desk.attach(run_id, viewer=waiting)  # the first to be back, and it waited
        assert (await third.expect(m.Attached)).holder == "laptop"
        second = laptop.attach(run_id, viewer=waiting)
        attached = await second.expect(m.Attached)
        assert (attached.holder, attached.stdin) == (None, 4)
        second.send(b"two\n", 4)
        laptop.link.send(m.StdinEnd(second.channel, 8))
        await third.ended()
        assert third.output == b"on\none\ntwo\n"
    assert "Traceback" not in home.log


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b'{"holder": 3}'])
async def test_a_damaged_note_about_it_is_named_and_the_starter_holds_it(
    home: Home, text: bytes
) -> None:
    home.start()
    async with home.client() as desk:
        run, run_id = await started(desk, "s" * 16)
        await desk.attach(run_id).running()
    note = home.run(run_id) / NAME
    assert json.loads(note.read_bytes())["name"] == "desk"
    home.leave(signal.SIGKILL)
    note.write_bytes(text)
    home.start()
    async with home.client() as desk:
        run = desk.attach(run_id, viewer="s" * 16)
        assert (await run.expect(m.Attached)).holder is None
        run.send(b"x\n")
        await run.shows(b"x\n")
        detach(run)
    assert f"{NAME} cannot be read" in home.log


class Version010:
    """A client that knows nothing of several viewers: it says hello without a feature."""

    HELLO = m.Hello(versions=(1,), software="psync 0.1.0")


async def test_a_client_of_version_0_1_0_is_told_nothing_it_does_not_know(
    shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = secrets.token_hex(16)
    with monkeypatch.context() as patch:
        patch.setattr("psync.transport.connect.client_hello", lambda _software: Version010.HELLO)
        async with shared.client() as old, shared.client() as back:
            first, run_id = await started(old, request)
            first.send(b"one\n")
            await first.shows(b"one\n")
            # it comes back without saying which attachment it is; there is only one
            again = back.attach_as_0_1_0(run_id, 7)
            attached = await again.expect(m.Attached)
            assert (attached.stdin, attached.end, attached.holder) == (4, 0, None)
            again.send(b"two\n", 4)
            await again.shows(b"two\n")
        async with shared.client() as old:
            patch.undo()
            async with shared.client("laptop") as laptop:
                taker = laptop.attach(run_id)
                assert (await taker.expect(m.Attached)).holder is None
                late = old.attach_as_0_1_0(run_id)
                attached = await late.expect(m.Attached)
                assert (attached.stdin, attached.holder) == (0, None)
                late.send(b"lost\n", 8)
                taker.send(b"three\n", 8)
                await late.shows(b"three\n")
                detach(taker)
                laptop.link.send(m.OpenProject(request=1, project="x", source=b"/", host="h"))
                await laptop.wait(lambda: laptop.said)
                assert [type(said) for said in late.said] == [m.Attached]
                last = laptop.attach(run_id)
                assert (await last.expect(m.Attached)).stdin == 14
                laptop.link.send(m.StdinEnd(last.channel, 14))
                await late.ended()
                assert late.output == b"on\none\ntwo\nthree\n"
