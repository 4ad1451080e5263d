"""Proves that events still arrive: writes an object of its own now and then, and waits for its event on every way.

A store whose target is cut off, whose rules were not loaded, or whose queue is stuck looks healthy in every other
respect. An event that does not come in time counts as lost; then the rules are written again and everything is listed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence

import structlog

from penstock.adapters.s3 import S3Store
from penstock.errors import NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET, BucketEvent, ObjectInfo
from penstock.ports import Gap
from watcher.metrics import WatcherMetrics

log = structlog.get_logger("watcher.canary")

#: Prefix of canary objects in the platform's own bucket, which no function reads.
FOLDER = "canary/"
#: While nothing arrives, everything is listed again after pauses that double up to so many canaries.
_RAREST = 16
_TOLD = frozenset({1, 2, 4, 8})


class Canary:
    """`name` tells the canaries of several watchers apart. `lost` is called when events do not arrive."""

    def __init__(
        self,
        *,
        store: S3Store,
        ways: Collection[str],
        name: str,
        lost: Callable[[Gap], None],
        metrics: WatcherMetrics,
        interval_s: float = 60.0,
        patience_s: float = 20.0,
    ) -> None:
        self._store = store
        self._ways = sorted(ways)
        self._key = f"{FOLDER}{name}"
        self._lost = lost
        self._metrics = metrics
        self._interval_s = interval_s
        self._patience_s = patience_s
        #: Per way, when each recent version was heard of: identity -> moment. The event may come before the answer.
        self._heard: dict[str, dict[str, float]] = {way: {} for way in self._ways}
        #: Canaries in a row that a way has lost.
        self._missed = dict.fromkeys(self._ways, 0)
        start = time.monotonic()
        self._last = dict.fromkeys(self._ways, start)
        for way in self._ways:
            metrics.canary_silence.labels(way).set_function(lambda way=way: time.monotonic() - self._last[way])  # type: ignore[misc]

    def heard(self, way: str, events: Sequence[BucketEvent]) -> None:
        """Tell what came, and by which way."""
        if way not in self._heard:
            return
        for event in events:
            if event.bucket == SYSTEM_BUCKET and event.key == self._key:
                self._last[way] = self._heard[way][event.identity] = time.monotonic()
                if len(self._heard[way]) > 10:
                    del self._heard[way][next(iter(self._heard[way]))]

    async def run(self) -> None:
        while True:
            begin = time.monotonic()
            await self.turn()
            await asyncio.sleep(max(0.0, begin + self._interval_s - time.monotonic()))

    async def turn(self) -> bool:
        """Write one and wait for it; True = its event came by every way."""
        begin = time.monotonic()
        try:
            info = await self._written()
        except PenstockError as error:
            # Not a sign of loss: who cannot write can hardly upload.
            self._metrics.canary_failed.inc()
            log.warning("the canary object cannot be written", action="canary_failed", error=error.message)
            return False
        self._metrics.canary_sent.inc()
        while waiting := [way for way in self._ways if info.identity not in self._heard[way]]:
            if time.monotonic() > begin + self._patience_s:
                break
            await asyncio.sleep(0.02)
        for way in self._ways:
            self._judge(way, begin, self._heard[way].get(info.identity))
        if info.version_id is not None:
            await self._forget(info.version_id)
        return not waiting

    async def _written(self) -> ObjectInfo:
        # Never twice the same bytes, so that each has an identity of its own also where a clock is coarse.
        content = f"{time.time_ns()}\n".encode()
        try:
            return await self._store.write(SYSTEM_BUCKET, self._key, content)
        except NotFound:
            await self._store.create_bucket(SYSTEM_BUCKET)
            return await self._store.write(SYSTEM_BUCKET, self._key, content)

    async def _forget(self, version_id: str) -> None:
        try:
            await self._store.delete(SYSTEM_BUCKET, self._key, version_id=version_id)
        except PenstockError as error:
            log.info("an old canary object stays", action="canary_kept", error=error.message)

    def _judge(self, way: str, begin: float, came: float | None) -> None:
        if came is not None:
            self._metrics.canary_seconds.labels(way).set(max(0.0, came - begin))
            if self._missed[way]:
                log.info("events arrive again", action="canary_back", way=way)
                self._lost(Gap(why=f"events by {way} had stopped and arrive again"))
            self._missed[way] = 0
            return
        self._metrics.canary_lost.labels(way).inc()
        self._missed[way] += 1
        if self._missed[way] in _TOLD or self._missed[way] % _RAREST == 0:
            log.error(
                "events do not arrive: the event of a canary object did not come in time",
                action="canary_lost",
                way=way,
                seconds=self._patience_s,
                in_a_row=self._missed[way],
            )
            self._lost(Gap(why=f"events by {way} do not arrive"))
