"""The one door through which records reach the log and the ledger.

Everything that wants to write hands its records in and waits; whatever gathered while the previous write was under way
goes into the next one, so that a burst costs few commits and a lone record costs no delay. A record is announced to
those who follow changes only when it is durable and in the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import structlog

from dispatcher.metrics import DispatcherMetrics
from penstock.codec import encode
from penstock.errors import Unavailable
from penstock.model import TOPIC_RECORDS, Record
from penstock.ports import EventLog, Ledger, LogEntry

log = structlog.get_logger("dispatcher.recorder")

#: Changes a slow follower may lag behind before it is told to list again.
FEED_LIMIT = 1000
#: Records in one append: bounds memory and the time of one transaction.
GROUP_LIMIT = 2000
RETRY_S = 1.0
_LOOK_S = 0.01


class Recorder:
    def __init__(self, event_log: EventLog, ledger: Ledger, metrics: DispatcherMetrics) -> None:
        self._log = event_log
        self._ledger = ledger
        self._metrics = metrics
        self._waiting: list[tuple[Sequence[Record], asyncio.Future[list[Record]]]] = []
        self._leaving: list[tuple[Sequence[Record], asyncio.Future[list[str]]]] = []
        self._wake = asyncio.Event()
        self._writing = False
        self._feeds: set[ChangeFeed] = set()
        #: Why records cannot be written right now, "" = they can.
        self.trouble = ""

    def write(self, records: Sequence[Record]) -> asyncio.Future[list[Record]]:
        """Hand in records; the future gives those that changed the ledger, once durable and applied."""
        future: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        if not records:
            future.set_result([])
            return future
        self._waiting.append((records, future))
        self._wake.set()
        return future

    def forget(self, records: Sequence[Record]) -> asyncio.Future[list[str]]:
        """End the lives of these invocations in the history; the future gives their ids, once that is durable. One
        that was written since it was read (it runs again) stays: this is decided between two writes.
        """
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._leaving.append((records, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await self.turn()
            if self._leaving:
                records, future = self._leaving.pop(0)
                gone = await self._forget(records)
                if not future.done():
                    future.set_result(gone)

    async def settled(self) -> None:
        """Return when everything handed in is written."""
        while self._waiting or self._writing:
            futures = [future for _, future in self._waiting]
            await (asyncio.wait(futures) if futures else asyncio.sleep(_LOOK_S))

    async def turn(self) -> None:
        """Write one group of what is waiting."""
        group, count = [], 0
        while self._waiting and count < GROUP_LIMIT:
            group.append(self._waiting.pop(0))
            count += len(group[-1][0])
        if not self._waiting and len(self._leaving) <= 1:
            self._wake.clear()
        records = [record for part, _ in group for record in part]
        if not records:
            return
        self._writing = True
        positions = await self._append([LogEntry(record.id, encode(record)) for record in records])
        changed = await self._ledger.apply(records, positions)
        self._writing = False
        by_key = {(record.id, record.order): record for record in changed}
        for part, future in group:
            if not future.done():
                future.set_result([record for record in part if (record.id, record.order) in by_key])
        for record in changed:
            self._metrics.record(record.phase.value)
            self._announce(record)

    async def _forget(self, records: Sequence[Record]) -> list[str]:
        """The log first: what it does not know of, a rebuilt view would bring back."""
        known = await self._ledger.get_many([record.id for record in records])
        gone = [one.id for one in records if one.id in known and known[one.id].order == one.order]
        if gone:
            positions = await self._append([LogEntry(invocation, b"") for invocation in gone])
            await self._ledger.forget(gone)
            await self._ledger.apply([], positions)
        return gone

    async def _append(self, entries: list[LogEntry]) -> dict[int, int]:
        """Append until it succeeds: a full disk or an absent broker delays everything and loses nothing."""
        while True:
            try:
                placed = await self._log.append(TOPIC_RECORDS, entries)
            except Unavailable as error:
                if not self.trouble:
                    log.error("records cannot be written, trying again", action="record_retry", error=error.message)
                self.trouble = error.message
                await asyncio.sleep(RETRY_S)
                continue
            if self.trouble:
                log.info("records are written again", action="record_resumed")
                self.trouble = ""
            positions: dict[int, int] = {}
            for partition, offset in placed:
                positions[partition] = max(positions.get(partition, 0), offset + 1)
            return positions

    def _announce(self, record: Record) -> None:
        for feed in self._feeds:
            feed.offer(record)

    def changes(self) -> ChangeFeed:
        """Follow every change from this call on; close it when done (it is a context manager)."""
        feed = ChangeFeed(self._feeds)
        self._feeds.add(feed)
        return feed


class ChangeFeed:
    """What happened since it was made, in order; None = some changes were dropped because nobody read for long."""

    def __init__(self, feeds: set[ChangeFeed]) -> None:
        self._feeds = feeds
        self._queue: asyncio.Queue[Record | None] = asyncio.Queue()

    def offer(self, record: Record) -> None:
        if self._queue.qsize() < FEED_LIMIT:
            self._queue.put_nowait(record)
        elif self._queue.qsize() == FEED_LIMIT:
            self._queue.put_nowait(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record | None:
        return await self._queue.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._feeds.discard(self)
