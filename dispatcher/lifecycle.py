"""The life of an invocation as a table: which step leads from which phase to which. Pure.

A step that the table lacks raises with the invocation's story: it is a bug of the dispatcher, never a user's mistake.
Late or repeated reports are filtered by `is_stale` before they get here.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from dispatcher.retry import Blame, backoff_ms, blame
from dispatcher.settings import DispatcherSettings
from penstock.model import FINAL_PHASES, ErrorClass, Function, ItemResult, Mark, Phase, Record, Trigger


class Step(enum.StrEnum):
    PLAN = "plan"
    SUBMIT = "submit"
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    DIE = "die"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"
    SKIP = "skip"
    RETRY = "retry"
    REPLAY = "replay"


_ENDS: dict[Step, Phase] = {
    Step.SUCCEED: Phase.SUCCEEDED,
    Step.FAIL: Phase.FAILED,
    Step.DIE: Phase.DEAD,
    Step.CANCEL: Phase.CANCELLED,
    Step.SUPERSEDE: Phase.SUPERSEDED,
    Step.SKIP: Phase.SKIPPED,
    Step.RETRY: Phase.QUEUED,
}

TABLE: dict[tuple[Phase, Step], Phase] = {
    (Phase.QUEUED, Step.PLAN): Phase.PLANNED,
    (Phase.QUEUED, Step.CANCEL): Phase.CANCELLED,
    (Phase.PLANNED, Step.SUBMIT): Phase.SUBMITTED,
    (Phase.PLANNED, Step.START): Phase.RUNNING,
    (Phase.SUBMITTED, Step.START): Phase.RUNNING,
    # A result may be the first that is heard of a planned Job: it ran while nobody listened.
    **{(Phase.PLANNED, step): phase for step, phase in _ENDS.items()},
    **{(Phase.SUBMITTED, step): phase for step, phase in _ENDS.items()},
    **{(Phase.RUNNING, step): phase for step, phase in _ENDS.items()},
    **{(phase, Step.REPLAY): Phase.QUEUED for phase in FINAL_PHASES},
}


class ImpossibleStep(AssertionError):
    """A step that the table lacks; the message tells the invocation's story."""


def advance(record: Record, step: Step, *, now: int, epoch: int, note: str = "", **changes: Any) -> Record:
    """Return the record after one step, with a new line in its timeline. Raises ImpossibleStep."""
    phase = TABLE.get((record.phase, step))
    if phase is None:
        story = "; ".join(
            f"{mark.time_ms} {mark.phase} #{mark.attempt} {mark.note}".strip() for mark in record.timeline
        )
        raise ImpossibleStep(f"invocation {record.id} in phase {record.phase} cannot {step} (story: {story})")
    attempt = record.attempt + 1 if phase is Phase.QUEUED else record.attempt
    timeline = (*record.timeline, Mark(phase, now, attempt, note))
    return msgspec.structs.replace(
        record,
        phase=phase,
        attempt=attempt,
        epoch=epoch,
        timeline=timeline,
        **changes,
    )


def queued(invocation: str, function: Function, trigger: Trigger, *, now: int, epoch: int) -> Record:
    """The first record of an invocation."""
    return Record(
        id=invocation,
        function=function.name,
        function_uid=function.uid,
        generation=function.generation,
        trigger=trigger,
        phase=Phase.QUEUED,
        epoch=epoch,
        not_before_ms=now,
        queued_ms=now,
        timeline=(Mark(Phase.QUEUED, now, 1, ""),),
    )


def refused(record: Record, phase: Phase, reason: str, error: ErrorClass, *, now: int) -> Record:
    """A first record that is final at once: nothing ran and nothing will."""
    return msgspec.structs.replace(
        record,
        phase=phase,
        error=error,
        reason=reason,
        finished_ms=now,
        timeline=(Mark(phase, now, 1, reason),),
    )


def is_stale(record: Record, job: str, attempt: int) -> bool:
    """Tell whether a report about (job, attempt) no longer concerns this record."""
    return record.phase.final or record.job != job or record.attempt != attempt or record.phase is Phase.QUEUED


def settle(
    record: Record, result: ItemResult, *, retries: int, settings: DispatcherSettings, now: int, epoch: int
) -> Record:
    """Return what an item's result makes of its record: an end, or the next attempt in the queue.

    `retries` is the function's own budget for its script's failures.
    """
    record = _with_run(record, result)
    facts: dict[str, Any] = {
        "error": result.error,
        "exit_code": result.exit_code,
        "reason": result.message,
        "outputs": result.outputs,
        "log_bytes": result.log_bytes,
        "log_truncated": result.log_truncated,
        "started_ms": result.started_ms,
        "finished_ms": result.published_ms or result.finished_ms or now,
    }
    if result.error is None:
        return advance(record, Step.SUCCEED, now=now, epoch=epoch, **facts)
    if blame(result.error) is Blame.NOBODY:
        return advance(record, _END_OF[result.error], now=now, epoch=epoch, note=result.message, **facts)
    by_script = blame(result.error) is Blame.SCRIPT
    failures = 1 + (record.script_failures if by_script else record.platform_failures)
    facts["script_failures" if by_script else "platform_failures"] = failures
    if failures <= (retries if by_script else settings.platform_retries):
        delay = backoff_ms(record.id, failures, settings)
        facts |= {"not_before_ms": now + delay, "job": "", "index": 0}
        note = f"attempt {record.attempt} ended: {result.message}; next attempt in {delay / 1000:.1f} s"
        return advance(record, Step.RETRY, now=now, epoch=epoch, note=note, **facts)
    end = Step.FAIL if by_script else Step.DIE
    return advance(record, end, now=now, epoch=epoch, note=result.message, **facts)


_END_OF = {
    ErrorClass.SUPERSEDED: Step.SUPERSEDE,
    ErrorClass.GONE: Step.SKIP,
    ErrorClass.HOP_LIMIT: Step.SKIP,
    ErrorClass.CANCELLED: Step.CANCEL,
    ErrorClass.INVALID: Step.FAIL,
}


def _with_run(record: Record, result: ItemResult) -> Record:
    """Put the `running` line into the timeline of an item that ended before anybody wrote it."""
    if not result.started_ms or record.phase is Phase.RUNNING:
        return record
    mark = Mark(Phase.RUNNING, result.started_ms, record.attempt, "")
    return msgspec.structs.replace(record, phase=Phase.RUNNING, timeline=(*record.timeline, mark))
