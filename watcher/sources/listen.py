"""Listens to an object store over HTTP: events within milliseconds, on a way that may lose some at any time.

A hint beside a way that is durable. Both carry the same identities, so what comes twice is published once. When the
stream breaks, the store has probably been restarted and what happened meanwhile was told to nobody here: a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from typing import cast

import structlog

from penstock.adapters.s3.notifications import Notifications
from penstock.errors import Forbidden, InvalidInput, NotFound, PenstockError, Unavailable, Unsupported
from penstock.model import BucketEvent
from penstock.ports import Gap
from watcher.metrics import WatcherMetrics
from watcher.sources.closing import Closing
from watcher.translate import translate

log = structlog.get_logger("watcher.listen")

#: Seconds that `watch_buckets` waits for the store to listen; after that a gap covers what was not heard.
_PATIENCE_S = 1.5
#: Seconds between tries where the store does not let us listen or does not know how to.
_REFUSED_S = 300.0


class ListenSource:
    def __init__(self, notifications: Notifications, *, metrics: WatcherMetrics, retry_s: float = 1.0) -> None:
        self._notifications = notifications
        self._metrics = metrics
        self._retry_s = retry_s
        self._closing = Closing()
        self._standing = asyncio.Event()
        self._owes_gap = False
        self._buckets: frozenset[str] = frozenset()
        self._refused = ""

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        while not self._closing:
            try:
                async with aclosing(self._heard()) as heard:
                    async for news in heard:
                        yield news
            except Unavailable as error:
                if self._standing.is_set():
                    self._metrics.listen_breaks.inc()
                    log.warning("listening broke off", action="listen_break", error=error.message)
                    # Told when the store can be listed again: that is when it listens again.
                    self._owes_gap = True
                self._broken()
                await self._closing.pause(self._retry_s)
            except (Forbidden, Unsupported, InvalidInput, NotFound) as error:
                self._broken()
                self._tell_refused(error)
                await self._closing.pause(_REFUSED_S)
        self._broken()

    async def _heard(self) -> AsyncGenerator[list[BucketEvent] | Gap, None]:
        lines = cast("AsyncGenerator[bytes, None]", self._notifications.listen())
        async with aclosing(lines):
            while (line := await self._closing.race(_next(lines))) is not None:
                if not self._standing.is_set():
                    self._refused = ""
                    self._standing.set()
                    self._metrics.listening.set(1)
                    log.info("listening to the object store", action="listening")
                    if self._owes_gap:
                        self._owes_gap = False
                        yield Gap(why="the object store is listened to again; it may have been restarted")
                if line and (events := self._wanted(line)):
                    yield events

    def _wanted(self, line: bytes) -> list[BucketEvent]:
        # Most lines may be of other buckets; what cannot be understood comes by the durable way, and is kept there.
        return [event for event in translate(line, escaped=False).events if event.bucket in self._buckets]

    def _broken(self) -> None:
        self._standing.clear()
        self._metrics.listening.set(0)

    def _tell_refused(self, error: PenstockError) -> None:
        if error.message != self._refused:
            self._refused = error.message
            log.warning(
                "the object store cannot be listened to; events come by the other ways alone",
                action="listen_refused",
                error=error.message,
            )

    async def watch_buckets(
        self,
        buckets: Collection[str],
        prefixes: Mapping[str, Collection[str]] | None = None,  # noqa: ARG002 - one stream tells of everything
    ) -> None:
        self._buckets = frozenset(buckets)
        if self._standing.is_set():
            return
        try:
            async with asyncio.timeout(0 if self._refused else _PATIENCE_S):
                await self._standing.wait()
        except TimeoutError:
            # What happens until the store listens to us is told when it does.
            self._owes_gap = True

    async def close(self) -> None:
        self._closing.close()


async def _next(lines: AsyncIterator[bytes]) -> bytes:
    return await anext(lines)
