"""Several sources as one: a durable way and a quick one beside it, and whoever else has a gap to tell.

Each source is followed by a task of its own, a few batches ahead; the one who follows this source takes them in the
order in which they came. `heard` is told which way each batch came, for who wants to know whether a way still works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

from penstock.model import BucketEvent
from penstock.ports import Gap, Source
from watcher.sources.closing import finish

News = list[BucketEvent] | Gap

#: Batches taken from all sources together before somebody follows.
_AHEAD = 16


class JoinedSource:
    """`before` is called with what is to be watched before the sources are. Closing it closes the sources."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        *,
        heard: Callable[[str, Sequence[BucketEvent]], None] = lambda _way, _events: None,
        before: Callable[[Mapping[str, Collection[str]]], Awaitable[None]] | None = None,
    ) -> None:
        self._sources = dict(sources)
        self._heard = heard
        self._before = before
        self._queue: asyncio.Queue[News | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_AHEAD)

    def tell(self, gap: Gap) -> None:
        """A gap that somebody else noticed."""
        self._queue.put_nowait(gap)

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        tasks = [
            asyncio.create_task(self._follow(way, source), name=f"watcher-{way}")
            for way, source in self._sources.items()
        ]
        open_ = len(tasks)
        try:
            while open_:
                news = await self._queue.get()
                if news is None:
                    open_ -= 1
                    for task in tasks:
                        if task.done():
                            task.result()  # a source that failed is everybody's business
                    continue
                if not isinstance(news, Gap):
                    self._room.release()
                yield news
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, way: str, source: Source) -> None:
        events = source.events()
        try:
            async for news in events:
                if not isinstance(news, Gap):
                    self._heard(way, news)
                    await self._room.acquire()
                self._queue.put_nowait(news)
        finally:
            await finish(events)
            self._queue.put_nowait(None)

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        if self._before is not None:
            given = prefixes or {}
            await self._before({bucket: given.get(bucket, {""}) for bucket in buckets})
        # At once: a source that waits for its store must not hold the others up.
        await asyncio.gather(*(source.watch_buckets(buckets, prefixes) for source in self._sources.values()))

    async def close(self) -> None:
        for source in self._sources.values():
            await source.close()
