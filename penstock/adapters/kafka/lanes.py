"""The plain writer: one lane per partition, in each at most one batch under way.

While a batch is under way, what is appended to its partition gathers and shares the next one: group commit, as an
embedded log does it. One batch at a time also means that a broker that is away holds up one batch per partition and
no more: what waits behind it is dropped when its caller gives up, so nothing piles up, and partitions on other
brokers go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiokafka import errors as kafka  # type: ignore[import-untyped,unused-ignore]

from penstock.adapters.kafka.cluster import cancelled
from penstock.adapters.kafka.packing import Call, Part, Row, batches
from penstock.adapters.kafka.producing import Producer
from penstock.adapters.kafka.settings import KafkaSettings
from penstock.adapters.kafka.trouble import translated
from penstock.errors import Closed, PenstockError, Unavailable

log = structlog.get_logger(__name__)


class Lanes:
    """Appends without transactions: whole per batch."""

    def __init__(self, settings: KafkaSettings, options: Mapping[str, Any]) -> None:
        self._settings = settings
        self._options = options
        self._waiting: dict[tuple[str, int], deque[Part]] = {}
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._sent_at: dict[tuple[str, int], float] = {}
        self._producer: Producer | None = None
        self._opening = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False

    def put(self, topic: str, call: Call) -> None:
        """Queue a call; its future tells the rest."""
        if self._closed:
            raise Closed("the log is closed")
        for part in call.parts:
            lane = (topic, part.partition)
            self._waiting.setdefault(lane, deque()).append(part)
            if lane not in self._running:
                name = f"kafka-lane-{topic}-{part.partition}"
                self._running[lane] = asyncio.create_task(self._run(lane), name=name)

    def oldest_unacknowledged_s(self) -> float:
        """For how long the oldest batch under way has been under way."""
        now = asyncio.get_running_loop().time()
        return max((now - at for at in self._sent_at.values()), default=0.0)

    async def close(self) -> None:
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                waiting.popleft().failed(Closed("the log was closed before the entries were sent"))
        producer, self._producer = self._producer, None
        if producer is not None:
            # Sends what is under way, or fails it: either ends the lanes.
            await producer.stop()
        if self._running:
            _, pending = await asyncio.wait(self._running.values(), timeout=self._settings.request_s)
            await cancelled(pending)
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def _run(self, lane: tuple[str, int]) -> None:
        """Send until nothing waits."""
        waiting = self._waiting[lane]
        try:
            while waiting:
                parts = self._take(waiting)
                for batch in batches(parts, self._settings.batch_bytes):
                    if not await self._deliver(lane, batch):
                        break
                else:
                    for part in parts:
                        part.finished()
        finally:
            # Here and not when the task is done: whoever appends in between would wait for a lane that has ended.
            del self._running[lane]

    def _take(self, waiting: deque[Part]) -> list[Part]:
        """What shares the next batch: at least one part, and no more than fits."""
        parts: list[Part] = []
        size = 0
        while waiting and (not parts or size + waiting[0].size <= self._settings.batch_bytes):
            part = waiting.popleft()
            if not part.call.given_up:
                parts.append(part)
                size += part.size
        return parts

    async def _deliver(self, lane: tuple[str, int], batch: Sequence[tuple[Part, Sequence[Row]]]) -> bool:
        """Send one batch and wait for its place, however long; whether it has one."""
        topic = lane[0]
        producer: Producer | None = None
        try:
            producer = await self._open()
            self._sent_at[lane] = asyncio.get_running_loop().time()
            base = (await (await producer.send(topic, batch))).offset
            if base < 0:
                raise Unavailable(f"appending to {topic}: stored, but the broker no longer knows where")
        except kafka.KafkaError as error:
            self._replace(producer)
            self._fail(batch, translated(error, f"appending to {topic}"), error)
            return False
        except PenstockError as error:
            self._fail(batch, error, error.__cause__)
            return False
        except asyncio.CancelledError:
            self._fail(batch, Unavailable("the log was closed before the broker had answered"), None)
            raise
        finally:
            self._sent_at.pop(lane, None)
        for part, rows in batch:
            part.placed(rows, base)
            base += len(rows)
        return True

    def _fail(
        self, batch: Sequence[tuple[Part, Sequence[Row]]], error: PenstockError, cause: BaseException | None
    ) -> None:
        error.__cause__ = cause
        for part, _ in batch:
            part.failed(error)

    async def _open(self) -> Producer:
        async with self._opening:
            if self._closed:
                raise Closed("the log is closed")
            if self._producer is None:
                producer = Producer(self._settings, self._options)
                await producer.start()
                if self._closed:
                    await producer.stop()
                    raise Closed("the log is closed")
                self._producer = producer
            return self._producer

    def _replace(self, producer: Producer | None) -> None:
        """Let the next batch open another producer, while this one delivers what other lanes gave it."""
        if producer is None or self._producer is not producer:
            return
        self._producer = None
        log.warning("replacing a producer that failed", action="producer_replaced")
        task = asyncio.create_task(producer.stop(), name="kafka-producer-stop")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
