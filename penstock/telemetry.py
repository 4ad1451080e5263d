"""Sends the traces of ended invocations to an OpenTelemetry collector: OTLP over HTTP, as JSON.

The protocol is one POST, so it needs no library of its own. Traces are a convenience and the work is not: a collector
that is away delays nothing, what does not fit in the buffer is dropped and counted, and it never reaches the user.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

import aiohttp
import msgspec
import structlog
from prometheus_client import Counter

from penstock import __version__
from penstock.errors import InvalidInput
from penstock.model import Record
from penstock.settings_telemetry import TelemetryGroup
from penstock.spans import document

log = structlog.get_logger("telemetry")

#: Invocations in one post.
MOST = 500
#: A collector that says "later" (these), or nothing, is asked again; any other refusal is final.
_LATER = frozenset({429, 502, 503, 504})
_LONGEST_PAUSE_S = 60.0
#: For the last post at a stop, which nobody should have to wait for.
_LAST_S = 2.0

Changes = contextlib.AbstractContextManager[AsyncIterator[Record | None]]


class Exporter:
    """`exported` and `dropped` count ended invocations. Raises InvalidInput for an endpoint that is no HTTP address."""

    def __init__(self, settings: TelemetryGroup, *, exported: Counter, dropped: Counter) -> None:
        if not settings.endpoint.startswith(("http://", "https://")):
            raise InvalidInput(
                f"{settings.endpoint!r} is no HTTP address, for example http://collector:4318",
                where="telemetry.endpoint",
            )
        self._url = settings.endpoint.rstrip("/") + "/v1/traces"
        self._settings = settings
        self._exported, self._dropped = exported, dropped
        self._waiting: deque[Record] = deque()
        self._trouble = ""

    def offer(self, record: Record) -> None:
        """Take a record; only ended invocations matter, and those that their trace wants recorded."""
        trace = record.trigger.trace
        if not record.phase.final or (trace and not int(trace[-2:], 16) & 1):
            return
        if len(self._waiting) >= self._settings.buffer:
            self._waiting.popleft()
            self._dropped.inc()
        self._waiting.append(record)

    async def run(self, changes: Callable[[], Changes]) -> None:
        """Follow the changes and post until cancelled; what waits then is posted once more."""
        async with aiohttp.ClientSession() as session:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(changes), name="telemetry changes")
                    tasks.create_task(self._keep_posting(session), name="telemetry posts")
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_S):
                        await self.turn(session)

    async def _follow(self, changes: Callable[[], Changes]) -> None:
        with changes() as feed:
            async for record in feed:
                if record is None:
                    self._dropped.inc()  # some were missed; how many nobody knows
                else:
                    self.offer(record)

    async def _keep_posting(self, session: aiohttp.ClientSession) -> None:
        pause = self._settings.interval_s
        while True:
            await asyncio.sleep(pause)
            while await self.turn(session) and len(self._waiting) >= MOST:
                pass
            pause = min(_LONGEST_PAUSE_S, pause * 2) if self._trouble else self._settings.interval_s

    async def turn(self, session: aiohttp.ClientSession) -> bool:
        """One post of what waits, at most MOST; False = the collector could not take it now."""
        group = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
        if not group:
            return True
        why = None
        try:
            why = await self._post(session, msgspec.json.encode(document(group, version=__version__)))
        finally:
            if why is None:
                self._waiting.extendleft(reversed(group))
        if why is None:
            return False
        (self._dropped if why else self._exported).inc(len(group))
        return True

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> str | None:
        """Returns "" when they were taken, None when they may be later, else why they never will be."""
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        try:
            async with session.post(
                self._url, data=body, headers={"Content-Type": "application/json"}, timeout=timeout
            ) as answer:
                if answer.status < 300:
                    self._say("")
                    return ""
                why = f"the collector answers {answer.status}: {(await answer.text())[:200]}"
                self._say(why)
                return None if answer.status in _LATER else why
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._say(f"the collector does not answer: {str(error) or type(error).__name__}")
            return None

    def _say(self, trouble: str) -> None:
        """Once for each change."""
        if bool(trouble) != bool(self._trouble):
            if trouble:
                log.warning("traces are not taken", action="telemetry_trouble", error=trouble)
            else:
                log.info("traces are taken again", action="telemetry_resumed")
        self._trouble = trouble


def open_exporter(settings: TelemetryGroup, exported: Counter, dropped: Counter) -> Exporter | None:
    """None = nobody wants traces. Raises InvalidInput."""
    return Exporter(settings, exported=exported, dropped=dropped) if settings.endpoint else None
