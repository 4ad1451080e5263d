"""Finds news in a directory store by looking again and again, where the system does not tell of changes.

No memory of files is kept: every appearance of a file (written, renamed, linked) sets its change time, which no program
can set back, so a turn yields what changed since the turn before, with an overlap. Only a moved folder keeps the times
of its files; the names of folders are therefore remembered, and everything in a new one is news. What still slips
through (a file held open for long after its last write) the reconciler finds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping

import msgspec
import structlog

from penstock.adapters.directory import DirectoryStore
from penstock.clock import now_ms
from penstock.errors import Forbidden, NotFound, Unavailable
from penstock.model import BucketEvent, Origin
from penstock.ports import Gap
from watcher.translate import hops_of

log = structlog.get_logger("watcher.polling")

#: At most this part of the time is spent looking.
_SHARE = 0.05


class Poller:
    """Looks at one bucket. The first turn only learns which folders there are and what time it is."""

    def __init__(self, store: DirectoryStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._folders: set[str] = set()
        self._since_ms = 0
        self._trouble = ""

    async def start(self, begin_ms: int) -> None:
        """After this, what appears is yielded by a turn."""
        async for _ in self.turn(begin_ms):
            pass

    async def turn(self, begin_ms: int) -> AsyncIterator[list[BucketEvent] | Gap]:
        """News since the turn before. Folders that cannot be read are reported once as a gap, and as long as they
        cannot, they count as not there: what they hold is news when they can.
        """
        trouble = ""
        folders: set[str] = set()
        # A file is hidden until it has settled: it may be as old as that when it is first seen; once more for jitter.
        since_ms = self._since_ms - int(2000 * self._store.settle_s) - 1000
        try:
            async for page in self._store.list(self._bucket):
                news: list[tuple[str, str]] = []
                moved: list[tuple[str, str]] = []
                for info in page:
                    folder = info.key.rpartition("/")[0]
                    folders.add(folder)
                    if info.arrived_ms >= since_ms:
                        news.append((info.bucket, info.key))
                    elif folder not in self._folders:
                        moved.append((info.bucket, info.key))
                if self._since_ms and (news or moved):
                    yield await self._events(news) + [
                        msgspec.structs.replace(event, arrived_ms=begin_ms) for event in await self._events(moved)
                    ]
        except NotFound:
            folders.clear()  # the bucket may be made later
        except (Forbidden, Unavailable) as error:
            trouble = error.message
        self._folders = folders
        self._since_ms = begin_ms
        if trouble and trouble != self._trouble:
            log.warning(
                "a part of the bucket cannot be looked at", action="poll_failed", bucket=self._bucket, error=trouble
            )
            yield Gap(bucket=self._bucket, why=trouble)
        self._trouble = trouble

    async def _events(self, places: list[tuple[str, str]]) -> list[BucketEvent]:
        found = await self._store.probe(places)
        return [
            BucketEvent.of(probe.info, Origin.PUSH, hops_of(probe.info.metadata))
            for probe in found
            if probe is not None and not probe.writer
        ]


class PollingSource:
    """A `Source` for systems without change notification. `interval_s`: pause between two looks at a bucket; longer
    where looking takes long.
    """

    def __init__(self, store: DirectoryStore, *, interval_s: float = 1.0) -> None:
        self._store = store
        self._interval_s = interval_s
        self._pollers: dict[str, Poller] = {}
        self._closing = asyncio.Event()

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        while not self._closing.is_set():
            begin = time.perf_counter()
            for poller in list(self._pollers.values()):
                async for news in poller.turn(now_ms()):
                    yield news
            pause = max(self._interval_s, (time.perf_counter() - begin) / _SHARE)
            try:
                async with asyncio.timeout(pause):
                    await self._closing.wait()
            except TimeoutError:
                continue

    async def watch_buckets(
        self,
        buckets: Collection[str],
        prefixes: Mapping[str, Collection[str]] | None = None,  # noqa: ARG002 - whole buckets are looked at here
    ) -> None:
        for bucket in set(self._pollers) - set(buckets):
            del self._pollers[bucket]
        for bucket in sorted(set(buckets) - set(self._pollers)):
            poller = Poller(self._store, bucket)
            await poller.start(now_ms())
            self._pollers[bucket] = poller

    async def close(self) -> None:
        self._closing.set()
