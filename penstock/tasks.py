"""Supervision of long-lived tasks: each has a name, and its unexpected end is everybody's business.

A service is a handful of endless loops. When one of them dies the process must not limp on: `Supervisor.run` returns
with the error, the caller stops the rest and exits, and whoever runs the process starts it again. Only this module and
the outermost service loops may catch `Exception`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from penstock.errors import PenstockError

T = TypeVar("T")

log = structlog.get_logger("penstock.tasks")


class Supervisor:
    """Runs named root tasks until one ends or `stop` is called, then ends all of them in reverse order of start."""

    def __init__(self, *, patience_s: float = 5.0) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._patience_s = patience_s

    def start(self, name: str, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(loop, name=name)
        self._tasks[name] = task
        return task

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Wait until `stop`, or until a root task ends on its own; raises what that task raised."""
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stop, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                log.error("task ended unexpectedly", action="task_ended", task=task.get_name())
                task.result()
                raise RuntimeError(f"the task {task.get_name()} ended although nothing asked it to")
        finally:
            stop.cancel()
            await self.close()

    async def close(self) -> None:
        """Cancel the tasks in reverse order of start, each awaited; what does not end in time is named in the log."""
        for name, task in reversed(list(self._tasks.items())):
            if task.done():
                continue
            task.cancel()
            _, pending = await asyncio.wait({task}, timeout=self._patience_s)
            if pending:
                log.error("task does not stop", action="task_stuck", task=name)
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.error("task failed while stopping", action="task_failed", task=name, error=repr(error))
        self._tasks.clear()


def settle(asked: asyncio.Future[T], became: T | PenstockError) -> None:
    """Answer whoever asked, or raise there what went wrong, unless it was answered or given up before."""
    if asked.done():
        return
    if isinstance(became, PenstockError):
        asked.set_exception(became)
        asked.exception()  # whoever asked may have been cancelled meanwhile
    else:
        asked.set_result(became)


async def every(seconds: float, turn: Callable[[], Awaitable[object]], *, wake: asyncio.Event | None = None) -> None:
    """Call `turn` at once and then each `seconds`, or sooner when `wake` is set. The turn itself is what tests call."""
    while True:
        await turn()
        if wake is None:
            await asyncio.sleep(seconds)
            continue
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            continue
        wake.clear()
