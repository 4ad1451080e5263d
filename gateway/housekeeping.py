"""Housekeeping: what has served its time is deleted, a little each hour, so that a long life does not fill the disk.

Nothing that may still be needed to run goes: events only when they are durably queued, records only when they are final
and older than the history is kept. Which invocations are forgotten is the dispatcher's business (`dispatcher.expiry`);
what is here is the log in a file, which nobody else trims and compacts.
"""

from __future__ import annotations

import structlog

from dispatcher.expiry import Expiry
from dispatcher.intake import GROUP
from penstock.errors import Closed, PenstockError
from penstock.model import TOPIC_COMMANDS, TOPIC_DEAD, TOPIC_EVENTS, TOPIC_RECORDS
from penstock.observability import Metrics
from penstock.ports import EventLog, Ledger
from penstock.settings import HistorySettings

log = structlog.get_logger("gateway.housekeeping")

DAY_MS = 24 * 3600 * 1000
#: Entries of a record may be this much older than the times in it (a retry is queued for later): never trimmed.
MARGIN_MS = DAY_MS


class Housekeeping:
    def __init__(
        self,
        *,
        event_log: EventLog,
        ledger: Ledger,
        settings: HistorySettings,
        metrics: Metrics,
        expiry: Expiry | None = None,
    ) -> None:
        """`expiry` None: the dispatcher does that in rounds of its own."""
        self._log = event_log
        self._ledger = ledger
        self._settings = settings
        self._metrics = metrics
        self._expiry = expiry

    async def turn(self, now: int) -> dict[str, int]:
        """One round; returns how many of each kind were deleted.

        What goes wrong ends the round and not the platform: the next one finds what is left. Raises Closed alone.
        """
        done: dict[str, int] = {}
        try:
            await self._trim_topics(now, done)
            if self._expiry is not None:
                await self._expiry.expire(now, done)
            await self._trim_records(now, done)
        except Closed:
            raise
        except PenstockError as error:
            log.warning("housekeeping has to wait", action="housekeeping_delayed", error=error.message)
        for kind, count in done.items():
            self._metrics.housekeeping.labels(kind).inc(count)
        if any(done.values()):
            log.info("old entries deleted", action="housekeeping", **done)
        return done

    async def _trim_topics(self, now: int, done: dict[str, int]) -> None:
        before = now - int(self._settings.events_keep_days * DAY_MS)
        for kind, topic in (("events", TOPIC_EVENTS), ("commands", TOPIC_COMMANDS)):
            below = await self._log.committed(GROUP, topic)
            done[kind] = await self._log.trim(topic, before_ms=before, below=below)
        done["superseded_records"] = await self._log.compact(TOPIC_RECORDS)
        done["settled_letters"] = await self._log.compact(TOPIC_DEAD)

    async def _trim_records(self, now: int, done: dict[str, int]) -> None:
        before = now - int(self._settings.keep_days * DAY_MS)
        oldest = await self._oldest_open()
        limit = before if oldest is None else min(before, oldest - MARGIN_MS)
        done["records"] = await self._log.trim(TOPIC_RECORDS, before_ms=limit, below=await self._ledger.positions())

    async def _oldest_open(self) -> int | None:
        """When the oldest record that is not final was queued: the log must keep all from there on."""
        times = [stat.oldest_ms for stat in await self._ledger.queue_stats()]
        times += [record.queued_ms for record in await self._ledger.unfinished()]
        return min(times, default=None)
