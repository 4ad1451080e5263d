"""Synchronous runs in the history: one record each, when it has ended.

Only final records are written. An unfinished one would be work to the next dispatcher that becomes active: it would
find no Job of it and run it again, long after its caller has his answer. They are written after the answer, in groups
and in the background, so that the durable log costs no caller any time; at a stop what waits is written first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from dispatcher.lifecycle import Step, advance, queued, settle
from dispatcher.settings import DispatcherSettings
from penstock.codec import encode
from penstock.errors import PenstockError, Unavailable
from penstock.model import SYSTEM_BUCKET, TOPIC_RECORDS, Function, ItemResult, Record, Submission
from penstock.model.objects import payload_key
from penstock.ports import EventLog, LogEntry, ObjectStore

log = structlog.get_logger("gateway.resident")

#: More than these wait only while the log is away for long; then the oldest are dropped, and the log says so.
LIMIT = 10_000
RETRY_S = 1.0
#: Larger bodies are objects: they would bloat the log and every record.
INLINE_BYTES = 64 * 1024
#: A synchronous run has one attempt: its caller decides whether to ask again.
_ONCE = DispatcherSettings(platform_retries=0)

#: Hears of records that are durable.
Written = Callable[[Sequence[Record]], Awaitable[None]]


def record_of(
    function: Function, submission: Submission, result: ItemResult, *, pod: str, begun_ms: int, now: int
) -> Record:
    """The whole history of a run in one value. Pure."""
    record = queued(result.invocation, function, submission, now=submission.time_ms, epoch=0)
    record = advance(record, Step.PLAN, now=begun_ms, epoch=0, note="synchronous", job=pod)
    return settle(record, result, retries=0, settings=_ONCE, now=now, epoch=0)


class Run(msgspec.Struct, frozen=True):
    record: Record
    body: bytes


class History:
    def __init__(self, event_log: EventLog, store: ObjectStore, written: Written) -> None:
        self._log = event_log
        self._store = store
        self._written = written
        self._waiting: list[Run] = []
        self._wake = asyncio.Event()

    def add(self, record: Record, body: bytes) -> None:
        self._waiting.append(Run(record, body))
        if len(self._waiting) > LIMIT:
            dropped = self._waiting.pop(0).record.id
            log.error("a synchronous run is not in the history: the log is away", action="lost", invocation=dropped)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; what is left is written by `flush`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
            except Unavailable as error:
                log.warning("the history cannot be written", action="record_retry", error=error.message)
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def flush(self) -> None:
        """Write what waits. Raises Unavailable."""
        group, self._waiting = self._waiting, []
        if not group:
            return
        try:
            records = [await self._with_body(run) for run in group]
            await self._log.append(TOPIC_RECORDS, [LogEntry(one.id, encode(one)) for one in records])
        except (PenstockError, asyncio.CancelledError):
            self._waiting = group + self._waiting
            raise
        await self._written(records)

    async def _with_body(self, run: Run) -> Record:
        """With the body beside it or in it, as for any submission, so that a replay finds it."""
        trigger = run.record.trigger
        assert isinstance(trigger, Submission)
        if len(run.body) <= INLINE_BYTES:
            changed = msgspec.structs.replace(trigger, body=run.body)
        else:
            key = payload_key(trigger.function_uid, trigger.id)
            await self._store.write(SYSTEM_BUCKET, key, run.body)
            changed = msgspec.structs.replace(trigger, body_key=key)
        return msgspec.structs.replace(run.record, trigger=changed)
