"""What goes on beside the turns of the service: at most one task for each name, and none whose failure is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any


class Aside:
    def __init__(self, failed: Callable[[Sequence[str], BaseException], None] | None = None) -> None:
        """`failed` hears the names of a task that failed, and why."""
        #: What ended a task that should not have failed: the service stops by it.
        self.failure: BaseException | None = None
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def busy(self, name: str) -> bool:
        return name in self._tasks

    def start(self, names: Sequence[str], work: Coroutine[Any, Any, None], *, title: str = "") -> asyncio.Task[None]:
        """Begin what goes by these names; those before of any of them must have ended."""
        task = asyncio.create_task(work, name=title or names[0])
        self._tasks |= dict.fromkeys(names, task)
        task.add_done_callback(lambda task: self._ended(names, task))
        return task

    def _ended(self, names: Sequence[str], task: asyncio.Task[None]) -> None:
        for name in names:
            del self._tasks[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failure = self.failure or error
            if self._failed is not None:
                self._failed(names, error)

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
