"""What goes on beside the turns of the service: at most one task of each name, and none whose failure is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Aside:
    def __init__(self) -> None:
        #: What ended a task that should not have failed: the service stops by it.
        self.failure: BaseException | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def busy(self, name: str) -> bool:
        return name in self._tasks

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin it; the one before of that name must have ended."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda task: self._ended(name, task))
        return task

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        del self._tasks[name]
        if not task.cancelled():
            self.failure = self.failure or task.exception()

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks.values()))

    async def close(self) -> None:
        """Stop in the middle."""
        tasks = set(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
