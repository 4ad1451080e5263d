"""Tells of files that appear in the buckets of a directory store, from the kernel's own notifications.

A file is news when it was closed after writing, renamed or linked into place, and nobody writes to it any more. What
the kernel could not tell (its queue overflowed) is reported as a gap; where it has no more watches to give, the bucket
is polled instead. Events are drained and looked at in batches: a burst costs a few system calls per file.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import structlog
from asyncinotify import Mask

from penstock.adapters.directory import DirectoryStore, Probe
from penstock.clock import now_ms
from penstock.model import BucketEvent, Origin
from penstock.ports import Gap
from watcher.sources.polling import Poller
from watcher.sources.tree import Scope, WatchLimitReached, WatchTree
from watcher.translate import hops_of

log = structlog.get_logger("watcher.directory")

#: Files per batch: some milliseconds of work.
_BATCH = 512
#: Files waiting for their turn beyond which the kernel keeps the rest, or drops it: that is a gap, and listed. Bounds
#: memory.
_MOST_READY = 50_000
#: Buffers drained before their files are looked at.
_READS = 4

#: A folder that appears with more files is left to a listing, which needs no memory for them.
_MANY = 20_000

#: A file that is just being closed is looked at so often, with so many seconds between.
_TRIES = 4
_MOMENT_S = 0.003

_OVERFLOW = int(Mask.Q_OVERFLOW)
_IGNORED = int(Mask.IGNORED)
_ISDIR = int(Mask.ISDIR)
_MOVED_FROM = int(Mask.MOVED_FROM)
_APPEARED = int(Mask.CREATE | Mask.MOVED_TO)
_COMPLETE = int(Mask.CLOSE_WRITE | Mask.MOVED_TO)

Place = tuple[str, str]


class _Why(enum.Enum):
    """How a file that is to be looked at became known."""

    COMPLETE = "closed after writing, or renamed: needs no settle time"
    SETTLED = "appeared without being written, and the settle time has passed"
    CAME_ALONG = "lay in a folder that appeared"


def _event(probe: Probe, why: _Why) -> BucketEvent:
    event = BucketEvent.of(probe.info, Origin.PUSH, hops_of(probe.info.metadata))
    if why is _Why.CAME_ALONG:
        # A moved folder keeps the times of its files: they are as old as before, but have only arrived now.
        return msgspec.structs.replace(event, arrived_ms=max(event.arrived_ms, now_ms()))
    return event


class DirectorySource:
    """A `Source` over inotify. `poll_interval_s`: how often buckets are looked at for which no watches are left."""

    def __init__(self, store_root: Path, store: DirectoryStore, *, poll_interval_s: float = 1.0) -> None:
        self._store = store
        self._tree = WatchTree(store_root.resolve())
        try:
            self._tree.watch_root()
        except BaseException:
            self._tree.close()
            raise
        self._poll_interval_s = poll_interval_s
        self._buckets: dict[str, Scope] = {}
        self._pollers: dict[str, Poller] = {}
        self._poll_at = 0.0
        self._ready: OrderedDict[Place, _Why] = OrderedDict()
        #: Files that appeared without being written: when to look at them (monotonic seconds).
        self._later: OrderedDict[Place, float] = OrderedDict()
        #: Complete files that seem to be open for writing, and how often they were looked at (see `_finished`).
        self._closing: dict[Place, int] = {}
        #: Folders that appeared.
        self._folders: OrderedDict[Place, None] = OrderedDict()
        self._gaps: list[Gap] = []
        self._wake = asyncio.Event()
        self._closed = False

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        wanted = {bucket: Scope((prefixes or {}).get(bucket, ("",))) for bucket in buckets}
        for bucket in self._buckets.keys() - wanted.keys():
            self._tree.forget(bucket)
            self._pollers.pop(bucket, None)
        # Watches that are no longer needed stay until the bucket goes: what they tell is passed over.
        new = [bucket for bucket in wanted if self._buckets.get(bucket) != wanted[bucket]]
        self._buckets = wanted
        for bucket in sorted(new):
            if bucket not in self._pollers:
                await self._watch(bucket)

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        loop = asyncio.get_running_loop()
        try:
            while not self._closed:
                if len(self._ready) < _MOST_READY:
                    self._drain()
                await self._enter_folders()
                while self._gaps:
                    yield self._gaps.pop()
                async for batch in self._take():
                    yield batch
                async for news in self._poll():
                    yield news
                if self._ready or self._folders or self._gaps:
                    continue
                await self._wait(loop)
        finally:
            await self.close()

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._wake.set()
            asyncio.get_running_loop().remove_reader(self._tree.descriptor)
            self._tree.close()

    # Watching

    async def _watch(self, bucket: str, folder: str = "") -> list[str]:
        """Watch a folder; returns keys that were there. When no watches are left, the bucket is polled from now on."""
        try:
            return await self._tree.watch(bucket, folder, self._buckets.get(bucket))
        except WatchLimitReached:
            log.warning(
                "no inotify watches left; this bucket is polled instead: raise fs.inotify.max_user_watches",
                action="watch_limit",
                bucket=bucket,
            )
            self._tree.forget(bucket)
            poller = Poller(self._store, bucket)
            await poller.start(now_ms())
            self._pollers[bucket] = poller
            self._gaps.append(Gap(bucket=bucket, why="no inotify watches left"))
            self._wake.set()
            return []

    async def _enter_folders(self) -> None:
        """Watch folders that appeared and take what was put into them before."""
        while self._folders:
            (bucket, folder), _ = self._folders.popitem(last=False)
            if bucket not in self._buckets or bucket in self._pollers:
                continue
            before = self._tree.number(bucket, folder)
            keys = await self._watch(bucket, folder)
            if not folder:
                if self._tree.number(bucket, folder) != before:
                    self._gaps.append(Gap(bucket=bucket, why="the bucket appeared"))
                continue  # else it is known, and what it holds is covered by another gap or was there before
            if len(keys) > _MANY:
                self._gaps.append(Gap(bucket=bucket, why=f"the folder {folder!r} came with {len(keys)} files"))
                continue
            for key in keys:
                self._ready.setdefault((bucket, key), _Why.CAME_ALONG)

    # Kernel events

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        descriptor = self._tree.descriptor
        loop.add_reader(descriptor, self._wake.set)
        try:
            async with asyncio.timeout(self._patience()):
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            # Not left in place: the descriptor stays readable until it is drained and would wake the loop each turn.
            if not self._closed:  # else the number may be somebody else's by now
                loop.remove_reader(descriptor)
            self._wake.clear()

    def _patience(self) -> float | None:
        if self._closing:
            return _MOMENT_S
        moments = [next(iter(self._later.values()))] if self._later else []  # the first is due first
        if self._pollers:
            moments.append(self._poll_at)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _drain(self) -> None:
        for _ in range(_READS):
            notices = self._tree.drain()
            if not notices:
                return
            for notice in notices:
                self._note(*notice)

    def _note(self, watch: int, mask: int, name: str) -> None:
        if mask & _OVERFLOW:
            self._gaps.append(Gap(why="the kernel's event queue overflowed"))
            self._folders.update(((bucket, ""), None) for bucket in self._buckets)
            return
        place = self._tree.place(watch)
        if place is None:
            return
        if mask & _IGNORED:
            self._tree.dropped(watch)
        elif name:
            self._appeared(place, name, mask)

    def _appeared(self, place: Place, name: str, mask: int) -> None:
        bucket, folder = place
        if mask & _ISDIR:
            inside = (name, "") if not bucket else (bucket, f"{folder}{name}/")
            if mask & _MOVED_FROM:
                self._tree.forget(*inside)
            elif mask & _APPEARED and self._may_hold(*inside):
                self._folders[inside] = None
        elif not bucket or not self._wants(bucket, folder + name):
            return  # not looked at either: outputs often lie in the bucket of the inputs
        elif mask & _COMPLETE:
            self._later.pop((bucket, folder + name), None)
            self._ready[bucket, folder + name] = _Why.COMPLETE
        elif mask & _APPEARED:
            # Made, not written yet. A writer's close will tell; a hard link or an empty file made without being opened
            # for writing has nothing more to come.
            self._postpone((bucket, folder + name))

    def _wants(self, bucket: str, key: str) -> bool:
        scope = self._buckets.get(bucket)
        return scope is not None and scope.holds(key)

    def _may_hold(self, bucket: str, folder: str) -> bool:
        scope = self._buckets.get(bucket)
        return scope is not None and (not folder or scope.may_hold(folder))

    def _postpone(self, place: Place) -> None:
        self._later.pop(place, None)
        self._later[place] = time.monotonic() + self._store.settle_s

    # Files

    def _due(self) -> Iterator[Place]:
        """Take out what has waited long enough; the first of `_later` is due first, since all wait equally long."""
        now = time.monotonic()
        while self._later and next(iter(self._later.values())) <= now:
            yield self._later.popitem(last=False)[0]

    async def _take(self) -> AsyncIterator[list[BucketEvent]]:
        for place in self._due():
            self._ready.setdefault(place, _Why.SETTLED)
        for place in self._closing:
            self._ready[place] = _Why.COMPLETE
        if self._ready:
            # One batch a turn, since the kernel's queue is short and new folders wait for their watch.
            places = dict(self._ready.popitem(last=False) for _ in range(min(_BATCH, len(self._ready))))
            found = await self._store.probe(list(places))
            events = [
                _event(probe, why)
                for (place, why), probe in zip(places.items(), found, strict=True)
                if probe is not None and self._finished(place, probe, why)
            ]
            for place, probe in zip(places, found, strict=True):
                if probe is None or not probe.writer:
                    self._closing.pop(place, None)
            if events:
                yield events

    def _finished(self, place: Place, probe: Probe, why: _Why) -> bool:
        if probe.writer:
            if why is _Why.COMPLETE:
                # The kernel tells of a close an instant before it is done, so it may be that very writer. A look some
                # milliseconds later tells; another writer's own close would be told.
                self._look_again(place)
            return False
        if probe.writer is None and why is not _Why.COMPLETE and not probe.settled:
            self._postpone(place)  # nobody can say whether it is being written
            return False
        return True

    def _look_again(self, place: Place) -> None:
        tries = self._closing.get(place, 0) + 1
        if tries < _TRIES:
            self._closing[place] = tries
        else:
            self._closing.pop(place, None)
            self._postpone(place)

    async def _poll(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        if not self._pollers or time.monotonic() < self._poll_at:
            return
        begin = time.monotonic()
        for poller in list(self._pollers.values()):
            async for news in poller.turn(now_ms()):
                yield news
        self._poll_at = time.monotonic() + max(self._poll_interval_s, 20 * (time.monotonic() - begin))
