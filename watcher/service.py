"""The watcher: news from a source and from listings enters the log, each object version once.

It follows the registry, so exactly the buckets are watched that are inputs of some function. The order is: append, then
remember. A crash between the two appends a version again, which the ledger drops by identity; the other order could
lose one.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry

from penstock.clock import now_ms
from penstock.codec import encode
from penstock.errors import InvalidInput, Unavailable
from penstock.model import TOPIC_DEAD, TOPIC_EVENTS, BucketEvent, DeadLetter, Function
from penstock.ports import ChangeKind, Delivery, EventLog, Gap, LogEntry, ObjectStore, Registry, Source
from penstock.tasks import Supervisor
from watcher.interest import Interest
from watcher.listing import Listing
from watcher.metrics import WatcherMetrics
from watcher.reconciler import Reconciler
from watcher.schedule import Policy
from watcher.seen import SeenStore, versions_of
from watcher.sources.closing import finish

log = structlog.get_logger("watcher")

T = TypeVar("T")


class Watcher:
    """`first_pause_s` and `longest_pause_s` bound the waits while the log does not take events. `listing` is how
    buckets are listed, if not by `store.list`. `learn` is told the functions before their inputs are watched. `on_gap`
    hears of the gaps that the source tells.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        source: Source,
        log: EventLog,
        registry: Registry,
        seen: SeenStore,
        metrics: WatcherMetrics | None = None,
        policy: Policy | None = None,
        first_pause_s: float = 0.2,
        longest_pause_s: float = 15.0,
        listing: Listing | None = None,
        learn: Callable[[Collection[Function]], None] = lambda _functions: None,
        on_gap: Callable[[Gap], None] = lambda _gap: None,
    ) -> None:
        self._source = source
        self._log = log
        self._registry = registry
        self._seen = seen
        self._metrics = metrics or WatcherMetrics(CollectorRegistry())
        self._pauses_s = (first_pause_s, longest_pause_s)
        self._functions: dict[str, Function] = {}
        self._interest = Interest(())
        self._publishing = asyncio.Lock()
        self._learn = learn
        self._on_gap = on_gap
        #: Set once the functions are known. News from before would be taken for unwanted.
        self._informed = asyncio.Event()
        #: Why events cannot be saved right now, "" = they can.
        self.trouble = ""
        self.reconciler = Reconciler(
            store=store, seen=seen, publish=self.publish, metrics=self._metrics, policy=policy, listing=listing
        )

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Run until cancelled; raises when one of the loops ends. `ready` is set when every input is watched (what
        was there before is being listed then).
        """
        supervisor = Supervisor()
        supervisor.start("watcher-registry", self._follow_registry(ready))
        supervisor.start("watcher-source", self._follow_source())
        supervisor.start("watcher-reconciler", self.reconciler.run())
        await supervisor.run()

    # Which buckets

    async def _follow_registry(self, ready: asyncio.Event | None) -> None:
        synced = False
        async for change in self._registry.watch():
            if change.kind is ChangeKind.SYNCED:
                synced = True
            elif change.function is not None:
                if change.kind is ChangeKind.PUT:
                    self._functions[change.function.name] = change.function
                else:
                    self._functions.pop(change.function.name, None)
            if synced:
                await self._apply()
                if ready is not None:
                    ready.set()

    async def _apply(self) -> None:
        """Watch first, list afterwards: what appears in between is told of, what was there before is listed."""
        old, self._interest = self._interest, Interest(self._functions.values())
        self._informed.set()
        self._learn(self._functions.values())
        await self._source.watch_buckets(self._interest.buckets, self._interest.prefixes)
        self.reconciler.watch(self._interest.prefixes)
        for bucket in self._interest.widened(old):
            self.reconciler.request(bucket, "a function was added or changed", anew=True)

    # What enters the log

    async def _follow_source(self) -> None:
        await self._informed.wait()
        events = self._source.events()
        try:
            async for news in events:
                await self._take(news)
        finally:
            await finish(events)

    async def _take(self, news: list[BucketEvent] | Gap) -> None:
        if isinstance(news, Gap):
            self._metrics.gaps.inc()
            log.warning("events may be missing; listing", action="gap", bucket=news.bucket, why=news.why)
            self._on_gap(news)
            self.reconciler.request(news.bucket, "gap")
            return
        await self.publish(news)
        if isinstance(news, Delivery):
            news.settle()

    async def publish(self, events: Sequence[BucketEvent]) -> int:
        """Append what is wanted and was not published before; returns how many. Waits while the log cannot take it."""
        wanted = [event for event in events if self._interest.wants(event)]
        if not wanted:
            return 0
        # One at a time: the source and a listing may see the same version at the same moment.
        async with self._publishing:
            versions = versions_of(wanted)
            indexes = await self._insist(lambda: self._seen.unseen(versions))
            fresh = [wanted[index] for index in indexes]
            self._metrics.repeated.inc(len(wanted) - len(fresh))
            if fresh:
                await self._append(fresh)
                await self._insist(lambda: self._seen.add([versions[index] for index in indexes]))
        self.reconciler.note(fresh)
        return len(fresh)

    async def _append(self, events: list[BucketEvent]) -> None:
        entries: list[LogEntry] = []
        dead: list[LogEntry] = []
        for event in events:
            try:
                entries.append(LogEntry(f"{event.bucket}/{event.key}", encode(event)))
            except UnicodeEncodeError:
                dead.append(_dead_letter(event))
            else:
                self._metrics.published.labels(event.origin.value).inc()
        if dead:
            self._metrics.quarantined.inc(len(dead))
            log.warning("names that are not UTF-8 text were put aside", action="quarantined", count=len(dead))
            await self._insist(lambda: self._log.append(TOPIC_DEAD, dead))
        if entries:
            await self._insist(lambda: self._log.append(TOPIC_EVENTS, entries))
            now = now_ms()
            for event in events:
                self._metrics.notice(event.origin.value, (now - event.arrived_ms) / 1000)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat while the infrastructure says "later" (disk full included). Nothing is lost meanwhile: the source's
        queue fills, overflows, and the gap is listed.
        """
        pause, longest = self._pauses_s
        while True:
            try:
                done = await call()
            except Unavailable as error:
                self.trouble = error.message
                log.warning("events cannot be saved now; trying again", action="append_retry", error=error.message)
            else:
                self.trouble = ""
                return done
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(2 * pause, longest)


def _dead_letter(event: BucketEvent) -> LogEntry:
    """For a file whose name is not UTF-8: no event can carry it, and nobody could download its output by that name."""
    name = f"{event.bucket}/{event.key}"
    letter = DeadLetter(
        id=event.identity,
        original=os.fsencode(name),
        error=InvalidInput.code,
        message=f"the file name {name!r} is not valid UTF-8 text; rename the file",
        time_ms=now_ms(),
        topic=TOPIC_EVENTS,
    )
    return LogEntry(event.identity, encode(letter))
