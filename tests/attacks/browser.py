"""A real Chromium without a window, pointed at a page of the test's own.

The page says what it found by a request to the server it came from, so that nothing has to be
guessed from the outside and nothing waits longer than it must.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

_REPORT = (
    "<script>function report(v){fetch('/report',{method:'POST',body:JSON.stringify(v)})}</script>"
)

TIMEOUT = 40.0
"""Seconds for the browser to start and the page to have tried everything."""


def chromium() -> str:
    """Return the path of the browser; ``make test`` installs it."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found is not None, "there is no chromium; scripts/setup-tests installs it"
    return found


class Site:
    """A web server with one page, and a browser to open it.

    async with Site() as site:
        found = await site.visit("<script>report(1)</script>")

    Attributes:
        origin: what the browser sends as ``Origin`` from here.
    """

    def __init__(self) -> None:
        self.origin = ""
        self._page = b""
        self._reported: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()

    async def visit(self, page: str) -> Any:
        """Open ``page`` and return what it reports: it calls ``report(value)`` once."""
        self._page = f"<!doctype html><title>a page</title>{_REPORT}{page}".encode()
        async with _browser(f"{self.origin}/"), asyncio.timeout(TIMEOUT):
            return await self._reported

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = self._page if head.startswith(b"GET / ") else b""
            if head.startswith(b"POST /report"):
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                value = json.loads(await reader.readexactly(length))
                if not self._reported.done():
                    self._reported.set_result(value)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass  # the browser closes what it does not need
        finally:
            writer.close()


@asynccontextmanager
async def _browser(url: str) -> AsyncIterator[None]:
    home = tempfile.mkdtemp(prefix="psync-browser-", dir="/tmp")
    process = await asyncio.create_subprocess_exec(
        chromium(),
        "--headless=new",
        "--no-sandbox",  # root may not have one
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",  # in the attacker's favour
        "--no-first-run",
        f"--user-data-dir={home}",
        url,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": home},
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, 9)
        await process.wait()
        shutil.rmtree(home, ignore_errors=True)
