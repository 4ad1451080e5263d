"""The scheduler: moves items from the queue into Jobs, as fast as there is room and in fair order.

Order of writes: the records say `planned`, durably, before the Job is submitted, so that recovery submits the same Job
again and never a list formed anew. To keep slots busy all the same, a few Jobs are planned ahead of the room for them;
when a slot is given back the next one is submitted at once, without waiting for the disk.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from dispatcher.admission import Admission, Lane
from dispatcher.ahead import Ahead
from dispatcher.batching import list_size
from dispatcher.lifecycle import Step, advance
from dispatcher.metrics import DispatcherMetrics
from dispatcher.plan import make_plan
from dispatcher.recorder import Recorder
from dispatcher.running import Running
from dispatcher.settings import DispatcherSettings
from dispatcher.slots import Slots
from dispatcher.window import Window
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Forbidden, InvalidInput, Unavailable
from penstock.model import BatchMode, ErrorClass, Function, Phase, Record
from penstock.ports import Ledger, Runner

log = structlog.get_logger("dispatcher.scheduler")

#: After a refusal of the runner: how long a Job, or a function over its quota, waits.
REFUSED_MS = 1000
QUOTA_MS = 10_000
#: Wake-up when nothing is known to be due: only a safety net behind the events.
LONGEST_SLEEP_S = 5.0


class Scheduler:
    def __init__(
        self,
        *,
        ledger: Ledger,
        runner: Runner,
        recorder: Recorder,
        slots: Slots,
        settings: DispatcherSettings,
        metrics: DispatcherMetrics,
        epoch: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._runner = runner
        self._recorder = recorder
        self.slots = slots
        self._settings = settings
        self._metrics = metrics
        self._epoch = epoch
        self.admission = Admission()
        self.windows: dict[str, Window] = {}
        self.jobs: dict[str, Running] = {}
        self._ahead: Ahead[Running] = Ahead()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._released = asyncio.Event()
        self._failure: BaseException | None = None
        self.draining = False
        #: Cancelled while their record was still in the queue: never planned, even if a refill brings them back.
        self._withdrawn: set[str] = set()

    # ---- what others tell

    def put(self, function: Function, *, waiting: bool) -> None:
        """A function exists or changed. `waiting` = the ledger may have queued records of it."""
        self.admission.put(function)
        if function.uid not in self.windows:
            self.windows[function.uid] = Window(self._settings.window, complete=not waiting)
        self.kick()

    def drop(self, uid: str) -> list[Running]:
        """A function was deleted; returns its Jobs, those not yet submitted taken out of the plan."""
        self.windows.pop(uid, None)
        self.admission.drop(uid)
        self._ahead.drop(uid)
        return [job for job in self.jobs.values() if job.plan.function_uid == uid]

    def queued(self, records: Sequence[Record]) -> None:
        """These records are durably queued."""
        for record in records:
            window = self.windows.get(record.function_uid)
            if window is not None and not record.phase.final:
                window.push(record)
        if records:
            self.kick()

    def settled(self, record: Record) -> None:
        window = self.windows.get(record.function_uid)
        if window is not None:
            window.settled(record.id)
        self._withdrawn.discard(record.id)

    def withdraw(self, record: Record) -> bool:
        """Take a queued record out. False = it is in a Job already."""
        if self.job_of(record.id) is not None:
            return False
        self._withdrawn.add(record.id)
        window = self.windows.get(record.function_uid)
        if window is not None:
            window.remove(record.id)
        return True

    def job_of(self, invocation: str) -> Running | None:
        """The Job that has this invocation's turn now or next."""
        for job in self.jobs.values():
            record = job.records.get(invocation)
            if record is not None and not record.phase.final and record.phase is not Phase.QUEUED:
                return job
        return None

    def kick(self) -> None:
        self._wake.set()

    # ---- the loop

    async def run(self) -> None:
        while True:
            wait_s = await self.turn()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def turn(self) -> float:
        """Plan and submit what can be; returns the seconds until something may be due by itself."""
        self._wake.clear()
        if self._failure is not None:
            raise self._failure
        await self._refill()
        self.submit_ready()
        # One round plans at most what fits ahead; go on while rounds bring something.
        while not self.draining and await self._plan_round():
            self.submit_ready()
            await self._refill()
        return self._sleep_s(now_ms())

    async def wait_idle(self) -> None:
        """Return when the runner has nothing left."""
        while any(job.in_runner for job in self.jobs.values()):
            self._released.clear()
            await self._released.wait()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refill(self) -> None:
        for uid, window in list(self.windows.items()):
            if window.wants_refill:
                skipped, asked = window.skipped, self._settings.window
                rows = await self._ledger.queue(uid, after=window.horizon, limit=asked)
                window.refill(rows, asked=asked, skipped=skipped)

    async def _plan_round(self) -> bool:
        now = now_ms()
        planned: list[tuple[Running, list[Record]]] = []
        counts: Counter[str] = Counter()
        while (job := self._next_job(now, counts)) is not None:
            counts[job.plan.function_uid] += 1
            planned.append((job, list(job.records.values())))
        if not planned:
            return False
        await self._recorder.write([record for _, records in planned for record in records])
        for job, _ in planned:
            # A function deleted meanwhile took its Jobs along.
            if job.plan.name in self.jobs:
                self._ahead.push(job)
        return True

    def _may_plan(self, uid: str, counts: Counter[str]) -> bool:
        """Each function fills the free room at once, plus a few that wait for the next slot; all together not more
        than a bound, or a thousand functions would plan thousands of Jobs.
        """
        free = 0 if self._full() else self.slots.free(None)
        most = free + self._settings.ahead
        together = len(self._ahead) + counts.total()
        return self._ahead.count(uid) + counts[uid] < most and together < max(most, self._settings.ahead_total)

    def _full(self) -> bool:
        room = self.slots.room.cpu_millis
        return room is not None and self.slots.cpu_millis + self.slots.room.default_cpu_millis > room

    def _next_job(self, now: int, counts: Counter[str]) -> Running | None:
        """Form the next list in fair order, or None when nobody may plan anything."""
        due = [
            uid for uid, window in self.windows.items() if self._may_plan(uid, counts) and window.due(now) is not None
        ]
        for uid in self.admission.order(due):
            lane = self.admission.lanes[uid]
            self.admission.busy(uid)
            if self.admission.check(lane, now) is not None:
                continue
            records = self._take(lane, self.windows[uid], now)
            if records:
                return self._form(lane.function, records, now)
        return None

    def _take(self, lane: Lane, window: Window, now: int) -> list[Record]:
        batch = lane.function.batch
        if batch.mode is BatchMode.SINGLE:
            size, max_bytes = 1, 0
        else:
            most = max(batch.max_items, self._settings.auto_max_items if batch.mode is BatchMode.AUTO else 1)
            due = window.count_due(now, most)
            if due < most and self._lingers(lane, window, now):
                return []
            free = self.slots.free(lane.function.resources.cpu_millis)
            # Slots that `concurrency` keeps this function from using are no reason to split a list.
            free = min(free, lane.function.limits.concurrency or free)
            size = list_size(batch, lane.pace, due=due, free_slots=free, settings=self._settings)
            max_bytes = batch.max_bytes
        if lane.function.limits.rate:
            size = max(1, min(size, int(lane.tokens)))
        records = window.take(now, size, max_bytes)
        if not len(window):
            self.admission.idle(lane.function.uid)
        return [record for record in records if record.id not in self._withdrawn]

    def _lingers(self, lane: Lane, window: Window, now: int) -> bool:
        oldest = window.oldest()
        linger_ms = int(lane.function.batch.linger_s * 1000)
        return oldest is not None and now < oldest.not_before_ms + linger_ms

    def _form(self, function: Function, records: list[Record], now: int) -> Running:
        plan = make_plan(function, records)
        planned = {
            record.id: advance(record, Step.PLAN, now=now, epoch=self._epoch(), job=plan.name, index=index)
            for index, record in enumerate(records)
        }
        job = Running(plan, planned)
        self.jobs[plan.name] = job
        self.admission.planned(function.uid, len(records), now)
        return job

    # ---- submitting

    def adopt(self, job: Running, *, running: bool) -> None:
        """Recovery found this Job: running already, or planned and to be submitted."""
        self.jobs[job.plan.name] = job
        self.admission.planned(job.plan.function_uid, len(job.records), now_ms())
        if running:
            self._hold(job)
        else:
            self._ahead.push(job)

    def submit_ready(self) -> None:
        """Submit planned Jobs while there is room, whose function it is by fair order."""
        while not self.draining:
            ready = self._ahead.ready(now_ms())
            if not ready:
                return
            uid = self.admission.order(ready)[0]
            # The one whose turn it is waits for enough room; others going first would starve what needs much.
            if not self.slots.fits(self._ahead.first(uid).plan):
                return
            job = self._ahead.pop(uid)
            self._hold(job)
            self.spawn(self._submit(job), f"submit {job.plan.name}")

    def _hold(self, job: Running) -> None:
        self.slots.take(job.plan)
        job.in_runner = True
        self.admission.started(job.plan.function_uid, job.plan.name, len(job.plan.items))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run a short piece of work beside the loop; should it fail unexpectedly, the loop fails with it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self.kick()

    async def _submit(self, job: Running) -> None:
        plan = job.plan
        job.submitted_ms = now_ms()
        try:
            await self._runner.submit(plan)
        except Unavailable as error:
            self._later(job, REFUSED_MS, error.message)
        except Forbidden as error:
            self.admission.park(plan.function_uid, error.message, now_ms() + QUOTA_MS)
            self._later(job, QUOTA_MS, error.message)
        except (InvalidInput, AlreadyExists) as error:
            log.error("a Job was refused", action="job_refused", job=plan.name, error=error.message)
            await self.fail(job, ErrorClass.UNSTARTABLE, f"the Job was refused: {error.message}")
        else:
            self._metrics.jobs.labels(plan.function).inc()
            for invocation, reason in job.cancel.items():
                await self._runner.cancel(plan.name, invocation=invocation, reason=reason)

    def _later(self, job: Running, delay_ms: int, why: str) -> None:
        log.warning("a Job has to wait", action="job_delayed", job=job.plan.name, error=why)
        self.slots.give_back(job.plan.name)
        self.admission.refused(job.plan.name)
        job.in_runner = False
        job.not_before_ms = now_ms() + delay_ms
        self._ahead.push(job)
        self.kick()

    async def fail(self, job: Running, error: ErrorClass, reason: str) -> None:
        """End every item of a Job that never ran: nothing that retrying would mend."""
        now = now_ms()
        records = [
            advance(
                record, Step.DIE, now=now, epoch=self._epoch(), note=reason, error=error, reason=reason, finished_ms=now
            )
            for record in job.records.values()
            if not record.phase.final
        ]
        self.ended(job.plan.name)
        self.jobs.pop(job.plan.name, None)
        await self._recorder.write(records)
        for record in records:
            self.settled(record)

    def release(self, name: str) -> None:
        """No script of the Job runs any more: its slot is free, and the next planned Job takes it at once. May be
        told again.
        """
        job = self.jobs.get(name)
        if job is None:
            return
        start = job.first_start_ms or job.submitted_ms
        self.admission.ended(name, max(0.0, (now_ms() - start) / 1000) if start else 0.0)
        self.slots.give_back(name)
        self.submit_ready()
        self.kick()

    def ended(self, name: str) -> None:
        """The runner is done with the Job."""
        if name in self.jobs:
            self.jobs[name].in_runner = False
        self.release(name)
        self._released.set()

    # ---- answers

    def why_waiting(self, uid: str, now: int) -> str:
        """A sentence on why a function's next item has not started, "" = nothing waits."""
        window, lane = self.windows.get(uid), self.admission.lanes.get(uid)
        if window is None or lane is None or not len(window):
            return ""
        wait = self.admission.check(lane, now)
        if wait is not None:
            return wait.why
        due = window.next_due()
        if due is not None and due > now:
            return f"the next attempt is due in {(due - now) / 1000:.0f} s"
        if lane.function.batch.mode is not BatchMode.SINGLE and self._lingers(lane, window, now):
            return f"collects a list of up to {lane.function.batch.max_items} items (batch)"
        return self.slots.describe()

    def _sleep_s(self, now: int) -> float:
        soonest = now + int(LONGEST_SLEEP_S * 1000)
        for uid, window in self.windows.items():
            due = window.next_due()
            if due is None:
                continue
            lane = self.admission.lanes[uid]
            wait = self.admission.check(lane, now)
            if wait is not None:
                due = max(due, wait.until_ms) if wait.until_ms is not None else soonest
            elif due <= now and self._lingers(lane, window, now):
                due += int(lane.function.batch.linger_s * 1000)
            elif due <= now:
                continue  # waits for room: a release will kick
            soonest = min(soonest, max(due, now + 1))
        later = self._ahead.next_due(now)
        if later is not None:
            soonest = min(soonest, later)
        return max(0.001, (soonest - now) / 1000)
