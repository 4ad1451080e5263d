"""Gathers the items of a list that have ended, so that several are published in one go.

What publication costs is mostly per turn (a thread, a disk sync, a note on disk, a report), so a list of short items
gains much and one of long items waits for some milliseconds. The last item of a Job never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dispatcher.process_runner.job import Item

#: Longest wait for company.
_GATHER_S = 0.03
#: Items at a time: more would save little and make their results come late.
_MOST = 16


class Group:
    """`publish` gives results to items; it raises nothing that is to be expected."""

    def __init__(self, publish: Callable[[list[Item]], Awaitable[None]], name: str) -> None:
        self._publish = publish
        self._name = name
        self._waiting: list[Item] = []
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Something has no result yet."""
        return bool(self._waiting) or (self._task is not None and not self._task.done())

    def add(self, item: Item) -> None:
        self._waiting.append(item)
        if self._task is not None and not self._task.done():
            return  # it comes round
        if len(self._waiting) >= _MOST:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._start)

    def _start(self) -> None:
        self._stop_timer()
        if self._task is not None and not self._task.cancelled() and self._task.exception() is not None:
            return  # a bug: `flush` raises it
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            await self._publish(batch)
            if 0 < len(self._waiting) < _MOST:
                self._timer = asyncio.get_running_loop().call_later(_GATHER_S, self._start)
                return

    async def flush(self) -> None:
        """Publish what is left; returns when everything has its result."""
        if self._task is not None:
            await self._task
        self._stop_timer()
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            await self._publish(batch)

    async def abandon(self) -> None:
        """Stop wherever it is: a later life goes on from what is on disk."""
        self._stop_timer()
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
