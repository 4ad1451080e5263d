"""Copies the topic that an object store's Kafka target writes into the log, under our own partitioner.

The store's events lie in Kafka before we see them, so nothing has to be answered: a position is committed once all
before it is durable in the log, and after a crash the rest is read again, which costs repeats that are dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from typing import Any, TypeVar

import structlog

from penstock.errors import Unavailable
from penstock.model import BucketEvent
from penstock.ports import Delivery, EventLog, Gap, StoredEntry
from watcher.metrics import WatcherMetrics
from watcher.quarantine import Quarantine
from watcher.sources.closing import Closing
from watcher.translate import translate

log = structlog.get_logger("watcher.topic")

T = TypeVar("T")

#: Entries read at once.
_BATCH = 500
_WAIT_S = 1.0


class TopicSource:
    """`log` is the one that holds the topic. `lost` counts entries that were gone before they were read."""

    def __init__(
        self,
        *,
        log: EventLog,
        topic: str,
        group: str,
        quarantine: Quarantine,
        metrics: WatcherMetrics,
        lost: Callable[[], int] = lambda: 0,
        commit_s: float = 1.0,
        retry_s: float = 1.0,
    ) -> None:
        self._log = log
        self._topic = topic
        self._group = group
        self._quarantine = quarantine
        self._metrics = metrics
        self._lost = lost
        self._commit_s = commit_s
        self._retry_s = retry_s
        self._closing = Closing()
        #: Next position per partition, all before it durable in the log; and how much of that is committed.
        self._positions: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._committed_at = 0.0
        self._trouble = ""

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        stored = await self._insist(lambda: self._log.committed(self._group, self._topic))
        if stored is None:
            return
        self._positions, self._committed = dict(stored), dict(stored)
        lost = self._lost()
        while not self._closing:
            positions = dict(self._positions)
            entries = await self._insist(
                lambda at=positions: self._log.read(self._topic, at, limit=_BATCH, wait_s=_WAIT_S)  # type: ignore[misc]
            )
            if self._lost() != lost:
                lost = self._lost()
                yield Gap(why=f"entries of {self._topic} were gone before they were read")
            if entries:
                events = await self._translated(entries)
                safe = asyncio.Event()
                if events:
                    yield Delivery(events, safe.set)
                else:
                    safe.set()
                await self._closing.race(safe.wait())
                if not safe.is_set():
                    break
                for entry in entries:
                    self._positions[entry.partition] = entry.offset + 1
            await self._commit()
        await self._commit(last=True)

    async def _translated(self, entries: list[StoredEntry]) -> list[BucketEvent]:
        events: list[BucketEvent] = []
        for entry in entries:
            if not entry.value:
                continue
            found = translate(entry.value)
            self._metrics.ignored.inc(found.ignored)
            events += found.events
            if found.quarantined:
                await self._insist(lambda one=entry, why=found.quarantined[0].why: self._put_aside(one, why))  # type: ignore[misc]
        return events

    async def _put_aside(self, entry: StoredEntry, why: str) -> None:
        await self._quarantine.put(entry.value, why, topic=self._topic, partition=entry.partition, offset=entry.offset)

    async def _commit(self, *, last: bool = False) -> None:
        """Store the positions, now and then. One that is not stored only means reading again."""
        now = asyncio.get_running_loop().time()
        if self._positions == self._committed or (now < self._committed_at + self._commit_s and not last):
            return
        try:
            await self._log.commit(self._group, self._topic, self._positions)
        except Unavailable as error:
            log.warning("positions cannot be stored now", action="commit_retry", error=error.message)
            return
        self._committed, self._committed_at = dict(self._positions), now

    async def _insist(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Repeat while the log is away; None = closed meanwhile."""
        while not self._closing:
            try:
                found = await self._closing.race(call())
            except Unavailable as error:
                if not self._trouble:
                    log.warning(
                        "the topic of the object store cannot be read; trying again",
                        action="topic_retry",
                        topic=self._topic,
                        error=error.message,
                    )
                self._trouble = error.message
                await self._closing.pause(self._retry_s)
            else:
                self._trouble = ""
                return found
        return None

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Nothing to do: the store writes what the buckets' rules say, and those are kept by somebody else."""

    async def close(self) -> None:
        self._closing.close()
