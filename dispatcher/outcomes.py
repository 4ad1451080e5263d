"""Outcomes: from what the runner reports to final records, retries and free slots.

A Job is forgotten by the runner only after the final record of every item is durable; until then its results can be
read again. Reports may repeat and come late: a record that has moved on ignores them.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from dispatcher.batching import Pace
from dispatcher.lifecycle import Step, advance, is_stale, settle
from dispatcher.metrics import DispatcherMetrics
from dispatcher.patience import patiently
from dispatcher.recorder import Recorder
from dispatcher.running import Running
from dispatcher.scheduler import Scheduler
from dispatcher.settings import DispatcherSettings
from penstock.clock import now_ms
from penstock.model import ErrorClass, ItemResult, JobPhase, JobStatus, Phase, Record
from penstock.ports import Runner

log = structlog.get_logger("dispatcher.outcomes")

#: A Job that the runner took this long ago and does not know any more is lost. One whose submission is still under way
#: is not, however long that takes: the API server may be slow, and this process may have been paused.
LOST_AFTER_MS = 5000
#: What a Job waits for is written into its items' history once it has lasted this long: most of it passes by itself.
NAMED_AFTER_MS = 5000


class Outcomes:
    def __init__(
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        recorder: Recorder,
        settings: DispatcherSettings,
        metrics: DispatcherMetrics,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._recorder = recorder
        self._settings = settings
        self._metrics = metrics
        self.epoch = 0
        #: Jobs whose deletion is under way, and Jobs that nobody here knows, as of the last look.
        self._forgetting: set[str] = set()
        self._strangers: set[str] = set()

    async def run(self) -> None:
        async for status in self._runner.watch():
            self.handle(status)

    def handle(self, status: JobStatus) -> None:
        """Take one report of the runner."""
        job = self._scheduler.jobs.get(status.name)
        if job is None:
            return
        now = now_ms()
        changed = [self._settle(job, result, now) for result in status.results if _open(job, result) is not None]
        if status.current is not None and status.current != job.current:
            job.current = status.current
            job.current_ms = status.time_ms or now
            job.first_start_ms = job.first_start_ms or job.current_ms
        ended = status.phase in {JobPhase.FINISHED, JobPhase.LOST}
        if status.phase is not JobPhase.PENDING:
            self._scheduler.began(status.name)
        if not ended:
            troubled = bool(status.reason) and not status.scripts_done
            self._scheduler.note(job, status.message if troubled else "", now, reason=status.reason)
            changed += self._named(job, now)
        if status.scripts_done and not ended:
            self._scheduler.release(status.name)
        if ended:
            changed += [self._settle(job, result, now) for result in _lost(job, status)]
            self._scheduler.ended(status.name)
        if changed or ended:
            future = self._recorder.write(changed)
            future.add_done_callback(partial(self._durable, job, changed, ended))

    def _named(self, job: Running, now: int) -> list[Record]:
        """The items' records with the words for what their Job waits for, once for each attempt."""
        if not job.waits or now - job.waits_ms < NAMED_AFTER_MS:
            return []
        named = [
            advance(record, Step.SUBMIT, now=now, epoch=self.epoch, note=job.waits, reason=job.waits)
            for record in job.records.values()
            if record.phase is Phase.PLANNED and record.job == job.plan.name
        ]
        job.records |= {record.id: record for record in named}
        return named

    def _settle(self, job: Running, result: ItemResult, now: int) -> Record:
        lane = self._scheduler.admission.lanes.get(job.plan.function_uid)
        retries = lane.function.retries if lane is not None else 0
        record = settle(
            job.records[result.invocation], result, retries=retries, settings=self._settings, now=now, epoch=self.epoch
        )
        job.records[result.invocation] = record
        self._measure(job, result, lane.pace if lane is not None else Pace(), record)
        return record

    def _measure(self, job: Running, result: ItemResult, pace: Pace, record: Record) -> None:
        outcome = "succeeded" if result.error is None else result.error.value
        if not result.started_ms:
            self._metrics.ended(job.plan.function, outcome)
            return
        took = max(0, result.finished_ms - result.started_ms) / 1000
        first = result.invocation == job.plan.items[0].invocation
        start = max(0, result.started_ms - job.submitted_ms) / 1000 if first and job.submitted_ms else None
        pace.observe(start_s=start, item_s=took)
        self._metrics.ended(
            job.plan.function,
            outcome,
            waited_s=max(0, result.started_ms - record.queued_ms) / 1000,
            ran_s=took,
            start_s=start,
            publish_s=max(0, result.published_ms - result.finished_ms) / 1000 if result.published_ms else None,
        )

    def _durable(self, job: Running, changed: list[Record], ended: bool, future: asyncio.Future[list[Record]]) -> None:
        if future.cancelled():
            return
        requeued = [record for record in changed if record.phase is Phase.QUEUED]
        for record in changed:
            if record.phase.final:
                self._scheduler.settled(record)
        self._scheduler.queued(requeued)
        if ended:
            self._scheduler.jobs.pop(job.plan.name, None)
            self.forget(job.plan.name, job.plan.function_uid)
            self._scheduler.kick()

    def forget(self, name: str, function_uid: str = "") -> None:
        """Its final records are durable: have the runner remove it, in the background, until it has."""
        self._forgetting.add(name)
        self._scheduler.spawn(self._forget(name, function_uid), f"forget {name}")

    async def _forget(self, name: str, function_uid: str) -> None:
        await patiently("forget", lambda: self._runner.forget(name))
        self._forgetting.discard(name)
        self._scheduler.gone(function_uid)

    def note_running(self, now: int) -> None:
        """Write `running` for items that have run for a while, so that people see them; short ones cost nothing."""
        threshold = int(self._settings.running_record_after_s * 1000)
        changed = []
        for job in self._scheduler.jobs.values():
            if job.current is None or now - job.current_ms < threshold:
                continue
            record = job.running_now()
            if record is not None and record.phase in {Phase.PLANNED, Phase.SUBMITTED}:
                record = advance(
                    record, Step.START, now=job.current_ms, epoch=self.epoch, started_ms=job.current_ms, reason=""
                )
                job.records[record.id] = record
                changed.append(record)
        self._recorder.write(changed)

    async def reconcile(self) -> None:
        """Compare what should be with what the runner has: reports that were missed, Jobs that vanished."""
        statuses = {status.name: status for status in await self._runner.jobs()}
        now = now_ms()
        for name, job in list(self._scheduler.jobs.items()):
            if not job.in_runner:
                continue
            status = statuses.get(name)
            if status is not None:
                self.handle(status)
            elif job.taken_ms and now - job.taken_ms > LOST_AFTER_MS:
                log.warning("a Job vanished", action="job_lost", job=name, function=job.plan.function)
                self.handle(JobStatus(name=name, phase=JobPhase.LOST, message="the Job vanished from the runner"))
        self._remove_strangers(set(statuses) - set(self._scheduler.jobs) - self._forgetting)

    def _remove_strangers(self, strangers: set[str]) -> None:
        """A Job that nothing waits for, seen twice: one that a predecessor submitted with its last breath."""
        for name in strangers & self._strangers:
            log.warning("a Job that nothing waits for is removed", action="job_orphaned", job=name)
            self.forget(name)
        self._strangers = strangers


def _open(job: Running, result: ItemResult) -> Record | None:
    """The record that a result settles, or None when the result is old news."""
    record = job.records.get(result.invocation)
    if record is None or is_stale(record, job.plan.name, result.attempt):
        return None
    return record


def _lost(job: Running, status: JobStatus) -> list[ItemResult]:
    """Results for the items that ended without one."""
    why = status.message or "the Job ended without a result for this item"
    return [
        ItemResult(
            invocation=record.id,
            attempt=record.attempt,
            error=ErrorClass.CANCELLED if record.id in job.cancel else ErrorClass.LOST,
            message=job.cancel.get(record.id, why),
        )
        for record in job.records.values()
        if not is_stale(record, job.plan.name, record.attempt)
    ]
