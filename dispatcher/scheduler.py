"""The scheduler: moves items from the queue into Jobs, as fast as there is room and in fair order.

Order of writes: the records say `planned`, durably, before the Job is submitted, so that recovery submits the same Job
again and never a list formed anew. To keep slots busy all the same, a few Jobs are planned ahead of the room for them;
when a slot is given back the next one is submitted at once, without waiting for the disk. Few are submitted at a time,
however much room there is; the others wait here, where the fair order decides until the last moment.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import structlog

from dispatcher.admission import Admission
from dispatcher.ahead import ROUND, Ahead
from dispatcher.lifecycle import Step, advance
from dispatcher.lists import take_list
from dispatcher.metrics import DispatcherMetrics
from dispatcher.patience import patiently
from dispatcher.plan import make_plan
from dispatcher.recorder import Recorder
from dispatcher.running import Running, note_waiting
from dispatcher.settings import DispatcherSettings
from dispatcher.slots import Slots
from dispatcher.submissions import Submissions
from dispatcher.waiting import seconds_until_due
from dispatcher.window import Window
from penstock.clock import now_ms
from penstock.errors import AlreadyExists, Forbidden, InvalidInput, Unavailable
from penstock.model import ErrorClass, Function, Phase, Record
from penstock.ports import Ledger, Runner

log = structlog.get_logger("dispatcher.scheduler")

#: How long a Job waits that the runner could not take.
REFUSED_MS = 1000
#: Wake-up when nothing is known to be due: only a safety net behind the events.
LONGEST_SLEEP_S = 5.0
#: How long the event loop is held to form plans; what is left is for the next round.
ROUND_S = 0.05


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
        self.ahead: Ahead[Running] = Ahead()
        #: What Jobs wait for in the cluster, by function and Job.
        self.stuck: dict[str, dict[str, str]] = {}
        self._submissions = Submissions()
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
        self.ahead.drop(uid)
        self.stuck.pop(uid, None)
        self.kick()
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

    def block(self, uid: str, why: str) -> None:
        """Nothing of a function starts while `why` is not empty."""
        self.admission.block(uid, why)
        self.submit_ready()
        self.kick()

    def began(self, name: str) -> None:
        """The Job does not wait for a place any more. May be told again."""
        if self.slots.began(name):
            self.submit_ready()
            self.kick()

    def gone(self, uid: str) -> None:
        """A Job of this function was removed altogether: a quota has room for another."""
        self.admission.room_freed(uid)
        self.submit_ready()
        self.kick()

    def note(self, job: Running, waits: str, now: int, *, reason: str = "") -> None:
        """What a Job waits for in the cluster, as a sentence and as the runner's word; "" = nothing is wrong."""
        note_waiting(self.stuck, job, waits, now, reason)

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
        return seconds_until_due(self, now_ms(), LONGEST_SLEEP_S)

    async def wait_idle(self) -> None:
        """Return when the runner has nothing left."""
        while any(job.in_runner for job in self.jobs.values()):
            self._released.clear()
            await self._released.wait()

    async def wait_submitted(self) -> None:
        """Return when no submission is under way."""
        while pending := [task for task in self._tasks if task.get_name().startswith("submit ")]:
            await asyncio.wait(pending)

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
        now, begun = now_ms(), time.monotonic()
        planned: list[tuple[Running, list[Record]]] = []
        counts: Counter[str] = Counter()
        free, most = self._room(now)
        while len(planned) < most and (job := self._next_job(now, counts, free)) is not None:
            counts[job.plan.function_uid] += 1
            planned.append((job, list(job.records.values())))
            if time.monotonic() - begun >= ROUND_S:
                break
        if not planned:
            return False
        await self._recorder.write([record for _, records in planned for record in records])
        self.ahead.took((now_ms() - now) / 1000)
        for job, _ in planned:
            if job.plan.name in self.jobs:  # a function deleted meanwhile took its Jobs along
                self.ahead.push(job)
        return True

    def _room(self, now: int) -> tuple[int, int]:
        """How many Jobs each function may plan for free room, beside a few that wait for the next slot; and how many
        may be planned now of all together, or a thousand functions would plan thousands of Jobs.
        """
        crowded = self._crowded(now)
        free = 0 if crowded or self.slots.full else min(self.slots.plannable(), ROUND)
        return free, (ROUND if crowded else free) + self._settings.ahead_total - self._waiting_ahead(now)

    def _waiting_ahead(self, now: int) -> int:
        """Planned Jobs that nothing but room keeps; those of a parked function are in nobody's way."""
        return sum(count for uid, count in self.ahead.counts() if self.admission.held(uid, now) is None)

    def _crowded(self, now: int) -> bool:
        """Enough is planned for the submissions to come. Planning again only at half of it makes rounds large."""
        return self._submissions.full and self._waiting_ahead(now) > ROUND // 2

    def _next_job(self, now: int, counts: Counter[str], free: int) -> Running | None:
        """Form the next list in fair order, or None when nobody may plan anything. `counts`: planned already."""
        due = [
            uid
            for uid, window in self.windows.items()
            if self.ahead.count(uid) + counts[uid] < free + self._depth(uid) and window.due(now) is not None
        ]
        for uid in self.admission.order(due):
            lane = self.admission.lanes[uid]
            self.admission.busy(uid)
            if self.admission.check(lane, now) is not None:
                continue
            taken = take_list(lane, self.windows[uid], self.slots, self._settings, now)
            if not len(self.windows[uid]):
                self.admission.idle(uid)
            if records := [record for record in taken if record.id not in self._withdrawn]:
                return self._form(lane.function, records, now)
        return None

    def _depth(self, uid: str) -> int:
        return self.ahead.depth(self.admission.lanes.get(uid), self.slots, self._settings.ahead)

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
            self.ahead.push(job)

    def submit_ready(self) -> None:
        """Submit planned Jobs while there is room, whose function it is by fair order."""
        while not self.draining and not self._submissions.full and (job := self._next_ready(now_ms())) is not None:
            self._hold(job)
            self._submissions.begin(job.plan.function_uid)
            self.spawn(self._submit(job), f"submit {job.plan.name}")

    def _next_ready(self, now: int) -> Running | None:
        for uid in self.admission.order(self.ahead.ready(now)):
            if self.admission.held(uid, now) is not None or not self.slots.may_pend(uid):
                continue
            if self.admission.lanes[uid].trials and self._submissions.of(uid):
                continue
            # The one whose turn it is waits for enough room; others going first would starve what needs much.
            return self.ahead.pop(uid) if self.slots.fits(self.ahead.first(uid).plan) else None
        return None

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
            taken = await self._offer(job)
        finally:
            crowded = self._crowded(now_ms())
            self._submissions.end(plan.function_uid)
        self.submit_ready()
        if crowded and not self._crowded(now_ms()):
            self.kick()
        if taken:
            for invocation, reason in job.cancel.items():
                await patiently("cancel", partial(self._runner.cancel, plan.name, invocation=invocation, reason=reason))

    async def _offer(self, job: Running) -> bool:
        """Whether the runner took the Job; what else it may say is dealt with."""
        plan = job.plan
        try:
            await self._runner.submit(plan)
        except Unavailable as error:
            self._later(job, REFUSED_MS, error.message)
        except Forbidden as error:
            self.admission.park(plan.function_uid, error.message, now_ms())
            self._later(job, 0, error.message)
        except (InvalidInput, AlreadyExists) as error:
            log.error("a Job was refused", action="job_refused", job=plan.name, error=error.message)
            await self.fail(job, ErrorClass.UNSTARTABLE, f"the Job was refused: {error.message}")
        else:
            job.taken_ms = now_ms()
            self._metrics.submitted(plan.function, job.waited_s())
            if self.admission.accepted(plan.function_uid):
                self.kick()
            return True
        return False

    def _later(self, job: Running, delay_ms: int, why: str) -> None:
        log.warning("a Job has to wait", action="job_delayed", job=job.plan.name, error=why)
        self.slots.give_back(job.plan.name)
        self.admission.refused(job.plan.name)
        job.in_runner = False
        job.not_before_ms = now_ms() + delay_ms
        self.ahead.push(job)
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
            self.note(self.jobs[name], "", now_ms())
        self.release(name)
        self._released.set()
