"""Ends a wait when its owner is closed: sources wait for others most of the time, and must still stop at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finish(iterator: AsyncIterator[object]) -> None:
    """Let an iterator that is not read to its end clean up now, and not whenever it is collected."""
    close = getattr(iterator, "aclose", None)
    if close is not None:
        await close()


class Closing:
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def close(self) -> None:
        self._event.set()

    async def pause(self, seconds: float) -> None:
        """Sleep, unless closed before."""
        await self.race(asyncio.sleep(seconds))

    async def race(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` gives or raises; None when closed first, and then it has been cancelled."""
        if self._event.is_set():
            work.close()
            return None
        step = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({step, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            if not step.done():
                step.cancel()
                await asyncio.wait({step})
        return None if step.cancelled() else step.result()
