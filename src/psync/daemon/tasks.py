"""Background tasks with an owner: none is forgotten, none outlives the daemon, no error is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger("psync.tasks")


class Tasks:
    """A set of tasks that end together.

    asyncio keeps only weak references to tasks, and a TaskGroup cancels all when one fails; here
    one client's trouble must not touch another's run: a failed task is logged, the rest go on.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` as a task of this owner; what it raises is logged under ``name``."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._tasks)

    def cancel(self) -> None:
        """Cancel every task; they end by themselves."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ended(self) -> None:
        """Wait until all have ended by themselves."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())
