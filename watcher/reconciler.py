"""Lists buckets and publishes what no event told of: the reason why no object is ever missed.

The shell around `schedule`: it carries out one listing at a time, measures what it cost, and compares it page by page
with what was published before, in flat memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import structlog

from penstock.clock import now_ms
from penstock.errors import NotFound, PenstockError
from penstock.model import BucketEvent, ObjectInfo, Origin
from penstock.ports import ObjectStore
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
from watcher.seen import SeenStore, Stale, digest

log = structlog.get_logger("watcher.reconciler")

#: Publishes events that were not published yet and returns how many.
Publish = Callable[[list[BucketEvent]], Awaitable[int]]

#: Vanished objects looked at between two turns of the event loop.
_SLICE = 50


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
    ) -> None:
        self._store = store
        self._seen = seen
        self._publish = publish
        self._metrics = metrics
        self._policy = policy or Policy()
        self._clock = clock
        self._scopes: dict[tuple[str, str], Scope] = {}
        self._wake = asyncio.Event()

    def watch(self, prefixes: Mapping[str, Collection[str]]) -> None:
        """From now on these buckets are kept complete, each below its prefixes. New ones are listed at once."""
        wanted = {(bucket, prefix) for bucket, all_ in prefixes.items() for prefix in cover(all_)}
        self._scopes = {
            name: self._scopes.get(name) or Scope(bucket=name[0], prefix=name[1]) for name in sorted(wanted)
        }
        self._changed()

    def request(self, bucket: str, why: str) -> None:
        """List a bucket at once ("" = all), also if a listing of it is under way."""
        for scope in self._scopes.values():
            if not bucket or scope.bucket == bucket:
                scope.urgent = why
                scope.not_before_ms = 0
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
        try:
            listed, found = await self._sweep(sweep)
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
                scope.cost_s = time.perf_counter() - begin
            note_failure(scope, self._policy, len(self._scopes), self._clock())
            return
        cost_s = time.perf_counter() - begin
        scope.failures = 0
        target: Scope | Hot = scope if sweep.full else scope.hot.get(sweep.prefix, Hot(begun_ms))
        target.swept_ms, target.cost_s, target.keys = begun_ms, cost_s, listed
        if sweep.full:
            note_swept(scope, self._policy, why=sweep.why, begun_ms=begun_ms, now_ms=self._clock())
        if found:
            log.info(
                "objects found by listing",
                action="sweep_found",
                bucket=sweep.bucket,
                prefix=sweep.prefix,
                why=sweep.why,
                listed=listed,
                found=found,
            )

    async def _sweep(self, sweep: Sweep) -> tuple[int, int]:
        """Returns how many objects were listed and how many were news. Raises what the store raises."""
        listed = found = 0
        after = ""
        begin = time.monotonic()
        try:
            async for page in self._store.list(sweep.bucket, sweep.prefix):
                found += await self._compare(sweep, page, after=after, last=False)
                listed += len(page)
                after = page[-1].key
                self._metrics.listed.inc(len(page))
                await self._pace(sweep, listed, time.monotonic() - begin)
        except NotFound:
            # Not the same as empty: what was published is remembered, in case the folder comes back as it was.
            self._metrics.failed_listings.inc()
            log.info("the bucket is not there", action="sweep_no_bucket", bucket=sweep.bucket)
            return listed, found
        await self._compare(sweep, [], after=after, last=True)
        return listed, found

    async def _pace(self, sweep: Sweep, listed: int, elapsed_s: float) -> None:
        if self._policy.keys_per_minute and sweep.why in {"interval", "recent news"}:
            await asyncio.sleep(max(0.0, 60.0 * listed / self._policy.keys_per_minute - elapsed_s))

    async def _compare(self, sweep: Sweep, page: list[ObjectInfo], *, after: str, last: bool) -> int:
        unseen, stale = await self._seen.merge(sweep.bucket, page, after=after, prefix=sweep.prefix, last=last)
        found = 0
        if unseen:
            found = await self._publish([BucketEvent.of(page[index], Origin.LISTING) for index in unseen])
            self._metrics.found.inc(found)
        gone = [item for turn, item in enumerate(stale) if await self._is_gone(sweep.bucket, item, turn)]
        if gone:
            await self._seen.forget(sweep.bucket, gone)
        return found

    async def _is_gone(self, bucket: str, item: Stale, turn: int) -> bool:
        """A version may have been published after its page was read, and a listing hides files being written."""
        if turn % _SLICE == 0:
            await asyncio.sleep(0)
        try:
            info = await self._store.head(bucket, item.key)
        except NotFound:
            return True
        except PenstockError:
            return False  # could not look is not gone
        return digest(info.identity) != item.digest

    def _changed(self, *, wake: bool = True) -> None:
        self._metrics.worst_case.set(worst_case_s(self._scopes.values(), self._policy))
        if wake:
            self._wake.set()
