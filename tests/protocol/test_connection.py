"""The connection machine: hello, who may say what, heartbeat, the end."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from psync.errors import ConnectionLost, NotPaired, ProtocolError
from psync.model import HostFacts, Stream
from psync.protocol import messages as m
from psync.protocol.codec import HEADER, decode, encode
from psync.protocol.connection import Connection, Side, State, client_hello

FACTS = HostFacts("deck", "Linux", "x86_64", b"/p", None, "/s", "psync-server 1")
DAEMON_HELLO = m.Hello(versions=(1,), software="psync-server 1", facts=FACTS)


def pair(
    client_versions: tuple[int, ...] = (1,), daemon_versions: tuple[int, ...] = (1,)
) -> tuple[Connection, Connection]:
    client = Connection(Side.CLIENT, m.Hello(versions=client_versions, software="psync 1"), 0.0)
    hello = m.Hello(versions=daemon_versions, software="psync-server 1", facts=FACTS)
    return client, Connection(Side.DAEMON, hello, 0.0)


def exchange(client: Connection, daemon: Connection, now: float = 0.0) -> None:
    """Carry what both want to say until neither has anything left."""
    while True:
        to_daemon, to_client = client.take_outgoing(), daemon.take_outgoing()
        if not to_daemon and not to_client:
            return
        for message in to_daemon:
            daemon.receive(message, now)
        for message in to_client:
            client.receive(message, now)


def opened() -> tuple[Connection, Connection]:
    client, daemon = pair()
    exchange(client, daemon)
    return client, daemon


def test_hello_opens_both_sides_with_the_highest_common_version() -> None:
    client, daemon = pair((1, 2, 3), (2, 1))
    exchange(client, daemon)
    assert (client.state, daemon.state) == (State.OPEN, State.OPEN)
    assert client.peer is not None and client.peer.versions == (2,)
    assert client.peer.facts == FACTS


def test_no_common_version_is_said_in_words_on_both_sides() -> None:
    client, daemon = pair((7,), (1,))
    exchange(client, daemon)
    for side in (client, daemon):
        assert side.state is State.CLOSED
        assert isinstance(side.failure, ProtocolError)
        assert "speaks psync protocol 7" in side.failure.message
        assert "same version" in side.failure.hint


def test_an_error_arrives_as_the_class_it_was() -> None:
    client, daemon = opened()
    daemon.close(NotPaired("this client was revoked", hint="psync pair deck"))
    exchange(client, daemon)
    assert isinstance(client.failure, NotPaired)
    assert (client.failure.message, client.failure.hint) == (
        "this client was revoked",
        "psync pair deck",
    )


def test_an_error_before_hello_arrives_too() -> None:
    client, daemon = pair()
    daemon.close(NotPaired("who are you"))
    exchange(client, daemon)
    assert isinstance(client.failure, NotPaired)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (Side.DAEMON, m.StdinClosed(channel=1)),
        (Side.DAEMON, DAEMON_HELLO),
        (Side.DAEMON, m.Data(1, Stream.STDOUT, 0, b"x")),
        (Side.CLIENT, m.Detach(channel=1)),
        (Side.CLIENT, DAEMON_HELLO),
        (Side.CLIENT, m.Data(1, Stream.STDIN, 0, b"x")),
        (Side.CLIENT, m.StdinEnd(1, 0)),
    ],
)
def test_what_is_not_the_peers_to_say_ends_the_connection(side: Side, message: m.Message) -> None:
    client, daemon = opened()
    victim = daemon if side is Side.DAEMON else client
    assert victim.receive(encode(message), 0.0) is None
    assert isinstance(victim.failure, ProtocolError)
    (told,) = victim.take_outgoing()
    assert isinstance(decode(told), m.Error)


def test_nothing_may_come_before_hello() -> None:
    _, daemon = pair()
    assert daemon.receive(encode(m.Ack(1, 0)), 0.0) is None
    assert isinstance(daemon.failure, ProtocolError)


def test_sending_needs_an_open_connection() -> None:
    client, daemon = pair()
    with pytest.raises(ConnectionLost):
        client.send(m.Detach(channel=1))
    exchange(client, daemon)
    assert decode(client.send(m.Detach(channel=1))) == m.Detach(channel=1)
    client.close()
    with pytest.raises(ConnectionLost):
        client.send(m.Detach(channel=1))


def test_silence_is_met_with_a_ping_and_then_with_the_end() -> None:
    client, _ = opened()
    assert client.deadline() == m.HEARTBEAT_INTERVAL
    client.tick(4.9)
    assert client.take_outgoing() == []
    client.tick(5.0)
    (ping,) = client.take_outgoing()
    assert isinstance(decode(ping), m.Ping)
    client.tick(20.0)
    assert client.state is State.CLOSED
    assert isinstance(client.failure, ConnectionLost)
    assert client.deadline() is None


def test_a_pong_keeps_the_connection_alive_for_ever() -> None:
    client, daemon = opened()
    now = 0.0
    for _ in range(100):
        deadline = client.deadline()
        assert deadline is not None
        now = max(now, deadline)
        client.tick(now)
        exchange(client, daemon, now)
    assert client.state is daemon.state is State.OPEN
    assert now > m.HEARTBEAT_TIMEOUT


def test_after_a_suspend_the_peer_gets_a_chance_to_answer() -> None:
    client, daemon = opened()
    client.tick(3600.0)
    assert client.state is State.OPEN
    exchange(client, daemon, 3600.1)
    client.tick(3605.0)
    assert client.state is State.OPEN


def test_a_peer_that_never_says_hello_is_given_up() -> None:
    _, daemon = pair()
    daemon.tick(m.HELLO_TIMEOUT)
    assert isinstance(daemon.failure, ProtocolError)


def test_an_unknown_optional_message_changes_nothing() -> None:
    client, _ = opened()
    assert client.receive(HEADER.pack(0x7F, 0, 0, 0) + b"{}", 1.0) is None
    assert client.state is State.OPEN


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_garbage_closes_and_never_raises(chunks: list[bytes]) -> None:
    _, daemon = opened()
    for chunk in chunks:
        daemon.receive(chunk, 0.0)
        daemon.take_outgoing()
    assert daemon.state in (State.OPEN, State.CLOSED)
    if daemon.state is State.CLOSED:
        assert daemon.failure is not None


def test_client_hello_offers_the_version_of_this_module() -> None:
    assert client_hello("psync 1").versions == (m.VERSION,)
