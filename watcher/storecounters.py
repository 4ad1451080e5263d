"""Watches the object store's own counters of events that it dropped: when one moves, everything is listed.

MinIO never fails an upload because of a notification; a full queue or a target that refuses shows in its metrics alone.
A counter is compared with its last value only, and one that fell belongs to a store that was restarted, which is a sign
of loss as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import Callable, Mapping

import aiohttp
import structlog
from prometheus_client.parser import text_string_to_metric_families

from penstock.errors import Forbidden, Unavailable, Unsupported
from penstock.ports import Gap
from watcher.metrics import WatcherMetrics

log = structlog.get_logger("watcher.storecounters")

#: Counters whose growth means lost events, by the end of their names (a subsystem's prefix differs by version). With a
#: `queue_dir` the second counts only what could not be queued.
LOSSES = ("notify_events_skipped", "notify_target_failed_events")
_QUEUED = "notify_target_queue_length"
_DEADLINE_S = 10.0
#: While events are lost all the time, everything is listed after pauses that double up to so many looks.
_RAREST = 16
_MAX_BYTES = 32 * 1024 * 1024


def read_counters(text: str) -> tuple[dict[str, float], float]:
    """Of a page of metrics: the loss counters, summed over servers and targets, and the events that are queued.
    Raises ValueError for what is no such page.
    """
    losses: dict[str, float] = {}
    queued = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The reader puts `_total` behind every counter.
            name = next((end for end in LOSSES if sample.name.removesuffix("_total").endswith(end)), "")
            if name:
                losses[name] = losses.get(name, 0.0) + sample.value
            elif sample.name.endswith(_QUEUED):
                queued += sample.value
    return losses, queued


def moved(before: Mapping[str, float], now: Mapping[str, float]) -> str:
    """A sentence when events were lost between two looks, or the store was restarted; else empty."""
    for name, value in now.items():
        old = before.get(name)
        if old is not None and value > old:
            return f"the object store lost events: its counter {name} went from {old:g} to {value:g}"
        if old is not None and value < old:
            return "the object store was restarted: its counters began anew"
    return ""


def bearer(access_key: str, secret_key: str, now_s: float) -> str:
    """The token that MinIO asks for at its metrics: the account's own signature over its name, good for a minute."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=")
        for part in ({"alg": "HS512", "typ": "JWT"}, {"exp": int(now_s) + 60, "sub": access_key, "iss": "prometheus"})
    )
    signature = hmac.new(secret_key.encode(), head + b"." + body, hashlib.sha512).digest()
    return b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


class StoreCounters:
    """`url` is the page of metrics, `account` gives access and secret key. `lost` is called when events were lost."""

    def __init__(
        self,
        *,
        url: str,
        account: Callable[[], tuple[str, str]],
        lost: Callable[[Gap], None],
        metrics: WatcherMetrics,
        tls: ssl.SSLContext | bool = True,
        interval_s: float = 30.0,
    ) -> None:
        self._url = url
        self._account = account
        self._lost = lost
        self._metrics = metrics
        self._tls = tls
        self._interval_s = interval_s
        self._before: dict[str, float] = {}
        self._owed = ""
        self._pause_looks = 1
        self._looks_left = 0
        self._trouble = ""

    async def run(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_DEADLINE_S)) as session:
            while True:
                await self.turn(session)
                await asyncio.sleep(self._interval_s)

    async def turn(self, session: aiohttp.ClientSession) -> None:
        try:
            now, queued = read_counters(await self._page(session))
        except (Unavailable, Forbidden, Unsupported, ValueError) as error:
            if str(error) != self._trouble:
                log.info("the object store's counters are not watched", action="counters_failed", error=str(error))
            self._trouble = str(error)
            return
        self._trouble = ""
        self._metrics.store_queued.set(queued)
        for name, value in now.items():
            self._metrics.store_lost.labels(name).set(value)
        self._judge(moved(self._before, now))
        self._before = now

    def _judge(self, why: str) -> None:
        self._owed = why or self._owed
        self._looks_left = max(0, self._looks_left - 1)
        if self._owed and not self._looks_left:
            self._lost(Gap(why=self._owed))
            self._owed = ""
            self._looks_left = self._pause_looks
            self._pause_looks = min(2 * self._pause_looks, _RAREST)
        elif not self._owed and not self._looks_left:
            self._pause_looks = 1

    async def _page(self, session: aiohttp.ClientSession) -> str:
        headers = {"Authorization": f"Bearer {bearer(*self._account(), time.time())}"}
        try:
            async with session.get(self._url, headers=headers, allow_redirects=False, ssl=self._tls) as answer:
                if answer.status in {401, 403}:
                    raise Forbidden("the object store's metrics need the right admin:Prometheus of our account")
                if answer.status != 200:
                    raise Unsupported(f"the object store answers {answer.status} where its metrics should be")
                body = await answer.content.read(_MAX_BYTES)
                while not answer.content.at_eof() and len(body) < _MAX_BYTES:
                    body += await answer.content.read(_MAX_BYTES - len(body))
                return body.decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(f"the object store's metrics cannot be read: {type(error).__name__}") from error
