"""Work that another process runs, seen from its traces: the ledger kept from the history, and what the dispatcher
publishes about what waits.

The dispatcher's demand is an entry per function each second or so. One that has grown old means that nobody is active;
the status says so instead of showing yesterday's numbers.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from dispatcher.intake import GROUP
from dispatcher.service import DispatcherStatus, FunctionStatus
from penstock.clock import now_ms
from penstock.codec import decode_demand
from penstock.errors import Unavailable
from penstock.follow import RecordFollower
from penstock.model import TOPIC_DEMAND, TOPIC_EVENTS, Function, FunctionDemand, Phase
from penstock.ports import EventLog, Ledger, Registry, StoredEntry

log = structlog.get_logger("gateway.remote")

RETRY_S = 1.0
#: Demand this old tells nothing any more: it is published every few seconds while a dispatcher is active.
STALE_MS = 30_000


class DemandView:
    """The newest demand of each function, by uid."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._positions: dict[int, int] = {}
        self.known: dict[str, FunctionDemand] = {}

    async def run(self, *, wait_s: float = 5.0) -> None:
        """Follow until cancelled; an absent log is waited for."""
        while True:
            try:
                await self.turn(wait_s=wait_s)
            except Unavailable as error:
                log.warning("the demand cannot be followed", action="demand_retry", error=error.message)
                await asyncio.sleep(RETRY_S)

    async def turn(self, *, wait_s: float = 0.0) -> int:
        """Take in what is there; returns how many entries. Raises Unavailable."""
        entries = await self._log.read(TOPIC_DEMAND, self._positions, limit=1000, wait_s=wait_s)
        for entry in entries:
            self._positions[entry.partition] = entry.offset + 1
            self._take(entry)
        return len(entries)

    def _take(self, entry: StoredEntry) -> None:
        if not entry.value:
            self.known.pop(entry.key, None)
            return
        try:
            self.known[entry.key] = decode_demand(entry.value)
        except msgspec.DecodeError as error:
            log.error("an entry of the demand cannot be read", action="bad_demand", error=str(error))


class RemoteWork:
    """A `WorkView` of the dispatcher in another process."""

    def __init__(
        self,
        *,
        event_log: EventLog,
        ledger: Ledger,
        registry: Registry,
        follower: RecordFollower,
        demand: DemandView,
    ) -> None:
        self._log = event_log
        self._ledger = ledger
        self._registry = registry
        self._follower = follower
        self._demand = demand

    async def status(self) -> DispatcherStatus:
        counts = await self._ledger.counts()
        now = now_ms()
        functions = [
            self._function(function, counts.get(function.uid, {}), now) for function in await self._registry.list()
        ]
        used = sum(one.cpu_millis * one.running for one in self._demand.known.values())
        return DispatcherStatus(
            functions=functions,
            cpu_millis_total=None,
            cpu_millis_used=used,
            events_pending=await self._events_pending(),
            trouble=self._follower.trouble,
        )

    def _function(self, function: Function, phases: dict[Phase, int], now: int) -> FunctionStatus:
        demand = self._demand.known.get(function.uid)
        waiting = phases.get(Phase.QUEUED, 0)
        return FunctionStatus(
            name=function.name,
            uid=function.uid,
            paused=function.paused,
            concurrency=function.limits.concurrency,
            running=demand.running if demand is not None else phases.get(Phase.RUNNING, 0),
            phases=phases,
            waiting_for=_why(function, waiting, demand, now),
            batch=None,
        )

    async def _events_pending(self) -> int:
        end = await self._log.end(TOPIC_EVENTS)
        done = await self._log.committed(GROUP, TOPIC_EVENTS)
        return sum(max(0, offset - done.get(partition, 0)) for partition, offset in end.items())


def _why(function: Function, waiting: int, demand: FunctionDemand | None, now: int) -> str:
    """Why the next item has not started, as far as it can be told from here."""
    if not waiting:
        return ""
    if function.paused:
        return "the function is paused"
    if demand is None or now - demand.time_ms > STALE_MS:
        return "no dispatcher is active"
    if demand.concurrency and demand.running >= demand.concurrency:
        return f"its limit of {demand.concurrency} at once"
    return "room in the cluster"
