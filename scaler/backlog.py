"""What the dispatcher has waiting, read from its topic: work that will become pods, seen before it does.

The topic holds the newest entry of each function, published each second. That they keep coming is the proof that the
view is fresh: when the dispatcher stops, the view ages, and the engine neither wakes nor lets go by it. One partition
more or less tells nothing about a function that says no more: an entry older than the view by a minute is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from penstock.model import TOPIC_DEMAND, FunctionDemand
from penstock.ports import EventLog
from scaler.model import View

log = structlog.get_logger("scaler")

#: Every function with work is published each second; one that is not was deleted or has nothing.
FORGET_MS = 60_000
_LIMIT = 1000
_decode = msgspec.json.Decoder(FunctionDemand).decode


class Backlog:
    """Follows `penstock.demand` from its beginning; nothing is committed, since every life reads all of it."""

    def __init__(self, events: EventLog, *, changed: Callable[[], None]) -> None:
        self._log = events
        self._changed = changed
        self._positions: dict[int, int] = {}
        self._functions: dict[str, FunctionDemand] = {}
        self._newest_ms = 0
        self._caught_up = False

    async def turn(self, *, wait_s: float = 1.0) -> None:
        """Read what is there, or wait for it. Raises as `EventLog.read`."""
        if not self._caught_up:
            ends = await self._log.end(TOPIC_DEMAND)
        entries = await self._log.read(TOPIC_DEMAND, self._positions, limit=_LIMIT, wait_s=wait_s)
        before = {uid: (one.queued, one.running) for uid, one in self._functions.items()}
        for entry in entries:
            self._positions[entry.partition] = entry.offset + 1
            self._take(entry.key, entry.value)
        if not self._caught_up:
            self._caught_up = len(entries) < _LIMIT or all(
                self._positions.get(partition, 0) >= end for partition, end in ends.items()
            )
        if before != {uid: (one.queued, one.running) for uid, one in self._functions.items()}:
            self._changed()

    def _take(self, key: str, value: bytes) -> None:
        if not value:
            self._functions.pop(key, None)
            return
        try:
            demand = _decode(value)
        except msgspec.DecodeError as error:
            log.warning("an entry of the backlog cannot be read", action="backlog_unread", key=key, error=str(error))
            return
        self._newest_ms = max(self._newest_ms, demand.time_ms)
        self._functions[demand.function_uid] = demand

    def look(self) -> tuple[tuple[FunctionDemand, ...], View | None]:
        """Every function's newest word, and how old the newest of all is; None = there is no function."""
        now = self._newest_ms
        if self._caught_up and not self._functions:
            return (), None
        functions = tuple(one for one in self._functions.values() if one.time_ms >= now - FORGET_MS)
        return functions, View(as_of_ms=now, complete=self._caught_up)
