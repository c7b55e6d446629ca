"""How long an honest client takes to get in, with and without a crowd of idle sockets at the door.

python -m bench.door

The crowd is another process with the client's own address, which is the worst case: it shares the
client's few places. ``once`` opens its 500 sockets and leaves it at that; ``again`` opens a new one
for each that is dropped, at once; ``talking`` does the same and begins a TLS handshake.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import select
import socket
import statistics
import time
from contextlib import suppress
from multiprocessing.synchronize import Event

from tests.support.daemon import Home

IDLE = 500
ROUNDS = 60
BEGINNING = b"\x16\x03\x01\x02\x00\x01"
"""Of a TLS handshake: enough to look like one, and never the whole."""

BOUND = 3
"""How many times longer than alone a connection may take at a door where ``IDLE`` sockets idle."""


def bound(manner: str) -> str:
    """Say what is wanted of a crowd of that manner; nothing where no bound was set.

    The figure is about sockets that are there and idle. Those that come again at once, as fast as
    the system lets them, are work for the daemon as well, and are measured to be known.
    """
    return f" (at most {BOUND} wanted)" if manner == "once" else ""


def crowd(port: int, manner: str, standing: Event, over: Event) -> None:
    """Keep ``IDLE`` sockets open; one that is dropped is replaced unless it was said otherwise."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}

    def knock() -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        if manner == "talking":
            with suppress(OSError):
                sock.send(BEGINNING)
        sockets[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)

    for _ in range(IDLE):
        knock()
    standing.set()
    while not over.is_set():
        for number, _ in poll.poll(0.2):
            poll.unregister(number)
            sockets.pop(number).close()
            if manner != "once":
                knock()


async def connect_times(home: Home) -> list[float]:
    """Return how long each of ``ROUNDS`` connections took, TLS, websocket and hellos included."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        async with home.client():
            times.append(time.perf_counter() - begin)
    return times


def main() -> None:
    """Measure and print."""
    spawn = multiprocessing.get_context("spawn")
    with Home() as home:
        port = home.start().port
        asyncio.run(connect_times(home))  # warm
        alone = statistics.median(asyncio.run(connect_times(home)))
        print(f"{'alone':10} median {alone * 1e3:7.1f} ms")
        for manner in ("once", "again", "talking"):
            standing, over = spawn.Event(), spawn.Event()
            process = spawn.Process(target=crowd, args=(port, manner, standing, over))
            process.start()
            try:
                standing.wait(30)
                times = asyncio.run(connect_times(home))
            finally:
                over.set()
                process.join(10)
            median = statistics.median(times)
            print(
                f"{manner:10} median {median * 1e3:7.1f} ms, worst {max(times) * 1e3:7.1f} ms, "
                f"{median / alone:.2f} x alone{bound(manner)}"
            )


if __name__ == "__main__":
    main()
