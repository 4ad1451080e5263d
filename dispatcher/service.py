"""The dispatcher as a service: its loops, their order of start, and what others may ask it.

Order of start: the ledger is brought up to the end of the log, the registry is read, unfinished Jobs are taken over,
and only then do the loops begin. One active dispatcher exists at a time; its epoch is higher than that of every
predecessor, so whatever a predecessor still writes loses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog
from prometheus_client import CollectorRegistry

from dispatcher.batching import gain, ideal_items
from dispatcher.commands import Commands
from dispatcher.demand import Backlog
from dispatcher.functions import Functions, TableChange
from dispatcher.intake import Intake
from dispatcher.metrics import DispatcherMetrics
from dispatcher.outcomes import Outcomes
from dispatcher.preparation import Gate, Preparation
from dispatcher.recorder import ChangeFeed, Recorder
from dispatcher.recovery import recover
from dispatcher.scheduler import Scheduler
from dispatcher.settings import DispatcherSettings
from dispatcher.slots import Slots
from dispatcher.waiting import stuck_reasons, why_waiting
from penstock.clock import now_ms
from penstock.errors import Unavailable
from penstock.follow import RecordFollower
from penstock.model import TOPIC_EVENTS, TOPIC_RECORDS, Function, Phase, Record
from penstock.ports import EventLog, Ledger, ObjectStore, Registry, Runner
from penstock.tasks import Supervisor, every

log = structlog.get_logger("dispatcher.service")

RECONCILE_S = 10.0
TICK_S = 0.5
RETRY_S = 1.0


class BatchGain(msgspec.Struct, frozen=True, kw_only=True):
    """What `batch: auto` would give a function that runs one item per Job, by its own measured times."""

    items: int
    times_faster: float
    start_s: float
    item_s: float


class FunctionStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    uid: str
    paused: bool
    concurrency: int
    #: Jobs that hold a slot, and those of them that wait for a place in the cluster.
    running: int
    pending: int = 0
    phases: dict[Phase, int]
    #: Why its next item has not started, "" = nothing waits.
    waiting_for: str
    batch: BatchGain | None


class DispatcherStatus(msgspec.Struct, frozen=True, kw_only=True):
    functions: list[FunctionStatus]
    cpu_millis_total: int | None
    cpu_millis_used: int
    #: Entries of the event log that intake has not taken yet.
    events_pending: int
    #: Why nothing can be recorded right now, "" = all is well.
    trouble: str


class Dispatcher:
    def __init__(
        self,
        *,
        log: EventLog,
        ledger: Ledger,
        registry: Registry,
        runner: Runner,
        store: ObjectStore,
        settings: DispatcherSettings | None = None,
        metrics: CollectorRegistry | DispatcherMetrics | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._registry = registry
        self._runner = runner
        self._store = store
        self._settings = settings or DispatcherSettings()
        if not isinstance(metrics, DispatcherMetrics):
            metrics = DispatcherMetrics(metrics or CollectorRegistry())
        self._metrics = metrics
        self._preparation = preparation
        self._functions = Functions(registry)
        self._recorder = Recorder(log, ledger, self._metrics)
        self._epoch = 0
        self._scheduler: Scheduler | None = None
        self._gate: Gate | None = None
        self._commands: Commands | None = None
        self._supervisor = Supervisor()

    async def run(self, ready: asyncio.Event | None = None, *, epoch: int = 0) -> None:
        """Become active and work until cancelled; raises what stopped a loop. `epoch` = the least that it may be; it
        is higher in any case than that of every record there is.
        """
        self._epoch = max(await self._catch_up() + 1, epoch)
        scheduler = Scheduler(
            ledger=self._ledger,
            runner=self._runner,
            recorder=self._recorder,
            slots=Slots(await self._runner.room()),
            settings=self._settings,
            metrics=self._metrics,
            epoch=lambda: self._epoch,
        )
        self._scheduler = scheduler
        self._gate = Gate(self._preparation, scheduler, self._functions.current)
        outcomes = Outcomes(
            runner=self._runner,
            scheduler=scheduler,
            recorder=self._recorder,
            settings=self._settings,
            metrics=self._metrics,
        )
        outcomes.epoch = self._epoch
        self._commands = commands = self._make_commands(scheduler)
        intake = self._make_intake(scheduler)
        supervisor = self._supervisor
        try:
            supervisor.start("recorder", self._recorder.run())
            await self._refresh()
            await recover(
                ledger=self._ledger,
                runner=self._runner,
                table=self._functions.table,
                scheduler=scheduler,
                recorder=self._recorder,
                outcomes=outcomes,
                settings=self._settings,
                epoch=self._epoch,
            )
            supervisor.start("outcomes", outcomes.run())
            supervisor.start("reconcile", self._reconcile(scheduler, outcomes))
            supervisor.start("scheduler", scheduler.run())
            supervisor.start("commands", commands.run())
            await self._take_in_backlog(intake)
            supervisor.start("intake", intake.run())
            supervisor.start("registry", self._follow_registry())
            supervisor.start("tick", self._tick(scheduler, outcomes))
            self._metrics.active.set(1)
            self._metrics.epoch.set(self._epoch)
            log.info("dispatcher is active", action="active", epoch=self._epoch)
            if ready is not None:
                ready.set()
            await supervisor.run()
        finally:
            await scheduler.close()
            await supervisor.close()

    async def drain(self, deadline_s: float) -> bool:
        """Start nothing more and wait for what runs; True = everything ended in time."""
        if self._scheduler is None:
            return True
        self._scheduler.draining = True
        try:
            async with asyncio.timeout(deadline_s):
                await self._scheduler.wait_idle()
        except TimeoutError:
            return False
        return True

    async def quiesce(self, deadline_s: float) -> bool:
        """Start nothing more, and wait until what was begun (submissions, records) is done; Jobs go on. True = it was
        done in time.
        """
        if self._scheduler is None:
            return True
        self._scheduler.draining = True
        try:
            async with asyncio.timeout(deadline_s):
                await self._scheduler.wait_submitted()
                await self._recorder.settled()
        except TimeoutError:
            return False
        return True

    async def status(self) -> DispatcherStatus:
        functions = await self.function_statuses()
        scheduler = self._scheduler
        room = scheduler.slots.room.cpu_millis if scheduler is not None else None
        return DispatcherStatus(
            functions=functions,
            cpu_millis_total=room,
            cpu_millis_used=scheduler.slots.cpu_millis if scheduler is not None else 0,
            events_pending=await self._events_pending(),
            trouble=self._recorder.trouble,
        )

    async def function_statuses(self) -> list[FunctionStatus]:
        """Every function as it is now, from what is here: asks nobody."""
        counts, now = await self._ledger.counts(), now_ms()
        return [
            self._function_status(function, counts.get(function.uid, {}), now)
            for function in self._functions.table.by_uid.values()
        ]

    async def backlogs(self) -> list[Backlog]:
        """What every function has waiting for a Job; [] before the dispatcher is active."""
        scheduler = self._scheduler
        if scheduler is None:
            return []
        counts = await self._ledger.counts()
        return [
            Backlog(
                function=lane.function,
                queued=counts.get(uid, {}).get(Phase.QUEUED, 0) + scheduler.ahead.count(uid),
                running=lane.running,
                pace=lane.pace,
            )
            for uid, lane in scheduler.admission.lanes.items()
        ]

    def changes(self) -> ChangeFeed:
        """Every record change from this call on; None = some were dropped because the follower was slow."""
        return self._recorder.changes()

    async def forget(self, records: Sequence[Record]) -> list[str]:
        """End these invocations' lives in the history, except those that have changed since; returns whose."""
        return await self._recorder.forget(records)

    @property
    def commands(self) -> Commands:
        """For dry runs of backfill and replay. Raises RuntimeError before the dispatcher is active."""
        if self._commands is None:
            raise RuntimeError("the dispatcher is not active yet")
        return self._commands

    async def _take_in_backlog(self, intake: Intake) -> None:
        """What a previous life accepted and did not record is listed before this one says that it is ready; a long
        backlog is not waited for.
        """
        deadline = now_ms() + int(self._settings.ready_intake_s * 1000)
        while now_ms() < deadline:
            try:
                if not await intake.turn():
                    return
            except Unavailable:
                return  # the loop tries again and says so

    # ---- parts

    def _make_commands(self, scheduler: Scheduler) -> Commands:
        return Commands(
            event_log=self._log,
            ledger=self._ledger,
            store=self._store,
            runner=self._runner,
            functions=self._functions,
            scheduler=scheduler,
            recorder=self._recorder,
            epoch=lambda: self._epoch,
            refresh=self._refresh,
        )

    def _make_intake(self, scheduler: Scheduler) -> Intake:
        return Intake(
            event_log=self._log,
            ledger=self._ledger,
            functions=self._functions,
            recorder=self._recorder,
            metrics=self._metrics,
            batch=self._settings.intake_batch,
            epoch=lambda: self._epoch,
            on_table=self._apply_table,
            on_queued=scheduler.queued,
        )

    async def _catch_up(self) -> int:
        """Bring the ledger to the end of the log; returns a number that grows with the log."""
        await RecordFollower(self._log, self._ledger).catch_up()
        return sum((await self._log.end(TOPIC_RECORDS)).values())

    async def _refresh(self) -> None:
        change = await self._functions.refresh()
        if change is not None:
            await self._apply_table(change)

    async def _apply_table(self, change: TableChange) -> None:
        scheduler, commands, gate = self._scheduler, self.commands, self._gate
        assert scheduler is not None
        assert gate is not None
        stats = {stat.function_uid for stat in await self._ledger.queue_stats()}
        for function in (*change.added, *change.changed):
            scheduler.put(function, waiting=function.uid in stats)
            gate.close(function)
        for function in change.removed:
            await commands.cancel_function(function.uid, function.name)
        if change.first:
            await self._cancel_orphans(stats)
        for function in change.added:
            if function.existing:
                # Beside intake, not in it: listing a large bucket takes its time.
                scheduler.spawn(self._fill_back(function, first=change.first), f"fill back {function.name}")

    async def _cancel_orphans(self, queued: set[str]) -> None:
        """Work of functions that were deleted while nobody was there."""
        for uid in queued - set(self._functions.table.by_uid):
            rows = await self._ledger.queue(uid, limit=1)
            await self.commands.cancel_function(uid, rows[0][1].function if rows else uid)

    async def _fill_back(self, function: Function, *, first: bool) -> None:
        """`start: existing` is a backfill at deploy. After a restart only a function without any record may lack it."""
        if first and (await self._ledger.counts(function.uid)).get(function.uid):
            return
        touched = await self.commands.backfill(function)
        log.info("existing objects queued", action="fill_back", function=function.name, queued=touched)

    async def _follow_registry(self) -> None:
        async for _ in self._registry.watch():
            while True:
                try:
                    await self._refresh()
                except Unavailable as error:
                    log.warning("the functions cannot be read", action="refresh_retry", error=error.message)
                    await asyncio.sleep(RETRY_S)
                else:
                    break

    async def _reconcile(self, scheduler: Scheduler, outcomes: Outcomes) -> None:
        async def turn() -> None:
            await outcomes.reconcile()
            if self._gate is not None:
                await self._gate.tidy(self._functions.table.by_uid)
            stats, now = {stat.function_uid: stat for stat in await self._ledger.queue_stats()}, now_ms()
            for uid, lane in scheduler.admission.lanes.items():
                stat = stats.get(uid)
                age_s = (now - stat.oldest_ms) / 1000 if stat is not None else 0.0
                self._metrics.depth(lane.function.name, stat.queued if stat is not None else 0, age_s)
            self._metrics.retain({lane.function.name for lane in scheduler.admission.lanes.values()})

        await every(RECONCILE_S, turn)

    async def _tick(self, scheduler: Scheduler, outcomes: Outcomes) -> None:
        async def turn() -> None:
            if scheduler.jobs:
                outcomes.note_running(now_ms())
            self._measure(scheduler)

        await every(TICK_S, turn)

    def _measure(self, scheduler: Scheduler) -> None:
        self._metrics.pending.set(scheduler.slots.pending)
        self._metrics.stuck_jobs(stuck_reasons(scheduler.stuck, scheduler.jobs))
        for lane in scheduler.admission.lanes.values():
            self._metrics.running.labels(lane.function.name).set(lane.running)

    async def _events_pending(self) -> int:
        end = await self._log.end(TOPIC_EVENTS)
        done = await self._log.committed("penstock.dispatcher", TOPIC_EVENTS)
        return sum(max(0, offset - done.get(partition, 0)) for partition, offset in end.items())

    def _function_status(self, function: Function, phases: dict[Phase, int], now: int) -> FunctionStatus:
        scheduler = self._scheduler
        lane = scheduler.admission.lanes.get(function.uid) if scheduler is not None else None
        suggestion = None
        if lane is not None and function.batch.max_items == 1 and gain(lane.pace, self._settings) > 1.2:
            suggestion = BatchGain(
                items=ideal_items(lane.pace, self._settings),
                times_faster=round(gain(lane.pace, self._settings), 1),
                start_s=round(lane.pace.start_s, 4),
                item_s=round(lane.pace.item_s, 4),
            )
        return FunctionStatus(
            name=function.name,
            uid=function.uid,
            paused=function.paused,
            concurrency=function.limits.concurrency,
            running=lane.running if lane is not None else 0,
            pending=scheduler.slots.pending_of(function.uid) if scheduler is not None else 0,
            phases=phases,
            waiting_for=why_waiting(scheduler, function.uid, now) if scheduler is not None else "",
            batch=suggestion,
        )
