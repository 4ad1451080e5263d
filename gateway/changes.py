"""Who hears of changes inside the process: listening clients, synchronous callers, and submissions not yet listed.

The dispatcher has one feed; this hub reads it and fans out. Every listener is bounded: a client that reads too slowly
loses its backlog, is told so (a gap) and lists again, because the alternative is to hold the feed or the memory for it.
A synchronous caller is never dropped, since it waits for one record only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from penstock.errors import Closed, Unavailable
from penstock.model import Function, Phase, Record, Submission
from penstock.observability import Metrics

#: Submissions accepted and not yet recorded by the dispatcher that are kept for listings. At full intake this is two
#: seconds of work; more than that means that intake stands still, and new submissions are refused for now.
PENDING_LIMIT = 10_000


class Subscription:
    """One listening client."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._records: deque[Record] = deque()
        self._limit = limit
        self._gap = False
        self._closed = False
        self._news = asyncio.Event()
        self._metrics = metrics

    def put(self, record: Record) -> None:
        if self._gap:
            return
        self._records.append(record)
        if len(self._records) > self._limit:
            self.lose()
        self._news.set()

    def lose(self) -> None:
        self._records.clear()
        self._gap = True
        self._metrics.change_gaps.inc()
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def next(self) -> Record | None:
        """The next change; None = a gap, what was not yet read is dropped. Raises Closed when the server stops."""
        while not self._records and not self._gap:
            if self._closed:
                raise Closed("the server is stopping; follow the changes again when it is back")
            self._news.clear()
            await self._news.wait()
        if self._gap:
            self._gap = False
            return None
        return self._records.popleft()


class ChangeHub:
    """Fans the dispatcher's feed out. `pending` holds what was accepted and has no record yet."""

    def __init__(self, metrics: Metrics, *, buffer: int) -> None:
        self._metrics = metrics
        self._buffer = buffer
        self._subscriptions: set[Subscription] = set()
        self._waiting: dict[str, set[asyncio.Future[Record]]] = {}
        self.pending = PendingSubmissions()

    async def run(self, changes: AsyncIterator[Record | None]) -> None:
        """Root task: read the feed to its end. None in the feed = changes were lost, which every listener is told."""
        async for record in changes:
            if record is not None:
                self.publish(record)
                continue
            for subscription in self._subscriptions:
                subscription.lose()

    def publish(self, record: Record) -> None:
        self.pending.known(record.id)
        for subscription in self._subscriptions:
            subscription.put(record)
        if not record.phase.final:
            return
        for future in self._waiting.get(record.id, ()):
            if not future.done():
                future.set_result(record)

    def close(self) -> None:
        """The server stops: end every stream, tell every synchronous caller."""
        for subscription in self._subscriptions:
            subscription.close()
        for invocation, futures in self._waiting.items():
            for future in futures:
                if not future.done():
                    future.set_exception(
                        Unavailable(f"the server is stopping; invocation {invocation} goes on when it is back")
                    )

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        subscription = Subscription(self._buffer, self._metrics)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    @contextmanager
    def expect(self, invocation: str) -> Iterator[asyncio.Future[Record]]:
        """A future of the final record. Enter before the work is ordered, so that no end is missed."""
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(invocation, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(invocation, None)
            future.cancel()


class PendingSubmissions:
    """Submissions between their durable append and the dispatcher's first record, so that what was answered with 201
    is listed at once. Lost at a restart, when the dispatcher reads the log anew anyway.
    """

    def __init__(self, limit: int = PENDING_LIMIT) -> None:
        self._limit = limit
        self._records: dict[str, Record] = {}

    def add(self, invocation: str, function: Function, submission: Submission) -> None:
        """Raises Unavailable when intake is so far behind that listings could not be kept honest."""
        if len(self._records) >= self._limit:
            raise Unavailable(f"{self._limit} submissions wait to be queued already; try again in a moment")
        self._records[invocation] = Record(
            id=invocation,
            function=function.name,
            function_uid=function.uid,
            generation=function.generation,
            trigger=submission,
            phase=Phase.QUEUED,
            queued_ms=submission.time_ms,
            reason="accepted, about to be queued",
        )

    def known(self, invocation: str) -> None:
        """The ledger has it now (or the append failed)."""
        self._records.pop(invocation, None)

    def count(self, function_uid: str) -> int:
        return sum(record.function_uid == function_uid for record in self._records.values())

    def all(self) -> list[Record]:
        """Newest first."""
        return list(reversed(self._records.values()))

    def find(self, id_prefix: str) -> list[Record]:
        return [record for invocation, record in self._records.items() if invocation.startswith(id_prefix)]
