"""Recovery: what a new life of the dispatcher makes of what the old one left unfinished.

Every unfinished record names its Job. A Job that the runner knows is followed again. One that it does not know may have
ended and be gone while nobody was there: its results are looked for first. Without any it was either planned and never
submitted, then the identical Job is submitted now, or it is lost, and its items get a further attempt. Jobs that no
unfinished record names are finished business and are forgotten.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import msgspec
import structlog

from dispatcher.lifecycle import Step, advance, settle
from dispatcher.outcomes import Outcomes
from dispatcher.patience import patiently
from dispatcher.plan import make_plan
from dispatcher.recorder import Recorder
from dispatcher.routing import RoutingTable
from dispatcher.running import Running
from dispatcher.scheduler import Scheduler
from dispatcher.settings import DispatcherSettings
from penstock.clock import now_ms
from penstock.model import ErrorClass, ItemResult, JobPhase, JobPlan, JobStatus, Phase, Record
from penstock.ports import KeepsResults, Ledger, Runner

log = structlog.get_logger("dispatcher.recovery")


async def recover(
    *,
    ledger: Ledger,
    runner: Runner,
    table: RoutingTable,
    scheduler: Scheduler,
    recorder: Recorder,
    outcomes: Outcomes,
    settings: DispatcherSettings,
    epoch: int,
) -> None:
    """Take over every unfinished Job. The scheduler knows all functions already and does not run yet."""
    by_job: dict[str, list[Record]] = defaultdict(list)
    for record in await ledger.unfinished():
        by_job[record.job].append(record)
    known = {status.name: status for status in await runner.jobs()}
    changed: list[Record] = []
    for name, records in by_job.items():
        records.sort(key=lambda record: record.index)
        status = known.pop(name, None)
        function = table.by_uid.get(records[0].function_uid)
        if function is None:
            changed += await _cancel(runner, name, records, status, epoch)
            continue
        plan = make_plan(function, records)
        job = Running(msgspec.structs.replace(plan, name=name), {record.id: record for record in records})
        if status is not None:
            scheduler.adopt(job, running=True)
            outcomes.handle(status)
        elif results := await _left_behind(runner, job.plan):
            scheduler.adopt(job, running=True)
            message = "the Job was gone after a restart and left no result of this item"
            outcomes.handle(JobStatus(name=name, phase=JobPhase.LOST, results=tuple(results), message=message))
        elif plan.name == name and all(record.phase is Phase.PLANNED for record in records):
            scheduler.adopt(job, running=False)
        else:
            changed += [_lost(record, function.retries, settings, epoch) for record in records]
    if by_job:
        log.info("took over unfinished Jobs", action="recovered", jobs=len(by_job), lost=len(changed))
    for record in await recorder.write(changed):
        scheduler.queued([record] if record.phase is Phase.QUEUED else [])
    for name in known:
        await patiently("cancel", partial(runner.cancel, name, reason="nothing waits for this Job any more"))
        outcomes.forget(name)


async def _left_behind(runner: Runner, plan: JobPlan) -> list[ItemResult]:
    if not isinstance(runner, KeepsResults):
        return []
    return await patiently("read results", partial(runner.left_behind, plan))


async def _cancel(
    runner: Runner, name: str, records: list[Record], status: JobStatus | None, epoch: int
) -> list[Record]:
    """The function was deleted while nobody was there: stop what runs, end the records."""
    reason = f"the function {records[0].function} was deleted"
    if status is not None:
        await patiently("cancel", partial(runner.cancel, name, reason=reason))
        await patiently("forget", partial(runner.forget, name))
    now = now_ms()
    return [
        advance(
            record,
            Step.CANCEL,
            now=now,
            epoch=epoch,
            note=reason,
            error=ErrorClass.CANCELLED,
            reason=reason,
            finished_ms=now,
        )
        for record in records
    ]


def _lost(record: Record, retries: int, settings: DispatcherSettings, epoch: int) -> Record:
    result = ItemResult(
        invocation=record.id,
        attempt=record.attempt,
        error=ErrorClass.LOST,
        message="the Job was gone after a restart and left no result",
    )
    return settle(record, result, retries=retries, settings=settings, now=now_ms(), epoch=epoch)
