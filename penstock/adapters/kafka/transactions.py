"""The fenced writer: everything that waits goes into one transaction, one transaction at a time.

Its transactional id has one owner in the cluster: `take_over` makes this process the owner and the one before it a
bystander whose every further write is refused, even if it was only asleep. It therefore never happens by itself: a
writer that was asleep and began anew on its own would fence its lawful successor. Whoever holds the lease calls it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

import structlog
from aiokafka import errors as kafka  # type: ignore[import-untyped,unused-ignore]

from penstock.adapters.kafka.cluster import LATEST, Cluster, cancelled
from penstock.adapters.kafka.packing import Call, Part, batches
from penstock.adapters.kafka.producing import Producer
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.trouble import translated
from penstock.errors import Closed, Fenced, PenstockError, Unavailable

log = structlog.get_logger(__name__)

#: Bytes in one transaction: its entries become visible together, so it should not take long.
_TRANSACTION_BYTES = 8 * 1024 * 1024
#: Seconds between the first two looks for a commit's mark, which takes the broker a few milliseconds.
_MARK_S = 0.001


class Transactions:
    """Appends in transactions: all or none of each call, over all its partitions."""

    def __init__(self, settings: KafkaSettings, options: Mapping[str, Any], cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._options = options
        self._waiting: deque[tuple[str, Call]] = deque()
        self._running: asyncio.Task[None] | None = None
        self._producer: Producer | None = None
        self._taking_over = asyncio.Lock()
        self._begun_at: float | None = None
        self._closed = False
        #: Why this process is not the writer.
        self.fenced = "it has not taken over; call take_over once it holds the lease"

    async def take_over(self) -> None:
        """Become the writer: abort what the one before left open, and fence it. Raises Unavailable, Forbidden."""
        if self._closed:
            raise Closed("the log is closed")
        async with self._taking_over:
            await self._resign("it is taking over")
            producer = Producer(self._settings, self._options)
            await producer.start()
            if self._closed:
                await producer.stop()
                raise Closed("the log is closed")
            self._producer = producer
            self.fenced = ""

    def put(self, topic: str, call: Call) -> None:
        """Queue a call; its future tells the rest. Raises Fenced at once where it is known."""
        if self._closed:
            raise Closed("the log is closed")
        if self.fenced:
            raise self._refusal()
        self._waiting.append((topic, call))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="kafka-transactions")

    def oldest_unacknowledged_s(self) -> float:
        """For how long the transaction under way has been under way."""
        return 0.0 if self._begun_at is None else asyncio.get_running_loop().time() - self._begun_at

    async def close(self) -> None:
        self._closed = True
        while self._waiting:
            _fail([self._waiting.popleft()[1]], Closed("the log was closed before the entries were sent"))
        if self._running is not None:
            await asyncio.wait({self._running}, timeout=self._settings.request_s)
        await self._resign("it is closed")

    async def _run(self) -> None:
        """Commit until nothing waits."""
        try:
            while self._waiting and self._producer is not None:
                await self._turn(self._producer, self._take())
        finally:
            self._running = None  # and not when the task is done: see `Lanes._run`

    def _take(self) -> dict[str, list[Call]]:
        """What shares the next transaction, by topic."""
        group: dict[str, list[Call]] = defaultdict(list)
        size = 0
        while self._waiting and size < _TRANSACTION_BYTES:
            topic, call = self._waiting.popleft()
            if not call.given_up:
                group[topic].append(call)
                size += sum(part.size for part in call.parts)
        return group

    async def _turn(self, producer: Producer, group: Mapping[str, list[Call]]) -> None:
        calls = [call for of_topic in group.values() for call in of_topic]
        if not calls:
            return
        self._begun_at = asyncio.get_running_loop().time()
        try:
            await self._transact(producer, group)
        except kafka.KafkaError as error:
            await self._lost(calls, error)
        except asyncio.CancelledError:
            _fail(calls, Unavailable("the writer was closed before the broker had answered"))
            raise
        finally:
            self._begun_at = None
        for call in calls:
            for part in call.parts:
                part.finished()

    async def _transact(self, producer: Producer, group: Mapping[str, list[Call]]) -> None:
        await producer.begin()
        homes: dict[tuple[str, int], list[Part]] = defaultdict(list)
        for topic, calls in group.items():
            for call in calls:
                for part in call.parts:
                    homes[topic, part.partition].append(part)
        sent = [
            (home, batch, await producer.send(home[0], batch))
            for home, parts in homes.items()
            for batch in batches(parts, self._settings.batch_bytes)
        ]
        results = await asyncio.gather(*(place for _, _, place in sent), return_exceptions=True)
        ends: dict[str, dict[int, int]] = defaultdict(dict)
        for ((topic, partition), batch, _), placed in zip(sent, results, strict=True):
            if isinstance(placed, BaseException):
                raise placed
            base = placed.offset
            if base < 0:  # stored, but the broker no longer knows where
                raise kafka.UnknownProducerId
            for part, rows in batch:
                part.placed(rows, base)
                base += len(rows)
            ends[topic][partition] = base
        await producer.commit()
        await self._until_visible(ends)

    async def _until_visible(self, ends: Mapping[str, Mapping[int, int]]) -> None:
        """Wait for the mark that follows the last entry. The broker answers a commit before it is written, but whoever
        appended must find what it appended; and a transaction begun earlier would be sent away to wait much longer.
        """
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                for topic, of_topic in ends.items():
                    latest = dict.fromkeys(of_topic, LATEST)
                    pause = _MARK_S
                    while True:
                        end = await self._cluster.offsets(topic, latest, committed=True)
                        if all(end[partition] > after for partition, after in of_topic.items()):
                            break
                        await asyncio.sleep(pause)
                        pause *= 2
        except (TimeoutError, PenstockError) as error:
            # Committed all the same: readers see it when the mark is there.
            log.warning("cannot see yet what was committed", action="mark_late", reason=str(error))

    async def _lost(self, calls: list[Call], error: kafka.KafkaError) -> None:
        """A transaction failed for good. Only a new beginning would help, and that is for the holder of the lease."""
        reason = translated(error, "appending in a transaction")
        log.error("no longer the writer", action="writer_lost", reason=reason.message)
        self.fenced = reason.message
        reason.__cause__ = error
        _fail(calls, reason)
        while self._waiting:
            _fail([self._waiting.popleft()[1]], self._refusal())
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def _resign(self, why: str) -> None:
        self.fenced = why
        while self._waiting:
            _fail([self._waiting.popleft()[1]], self._refusal())
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()
        if self._running is not None:
            _, pending = await asyncio.wait({self._running}, timeout=self._settings.request_s)
            await cancelled(pending)

    def _refusal(self) -> Fenced:
        return Fenced(f"this process is not the writer of {self._settings.transactional_id}: {self.fenced}")


def _fail(calls: list[Call], error: PenstockError) -> None:
    for call in calls:
        if not call.done.done():
            call.done.set_exception(error)
