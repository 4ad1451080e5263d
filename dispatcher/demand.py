"""What each function will ask of the cluster, for the scaler: the topic `penstock.demand`.

Looked at each second and published when it changed, or after a few seconds all the same, because the scaler takes an
old word for an incomplete view. A function that is gone gets a tombstone, also when it went while nobody was active.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import structlog

from dispatcher.batching import Pace, ideal_items
from dispatcher.settings import DispatcherSettings
from penstock.codec import encode
from penstock.errors import Unavailable
from penstock.model import TOPIC_DEMAND, BatchMode, Function, FunctionDemand
from penstock.ports import EventLog, LogEntry

log = structlog.get_logger("dispatcher.demand")

EVERY_S = 1.0
#: Published again after this long although nothing changed.
AGAIN_MS = 4000


class PodShape(msgspec.Struct, frozen=True, kw_only=True):
    """What pods have in common, whatever their function: what the platform adds, and where they may go."""

    default_cpu_millis: int = 0
    default_memory_bytes: int = 0
    extra_cpu_millis: int = 0
    extra_memory_bytes: int = 0
    gpu_resource: str = ""
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """One function as the dispatcher sees it now."""

    function: Function
    #: Items that have no Job yet, and Jobs that there are.
    queued: int
    running: int
    pace: Pace


def demand_of(backlog: Backlog, shape: PodShape, settings: DispatcherSettings, now: int) -> FunctionDemand:
    """Pure. A function that is paused wants nothing."""
    function, pace = backlog.function, backlog.pace
    resources, batch = function.resources, function.batch
    items = 1
    if batch.mode is BatchMode.AUTO:
        items = ideal_items(pace, settings)
    elif batch.mode is BatchMode.LIST:
        items = batch.max_items
    cpu = shape.default_cpu_millis if resources.cpu_millis is None else resources.cpu_millis
    memory = shape.default_memory_bytes if resources.memory_bytes is None else resources.memory_bytes
    queued = 0 if function.paused else backlog.queued
    return FunctionDemand(
        function=function.name,
        function_uid=function.uid,
        time_ms=now,
        queued=queued,
        running=backlog.running,
        items_per_job=items,
        work_seconds=round(queued * pace.item_s, 3),
        cpu_millis=cpu + shape.extra_cpu_millis,
        memory_bytes=memory + shape.extra_memory_bytes,
        concurrency=function.limits.concurrency,
        gpu=int(resources.gpu),
        gpu_resource=shape.gpu_resource if resources.gpu else "",
        node_selector=shape.node_selector,
        tolerations=shape.tolerations,
    )


class DemandPublisher:
    def __init__(self, event_log: EventLog, *, shape: PodShape, settings: DispatcherSettings) -> None:
        self._log = event_log
        self._shape = shape
        self._settings = settings
        self._told: dict[str, FunctionDemand] | None = None

    async def turn(self, backlogs: Iterable[Backlog], now: int) -> int:
        """Publish what is due; returns how many entries. Trouble with the log is left to the next turn."""
        try:
            return await self._publish(backlogs, now)
        except Unavailable as error:
            log.warning("the demand cannot be published now", action="demand_delayed", error=error.message)
            return 0

    async def _publish(self, backlogs: Iterable[Backlog], now: int) -> int:
        if self._told is None:
            self._told = dict.fromkeys(await self._known(), FunctionDemand(**_NOTHING))
        wanted = {one.function.uid: demand_of(one, self._shape, self._settings, now) for one in backlogs}
        due = {uid: demand for uid, demand in wanted.items() if self._is_due(self._told.get(uid), demand)}
        gone = [uid for uid in self._told if uid not in wanted]
        entries = [LogEntry(uid, encode(demand)) for uid, demand in due.items()]
        entries += [LogEntry(uid, b"") for uid in gone]
        if entries:
            await self._log.append(TOPIC_DEMAND, entries)
        self._told |= due
        for uid in gone:
            del self._told[uid]
        return len(entries)

    @staticmethod
    def _is_due(told: FunctionDemand | None, demand: FunctionDemand) -> bool:
        if told is None or demand.time_ms - told.time_ms >= AGAIN_MS:
            return True
        return msgspec.structs.replace(told, time_ms=demand.time_ms) != demand

    async def _known(self) -> set[str]:
        """Functions that the topic speaks of: what a life before ours published."""
        known: set[str] = set()
        positions: dict[int, int] = {}
        while entries := await self._log.read(TOPIC_DEMAND, positions):
            for entry in entries:
                positions[entry.partition] = entry.offset + 1
                (known.add if entry.value else known.discard)(entry.key)
        return known


_NOTHING: dict[str, Any] = {"function": "", "function_uid": "", "time_ms": 0, "queued": 0, "running": 0}

#: Gives the state of every function; the dispatcher's own.
Backlogs = Callable[[], Iterable[Backlog]]
