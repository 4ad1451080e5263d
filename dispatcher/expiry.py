"""History whose time is over: invocations with their logs, answers and bodies, and dead letters.

The active dispatcher does this, and nobody else: it is the one writer of the history, so it alone can tell between two
writes whether an old invocation has just been ordered to run again. Others hear of it by the history itself, where an
entry without a value ends the life of its key. Logs and answers go first, so that a crash leaves nothing that no later
round finds; a stored body goes last, since it is what an invocation that runs again would need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog

from dispatcher.dead import letters
from penstock.errors import Closed, PenstockError
from penstock.model import SYSTEM_BUCKET, TOPIC_DEAD, Record, Submission
from penstock.model.objects import Kept, answer_key, log_key
from penstock.ports import EventLog, Ledger, LogEntry, ObjectStore
from penstock.settings import HistorySettings

log = structlog.get_logger("dispatcher.expiry")

DAY_MS = 24 * 3600 * 1000
PAGE = 500

Forget = Callable[[Sequence[Record]], Awaitable[list[str]]]


class Expiry:
    def __init__(
        self, *, event_log: EventLog, ledger: Ledger, store: ObjectStore, forget: Forget, settings: HistorySettings
    ) -> None:
        """`forget` ends the lives of records that have not changed since they were read; returns whose."""
        self._log = event_log
        self._ledger = ledger
        self._store = store
        self._forget = forget
        self._settings = settings

    async def turn(self, now: int) -> dict[str, int]:
        """One round; returns how many of each kind were deleted. What goes wrong ends the round and not the service.
        Raises Closed alone.
        """
        done: dict[str, int] = {}
        try:
            await self.expire(now, done)
        except Closed:
            raise
        except PenstockError as error:
            log.warning("old history has to wait", action="expiry_delayed", error=error.message)
        if any(done.values()):
            log.info("old history deleted", action="expiry", **done)
        return done

    async def expire(self, now: int, done: dict[str, int]) -> None:
        """As `turn`, counting into `done`. Raises what the ports raise."""
        before = now - int(self._settings.keep_days * DAY_MS)
        done["invocations"] = await self._expire_invocations(before)
        done["dead_letters"] = await self._expire_letters(before)
        done["answers"] = await self._drop_answers(now - int(self._settings.answers_keep_days * DAY_MS))

    async def _expire_invocations(self, before: int) -> int:
        count = 0
        while ids := await self._ledger.outlived(before, limit=PAGE):
            records = list((await self._ledger.get_many(ids)).values())
            for record in records:
                await self._drop_objects(record)
            gone = set(await self._forget(records))
            for record in records:
                if record.id in gone:
                    await self._drop_body(record)
            count += len(gone)
        return count

    async def _drop_objects(self, record: Record) -> None:
        for attempt in range(1, record.attempt + 1):
            await self._store.delete(SYSTEM_BUCKET, log_key(record.function_uid, record.id, attempt))
            await self._store.delete(SYSTEM_BUCKET, answer_key(record.function_uid, record.id, attempt))

    async def _drop_body(self, record: Record) -> None:
        if isinstance(record.trigger, Submission) and record.trigger.body_key is not None:
            await self._store.delete(SYSTEM_BUCKET, record.trigger.body_key)

    async def _expire_letters(self, before: int) -> int:
        old = [one.id for one in (await letters(self._log)).values() if one.time_ms < before]
        for start in range(0, len(old), PAGE):
            await self._log.append(TOPIC_DEAD, [LogEntry(letter, b"") for letter in old[start : start + PAGE]])
        return len(old)

    async def _drop_answers(self, before: int) -> int:
        """Answers that nobody fetched: their callers stopped waiting."""
        count = 0
        async for page in self._store.list(SYSTEM_BUCKET, f"{Kept.ANSWERS}/"):
            for info in page:
                if info.arrived_ms < before:
                    await self._store.delete(SYSTEM_BUCKET, info.key)
                    count += 1
        return count
