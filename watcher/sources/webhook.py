"""Takes the events that an object store posts, one static target for the whole platform.

The store's sender is serial: what is refused is repeated for ever and everything behind it waits. So 2xx is the answer
to all that is safe, which is an event in the log, garbage in the quarantine, and news of no interest; and 503 to what
cannot be made safe now, so that the store keeps it. Requests that wait together become one append.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from penstock.errors import Unavailable
from penstock.model import BucketEvent
from penstock.ports import Delivery, Gap
from watcher.metrics import WatcherMetrics
from watcher.quarantine import Quarantine
from watcher.translate import Translation, translate

log = structlog.get_logger("watcher.webhook")

#: Events in one append.
_BATCH = 1000
#: Seconds that a body may take to arrive. The store sends a kilobyte from memory.
_BODY_S = 30.0
#: What is read and thrown away of a body that is too large; beyond, the connection is closed.
_DISCARD_BYTES = 64 * 1024 * 1024
#: Where a dead letter says it came from.
PLACE = "webhook"


@dataclass(eq=False)
class _Waiting:
    events: tuple[BucketEvent, ...]
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class WebhookSource:
    """`token` gives what the store sends, empty = nothing is asked for; it is called for each request."""

    def __init__(
        self,
        *,
        quarantine: Quarantine,
        metrics: WatcherMetrics,
        token: Callable[[], str] = lambda: "",
        max_body_bytes: int = 4 * 1024 * 1024,
        max_waiting: int = 1000,
        answer_s: float = 5.0,
    ) -> None:
        self._quarantine = quarantine
        self._metrics = metrics
        self._token = token
        self._max_body = max_body_bytes
        self._max_waiting = max_waiting
        self._answer_s = answer_s
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        #: Requests that got 503 since events last went through: a store without a queue has lost what was in them.
        self._refused = 0
        self._owes_gap = False

    # HTTP

    async def handle(self, request: web.Request) -> web.Response:
        """The webhook, as a handler of aiohttp."""
        self._under_way += 1
        self._idle.clear()
        try:
            answer = await self._answer(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
        self._metrics.requests.labels(str(answer.status)).inc()
        return answer

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._may(request.headers.get("Authorization", "")):
            log.warning("a webhook request without the right token was refused", action="webhook_unauthorized")
            return _text(401, "this needs the token of the notification target: set its auth_token")
        if self._closing or len(self._waiting) >= self._max_waiting:
            return self._refuse("the watcher is stopping" if self._closing else "too many requests are waiting")
        try:
            async with asyncio.timeout(_BODY_S):
                body, size = await self._body(request)
        except TimeoutError:
            return _text(408, f"the body did not arrive within {_BODY_S:g} s")
        try:
            async with asyncio.timeout(self._answer_s):
                await self._keep(body, size)
        except (TimeoutError, Unavailable):
            return self._refuse("the log does not take events now")
        return web.Response(status=200)

    def _may(self, given: str) -> bool:
        wanted = self._token()
        if not wanted:
            return True
        # As the store sends it: one word becomes a bearer token, anything else is the header itself.
        return any(hmac.compare_digest(given.encode(), one.encode()) for one in (f"Bearer {wanted}", wanted))

    async def _body(self, request: web.Request) -> tuple[bytes, int]:
        """What is kept of the body, and its whole size."""
        kept = bytearray()
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
            kept += chunk[: max(0, self._max_body - len(kept))]
            if size > _DISCARD_BYTES:
                request.protocol.force_close()
                break
        return bytes(kept), size

    async def _keep(self, body: bytes, size: int) -> None:
        """Return when everything in it is safe. Raises Unavailable."""
        if not size:
            return  # stores ask in this way whether somebody is there
        if size > len(body):
            why = f"the body is larger than the {self._max_body} bytes that are taken"
            await self._quarantine.put(body, why, topic=PLACE, size=size)
            return
        found = translate(body)
        await self._put_aside(body, found)
        self._metrics.ignored.inc(found.ignored)
        if not found.events:
            return
        waiting = _Waiting(found.events)
        self._waiting.append(waiting)
        self._news.set()
        try:
            await waiting.done
        finally:
            # The store repeats what was refused; kept as well, an outage would fill the queue with repeats.
            if not waiting.done.done() or waiting.done.cancelled():
                with contextlib.suppress(ValueError):  # it is being published
                    self._waiting.remove(waiting)

    async def _put_aside(self, body: bytes, found: Translation) -> None:
        if not found.quarantined:
            return
        first = found.quarantined[0]
        place = "" if first.index is None else f"record {first.index + 1}: "
        more = f" (and {len(found.quarantined) - 1} more records)" if len(found.quarantined) > 1 else ""
        await self._quarantine.put(body, f"{place}{first.why}{more}", topic=PLACE)

    def _refuse(self, why: str) -> web.Response:
        self._refused += 1
        answer = _text(503, f"{why}; send the event again later")
        answer.headers["Retry-After"] = "1"
        return answer

    # The port

    async def events(self) -> AsyncIterator[list[BucketEvent] | Gap]:
        while True:
            await self._news.wait()
            self._news.clear()
            if self._owes_gap:
                self._owes_gap = False
                yield Gap(why="webhook requests were refused while the log was away")
            while self._waiting:
                batch: list[_Waiting] = []
                events: list[BucketEvent] = []
                while self._waiting and len(events) < _BATCH:
                    batch.append(self._waiting.popleft())
                    events += batch[-1].events
                yield Delivery(events, lambda batch=batch: self._settle(batch))  # type: ignore[misc]
            if self._closing:
                return

    def _settle(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            waiting.settle()
        if self._refused:
            self._refused = 0
            self._owes_gap = True
            self._news.set()

    async def watch_buckets(
        self, buckets: Collection[str], prefixes: Mapping[str, Collection[str]] | None = None
    ) -> None:
        """Nothing to do: the store sends what the buckets' rules say, and those are kept by somebody else."""

    async def drain(self, seconds: float) -> bool:
        """Take nothing new and wait until what was taken is answered; True = all was."""
        self._closing = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._closing = True
        self._news.set()


def _text(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=f"{sentence}\n")
