"""Intake: from the event log to durable `queued` records, never waiting for the cluster.

The position in the event log is committed only when everything before it is a record (or a dead letter), so nothing
depends on this process. An entry that cannot be understood, or that makes routing raise, becomes a dead letter with its
original bytes; the rest goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from dispatcher.functions import Functions, TableChange
from dispatcher.lifecycle import queued, refused
from dispatcher.metrics import DispatcherMetrics
from dispatcher.recorder import Recorder
from penstock.clock import now_ms
from penstock.codec import decode_trigger, encode
from penstock.errors import Unavailable
from penstock.model import TOPIC_DEAD, TOPIC_EVENTS, DeadLetter, ErrorClass, Record, Trigger
from penstock.ports import EventLog, Ledger, LogEntry, StoredEntry

log = structlog.get_logger("dispatcher.intake")

GROUP = "penstock.dispatcher"
#: Commit the position at most this often: a lost commit only means reading again.
COMMIT_MS = 1000
RETRY_S = 1.0


class Intake:
    def __init__(
        self,
        *,
        event_log: EventLog,
        ledger: Ledger,
        functions: Functions,
        recorder: Recorder,
        metrics: DispatcherMetrics,
        batch: int,
        epoch: Callable[[], int],
        on_table: Callable[[TableChange], Awaitable[None]],
        on_queued: Callable[[list[Record]], None],
    ) -> None:
        self._log = event_log
        self._ledger = ledger
        self._functions = functions
        self._recorder = recorder
        self._metrics = metrics
        self._batch = batch
        self._epoch = epoch
        self._on_table = on_table
        self._on_queued = on_queued
        self._positions: dict[int, int] | None = None
        self._committed: dict[int, int] = {}
        self._commit_due_ms = 0

    async def run(self) -> None:
        while True:
            try:
                await self.turn(wait_s=1.0)
            except Unavailable as error:
                # A full disk or an absent broker: nothing was committed, so the same entries are read again.
                log.error("intake has to wait", action="intake_retry", error=error.message)
                await asyncio.sleep(RETRY_S)

    async def turn(self, *, wait_s: float = 0.0) -> int:
        """Read and record one batch; returns how many entries were read."""
        if self._positions is None:
            self._positions = dict(await self._log.committed(GROUP, TOPIC_EVENTS))
            self._committed = dict(self._positions)
        entries = await self._log.read(TOPIC_EVENTS, self._positions, limit=self._batch, wait_s=wait_s)
        change = await self._functions.refresh()
        if change is not None:
            await self._on_table(change)
        if entries:
            await self._record(entries)
            for entry in entries:
                self._positions[entry.partition] = entry.offset + 1
        await self._commit(idle=not entries)
        return len(entries)

    async def _record(self, entries: list[StoredEntry]) -> None:
        now = now_ms()
        candidates: dict[str, Record] = {}
        written_ms: dict[str, int] = {}
        letters: list[DeadLetter] = []
        repeats = 0
        for entry in entries:
            try:
                routed = self._route(entry, now)
            except Exception as error:  # noqa: BLE001  one bad entry must never hold up the rest, whatever it does
                letters.append(_dead_letter(entry, error, now))
                continue
            for record in routed:
                repeats += record.id in candidates
                candidates.setdefault(record.id, record)
                written_ms.setdefault(record.id, entry.time_ms)
        known = await self._ledger.known(list(candidates))
        fresh = [record for record in candidates.values() if record.id not in known]
        await self._bury(letters)
        changed = await self._recorder.write(fresh)
        self._metrics.events.inc(len(entries))
        self._metrics.duplicates.inc(repeats + len(candidates) - len(fresh))
        done = now_ms()
        for record in changed:
            self._metrics.taken_in(record.function, (done - written_ms[record.id]) / 1000)
        self._on_queued(changed)

    def _route(self, entry: StoredEntry, now: int) -> list[Record]:
        trigger: Trigger = decode_trigger(entry.value)
        records = []
        for routed in self._functions.table.route(trigger):
            record = queued(routed.invocation, routed.function, trigger, now=now, epoch=self._epoch())
            if routed.phase is not None:
                error = routed.error or ErrorClass.INVALID
                record = refused(record, routed.phase, routed.reason, error, now=now)
            records.append(record)
        return records

    async def _bury(self, letters: list[DeadLetter]) -> None:
        if not letters:
            return
        for letter in letters:
            log.warning(
                "an event cannot be used and is kept as a dead letter",
                action="dead_letter",
                dead=letter.id,
                offset=letter.offset,
                error=letter.message,
            )
        await self._log.append(TOPIC_DEAD, [LogEntry(letter.id, encode(letter)) for letter in letters])
        self._metrics.dead_letters.inc(len(letters))

    async def _commit(self, *, idle: bool) -> None:
        now = now_ms()
        if self._positions == self._committed or self._positions is None:
            return
        if idle or now >= self._commit_due_ms:
            await self._log.commit(GROUP, TOPIC_EVENTS, self._positions)
            self._committed = dict(self._positions)
            self._commit_due_ms = now + COMMIT_MS


def _dead_letter(entry: StoredEntry, error: Exception, now: int) -> DeadLetter:
    place = f"{entry.topic}/{entry.partition}/{entry.offset}"
    undecodable = isinstance(error, msgspec.DecodeError)
    return DeadLetter(
        # The same entry read again after a crash is the same letter.
        id=hashlib.sha256(place.encode() + entry.value).hexdigest()[:32],
        original=entry.value,
        error="undecodable" if undecodable else type(error).__name__,
        message=f"{'not a trigger' if undecodable else 'routing failed'}: {error}",
        time_ms=now,
        topic=entry.topic,
        partition=entry.partition,
        offset=entry.offset,
    )
