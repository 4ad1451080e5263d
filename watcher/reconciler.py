"""Lists buckets and publishes what no event told of: the reason why no object is ever missed.

The shell around `schedule`: it carries out one listing at a time, measures what it cost, and compares it page by page
with what was published before, in flat memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import structlog

from penstock.clock import now_ms
from penstock.errors import NotFound, PenstockError
from penstock.model import BucketEvent, ObjectInfo, Origin
from penstock.ports import ObjectStore
from watcher.listing import CurrentObjects, Listing
from watcher.metrics import WatcherMetrics
from watcher.schedule import (
    Hot,
    Idle,
    Policy,
    Scope,
    Sweep,
    cover,
    decide,
    note_failure,
    note_news,
    note_swept,
    worst_case_s,
)
from watcher.seen import SeenStore

log = structlog.get_logger("watcher.reconciler")

#: Publishes events that were not published yet and returns how many.
Publish = Callable[[list[BucketEvent]], Awaitable[int]]

#: Listings that nobody asked for; what they find was lost without a sign.
_ROUTINE = frozenset({"interval", "recent news"})
_LOSS = "a listing found objects that no event had told of"
#: Seconds that an event may be under way while a listing already finds its object.
_UNDER_WAY_S = 10.0


@dataclass
class Tally:
    """What one listing came to."""

    listed: int = 0
    found: int = 0
    missed: int = 0
    #: Seconds spent waiting so as not to exceed the budget of keys.
    paused_s: float = 0.0


class Reconciler:
    def __init__(
        self,
        *,
        store: ObjectStore,
        seen: SeenStore,
        publish: Publish,
        metrics: WatcherMetrics,
        policy: Policy | None = None,
        clock: Callable[[], int] = now_ms,
        listing: Listing | None = None,
    ) -> None:
        self._listing = listing or CurrentObjects(store)
        self._seen = seen
        self._publish = publish
        self._metrics = metrics
        self._policy = policy or Policy()
        self._clock = clock
        self._scopes: dict[tuple[str, str], Scope] = {}
        self._wake = asyncio.Event()
        #: Set while a listing is asked for that must not wait until a routine one has come to its end at leisure.
        self._hurry = asyncio.Event()

    def watch(self, prefixes: Mapping[str, Collection[str]]) -> None:
        """From now on these buckets are kept complete, each below its prefixes. New ones are listed at once."""
        wanted = {(bucket, prefix) for bucket, all_ in prefixes.items() for prefix in cover(all_)}
        self._scopes = {
            name: self._scopes.get(name) or Scope(bucket=name[0], prefix=name[1]) for name in sorted(wanted)
        }
        self._changed()

    def request(self, bucket: str, why: str, *, anew: bool = False) -> None:
        """List a bucket at once ("" = all), also if a listing of it is under way. `anew` = more is wanted there than
        before, so what is found is no sign of loss.
        """
        for scope in self._scopes.values():
            if not bucket or scope.bucket == bucket:
                scope.urgent = why
                scope.not_before_ms = 0
                if anew:
                    scope.told_since_ms = 0
        self._hurry.set()
        self._changed()

    def note(self, events: Iterable[BucketEvent]) -> None:
        """Tell where news is."""
        by_bucket: dict[str, list[str]] = {}
        for event in events:
            by_bucket.setdefault(event.bucket, []).append(event.key)
        for scope in self._scopes.values():
            if scope.bucket in by_bucket:
                note_news(scope, by_bucket[scope.bucket], self._policy, self._clock())

    async def run(self) -> None:
        while True:
            pause = await self.turn()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def turn(self) -> float:
        """Carry out everything that is due; returns for how many seconds nothing will be."""
        self._wake.clear()
        while True:
            plan = decide(self._scopes.values(), self._policy, self._clock())
            if isinstance(plan, Idle):
                return plan.seconds
            await self._carry_out(plan)
            self._changed(wake=False)

    async def _carry_out(self, sweep: Sweep) -> None:
        scope = self._scopes[sweep.bucket, sweep.scope]
        begun_ms, begin = self._clock(), time.perf_counter()
        if sweep.full:
            scope.urgent = ""  # a request from now on means another listing
        if not any(other.urgent for other in self._scopes.values()):
            self._hurry.clear()
        tally = Tally()
        try:
            await self._sweep(sweep, scope, tally)
        except (PenstockError, OSError) as error:
            self._metrics.failed_listings.inc()
            log.warning(
                "listing failed; objects whose events were lost are found later",
                action="sweep_failed",
                bucket=sweep.bucket,
                prefix=sweep.prefix,
                error=str(error),
            )
            if sweep.full:
                scope.urgent = scope.urgent or sweep.why
                scope.cost_s = time.perf_counter() - begin - tally.paused_s
            note_failure(scope, self._policy, len(self._scopes), self._clock())
            return
        cost_s = time.perf_counter() - begin - tally.paused_s
        scope.failures = 0
        target: Scope | Hot = scope if sweep.full else scope.hot.get(sweep.prefix, Hot(begun_ms))
        target.swept_ms, target.cost_s, target.keys = begun_ms, cost_s, tally.listed
        if sweep.full:
            note_swept(scope, self._policy, why=sweep.why, begun_ms=begun_ms, now_ms=self._clock())
            scope.told_since_ms = scope.told_since_ms or begun_ms
        self._tell(sweep, tally)

    def _tell(self, sweep: Sweep, tally: Tally) -> None:
        if tally.found:
            log.info(
                "objects found by listing",
                action="sweep_found",
                bucket=sweep.bucket,
                prefix=sweep.prefix,
                why=sweep.why,
                listed=tally.listed,
                found=tally.found,
                missed=tally.missed,
            )
        if tally.missed and sweep.why in _ROUTINE:
            # Whatever lost these events may have lost others.
            self.request("", _LOSS)

    async def _sweep(self, sweep: Sweep, scope: Scope, tally: Tally) -> None:
        """Raises what the store raises."""
        after = ""
        begin = time.monotonic()
        try:
            async for page in self._listing.pages(sweep.bucket, sweep.prefix):
                await self._compare(sweep, page, tally, since_ms=scope.told_since_ms, after=after)
                tally.listed += len(page)
                after = page[-1].key
                self._metrics.listed.inc(len(page))
                tally.paused_s += await self._pace(sweep, tally.listed, time.monotonic() - begin)
        except NotFound:
            # Not the same as empty: what was published is remembered, in case the folder comes back as it was.
            self._metrics.failed_listings.inc()
            log.info("the bucket is not there", action="sweep_no_bucket", bucket=sweep.bucket)
            return
        await self._compare(sweep, [], tally, since_ms=scope.told_since_ms, after=after)

    async def _pace(self, sweep: Sweep, listed: int, elapsed_s: float) -> float:
        """Keep a routine listing within the budget of keys, unless another one is urgent. Returns the pause."""
        if not self._policy.keys_per_minute or sweep.why not in _ROUTINE or self._hurry.is_set():
            return 0.0
        pause_s = 60.0 * listed / self._policy.keys_per_minute - elapsed_s
        if pause_s <= 0:
            return 0.0
        begin = time.monotonic()
        try:
            async with asyncio.timeout(pause_s):
                await self._hurry.wait()
        except TimeoutError:
            pass
        return time.monotonic() - begin

    async def _compare(self, sweep: Sweep, page: list[ObjectInfo], tally: Tally, *, since_ms: int, after: str) -> None:
        """An empty page stands for the end of the listing."""
        unseen, stale = await self._seen.merge(sweep.bucket, page, after=after, prefix=sweep.prefix, last=not page)
        if unseen:
            news = [BucketEvent.of(page[index], Origin.LISTING) for index in unseen]
            found = await self._publish(news)
            self._metrics.found.inc(found)
            tally.found += found
            until_ms = self._clock() - int(1000 * _UNDER_WAY_S)
            late = sum(since_ms <= event.arrived_ms < until_ms for event in news) if since_ms else 0
            # Some that were listed are not wanted by any function, and were not published.
            self._metrics.missed.inc(missed := min(found, late))
            tally.missed += missed
        gone = await self._listing.gone(sweep.bucket, sweep.prefix, stale, after=after) if stale else []
        if gone:
            await self._seen.forget(sweep.bucket, gone)

    def _changed(self, *, wake: bool = True) -> None:
        self._metrics.worst_case.set(worst_case_s(self._scopes.values(), self._policy))
        if wake:
            self._wake.set()
