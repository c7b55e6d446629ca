"""Blocking work (ssh, rsync) beside the event loop, with an owner that can end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T], cancel: Callable[[], None]) -> _T:
    """Run ``work`` in a thread and return what it returns or raise what it raises.

    Cancellation calls ``cancel``, which has to make ``work`` end soon, and waits for that: no
    thread outlives the call.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # its own report of the cancellation
        raise
