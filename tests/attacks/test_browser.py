"""A web page in the user's browser tries to drive the daemon.

The page is served from another port. Chromium cannot be made to show the user's certificate without
changing the system, so the worst case, a browser that has it, is a proxy that adds it: the page
speaks to the proxy, and the proxy with the certificate to the daemon. Chromium's own handshake, its
``Origin`` included, arrives there unchanged.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.attacks.browser import Site
from tests.support.daemon import Home

from psync.protocol.messages import SUBPROTOCOL
from psync.transport.tls import client_context

PAGE = """<script>
const ws = new WebSocket("%s", %s);
ws.binaryType = "arraybuffer";
let opened = false;
ws.onopen = () => { opened = true; ws.send(new Uint8Array(%s)); };
ws.onmessage = (m) => report({opened, got: m.data.byteLength});
ws.onclose = (e) => report({opened, closed: e.code});
</script>"""

HELLO = list(b"\x01" + bytes(11) + b'{"versions":[1],"software":"a page"}')


@pytest.fixture
def home() -> Iterator[Home]:
    with Home() as home:
        yield home


@asynccontextmanager
async def with_the_users_certificate(home: Home, port: int) -> AsyncIterator[int]:
    """Lead plain connections to the daemon over TLS with a paired client's certificate."""
    home.pair("desk")
    desk = home.directory / "desk"
    tls: ssl.SSLContext = client_context(f"{desk}/ca.pem", f"{desk}/client.pem", f"{desk}/key.pem")
    name = (desk / "name").read_text()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname=name
        )

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(lead, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def page(url: str, subprotocols: str = f"[{SUBPROTOCOL!r}]") -> str:
    return PAGE % (url, subprotocols, HELLO)


async def test_a_page_without_the_certificate(home: Home) -> None:
    port = home.start().port
    async with Site() as site:
        found = await site.visit(page(f"wss://127.0.0.1:{port}/"))
    assert found == {"opened": False, "closed": 1006}
    assert "connected" not in home.log


async def test_a_page_with_the_users_certificate_is_refused_for_its_origin(home: Home) -> None:
    port = home.start().port
    async with with_the_users_certificate(home, port) as proxy, Site() as site:
        found = await site.visit(page(f"ws://127.0.0.1:{proxy}/"))
        assert found == {"opened": False, "closed": 1006}
        assert f"Origin {site.origin}" in home.log
    assert "connected" not in home.log


async def test_a_page_of_an_origin_that_is_allowed(home: Home) -> None:
    """The counterpart: nothing but the check for the origin kept the other page out."""
    async with Site() as site:
        config = Path(home.paths.config_file)
        config.parent.mkdir(mode=0o700, exist_ok=True)
        config.write_text(f'origins = ["{site.origin}"]\n')
        port = home.start().port
        async with with_the_users_certificate(home, port) as proxy:
            found = await site.visit(page(f"ws://127.0.0.1:{proxy}/"))
    assert found["opened"] is True
    assert found["got"] > 12  # the daemon's hello
