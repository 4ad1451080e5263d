"""What happens between the end of a script and its result: walk, publish, archive the log, note the result.

The order is what makes a kill at any step harmless: outputs are durable before the result is noted, and files are
moved only after a plan of where they go has been noted, so a later life can tell "published and moved" from "never
made". Items of one list that have ended are taken together: they share the notes and the disk syncs.
"""
# Plain os calls, no Path objects: once per item; a Path object costs more than the system call
# ruff: noqa: PTH108, PTH123

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dispatcher.process_runner import output_log
from dispatcher.process_runner.job import Item, Job, verdict
from dispatcher.process_runner.layout import Note
from dispatcher.sidecar import answer, outputs
from dispatcher.sidecar.events import Shape, of_item
from dispatcher.sidecar.outputs import Lineage, Prepared, Published
from dispatcher.sidecar.stage import hops_of
from dispatcher.sidecar.verdict import NAMED, judge
from penstock.clock import now_ms
from penstock.errors import InvalidInput, PenstockError
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, ItemResult, Submission
from penstock.model.job import EXIT_PUBLISH
from penstock.model.objects import answer_key, log_key
from penstock.ports import ObjectStore


class _Draft(msgspec.Struct):
    """An item whose outputs are decided on and not yet published."""

    item: Item
    lineage: Lineage
    prepared: Prepared
    #: What it will be once everything is published.
    result: ItemResult


async def finish(
    store: ObjectStore, job: Job, items: Sequence[Item], *, log_limit: int, opened_ms: int
) -> list[ItemResult]:
    """Publish and describe items that have ended, and note their results. `opened_ms`: when this life began."""
    results: dict[int, ItemResult] = {}
    drafts: list[_Draft] = []
    for item in items:
        try:
            drafts.append(await _prepare(store, job, item))
        except (PenstockError, OSError) as error:
            results[item.index] = _failed(item, error)
    moving = [draft for draft in drafts if any(target.consume for target in draft.prepared.targets)]
    if moving:
        try:
            job.folder.note(Note(item=draft.item.index, intent=draft.result) for draft in moving)
        except OSError as error:
            drafts = [draft for draft in drafts if draft not in moving]
            results |= {draft.item.index: _failed(draft.item, error) for draft in moving}
    if len(drafts) == 1:
        done = [await _carry_out(store, job, drafts[0], log_limit, opened_ms)]
    else:
        done = list(await asyncio.gather(*(_carry_out(store, job, draft, log_limit, opened_ms) for draft in drafts)))
    results |= {draft.item.index: result for draft, result in zip(drafts, done, strict=True)}
    with contextlib.suppress(OSError):  # without it a later life finds it out again, by the intent
        job.folder.note(Note(item=index, result=result) for index, result in results.items())
        for item in items:
            item.noted = True
    return [results[item.index] for item in items]


async def _prepare(store: ObjectStore, job: Job, item: Item) -> _Draft:
    error, exit_code, message = verdict(item, job.plan.deadline_s)
    wanted = error is None or (item.job_item.publish_on_failure and error is not ErrorClass.CANCELLED)
    lineage = await _lineage(store, item)
    asked = wants_answer(item)
    prepared = await outputs.prepare(item.folder.outputs, job.plan.outputs, keep=asked) if wanted else Prepared()
    if asked and wanted:
        await _keep_answer(store, job, item, prepared)
    return _Draft(item, lineage, prepared, _result(item, error, exit_code, message, prepared))


async def _carry_out(store: ObjectStore, job: Job, draft: _Draft, log_limit: int, opened_ms: int) -> ItemResult:
    item = draft.item
    try:
        if item.log_size > 0 and draft.prepared.targets:  # side by side their disk syncs cost one wait instead of two
            published, (log_bytes, truncated) = await asyncio.gather(
                _publish(store, draft, opened_ms), _archive(store, job, item, log_limit)
            )
        else:
            published = await _publish(store, draft, opened_ms)
            log_bytes, truncated = await _archive(store, job, item, log_limit)
    except (PenstockError, OSError) as error:
        return _failed(item, error)
    return msgspec.structs.replace(
        judge(draft.result, published),
        published_ms=now_ms() if published.outputs else 0,
        log_bytes=log_bytes,
        log_truncated=truncated,
    )


def _failed(item: Item, error: Exception) -> ItemResult:
    return ItemResult(
        invocation=item.job_item.invocation,
        attempt=item.job_item.attempt,
        error=ErrorClass.PUBLISH,
        exit_code=item.code or EXIT_PUBLISH,
        message=f"the outputs could not be published: {error}",
        started_ms=item.started_ms,
        finished_ms=item.finished_ms,
    )


async def _archive(store: ObjectStore, job: Job, item: Item, limit: int) -> tuple[int, bool]:
    return await output_log.archive(
        store,
        item.folder.log,
        log_key(job.plan.function_uid, item.job_item.invocation, item.job_item.attempt),
        size=item.log_size,
        truncated=item.log_truncated,
        limit=limit,
    )


def _result(
    item: Item, error: ErrorClass | None, exit_code: int | None, message: str, prepared: Prepared
) -> ItemResult:
    notes = "; ".join(prepared.notes[:NAMED])
    return ItemResult(
        invocation=item.job_item.invocation,
        attempt=item.job_item.attempt,
        error=error,
        exit_code=exit_code,
        message="; ".join(filter(None, (message, notes))),
        outputs=tuple(outputs.output_of(target, None, written=True) for target in prepared.targets),
        staged_ms=0 if item.staged is None else item.staged.staged_ms,
        started_ms=item.started_ms,
        finished_ms=item.finished_ms,
        max_rss_bytes=item.max_rss,
    )


def _is_first(item: Item, opened_ms: int) -> bool:
    """Nothing of this invocation can have been published yet, so there is no need to look: it is the first attempt, of
    a Job that no earlier life ran, on an input that came after this life had begun. The last point is for a power
    failure: the Job's folder may be lost while what it published is on disk, and the same attempt is submitted again.
    """
    trigger = item.job_item.trigger
    came_ms = trigger.arrived_ms if isinstance(trigger, BucketEvent) else trigger.time_ms
    return item.job_item.attempt == 1 and not item.recovered and came_ms > opened_ms


async def _publish(store: ObjectStore, draft: _Draft, opened_ms: int) -> Published:
    item, prepared, lineage = draft.item, draft.prepared, draft.lineage
    # A forced run writes again, but not what this very attempt wrote before a crash.
    blind = (item.job_item.force and not item.recovered) or _is_first(item, opened_ms)
    published = await outputs.publish(store, prepared, lineage, force=blind)
    intent = item.intent
    if intent is None:
        return published
    here = {(target.bucket, target.key) for target in prepared.targets}
    moved = [output for output in intent.outputs if (output.bucket, output.key) not in here]
    there = await outputs.confirm(store, moved, lineage)
    found = {(output.bucket, output.key) for output in there}
    gone = tuple(
        f"{output.bucket}/{output.key} was published before a crash and has been replaced or deleted since"
        for output in moved
        if (output.bucket, output.key) not in found
    )
    return Published((*there, *published.outputs), published.missing + gone)


async def _lineage(store: ObjectStore, item: Item) -> Lineage:
    trigger = item.job_item.trigger
    hops = item.staged.hops if item.staged is not None else 0
    if item.staged is None and isinstance(trigger, BucketEvent):
        hops = trigger.hops or 0
        if trigger.hops is None:
            with contextlib.suppress(PenstockError):  # the input is gone by now: a later hop counts from here
                hops = hops_of(await store.head(trigger.bucket, trigger.key, version_id=trigger.version_id))
    about = item.job_item
    return Lineage(invocation=about.invocation, input=trigger.identity, hops=hops, trace=about.traceparent)


def wants_answer(item: Item) -> bool:
    """Somebody waits for a synchronous answer, and the body was plain data (storage events answer with the output)."""
    trigger = item.job_item.trigger
    if not isinstance(trigger, Submission) or not trigger.answer:
        return False
    if item.staged is not None:
        return item.staged.given.shape is Shape.RAW
    try:
        return trigger.body_key is not None or of_item(item.job_item).shape is Shape.RAW
    except InvalidInput:
        return False


async def _keep_answer(store: ObjectStore, job: Job, item: Item, prepared: Prepared) -> None:
    path = f"{item.folder.root}/answer"

    def make() -> bool:
        with open(path, "wb") as sink:
            return answer.write_answer(prepared.files, sink)

    if await asyncio.to_thread(make):
        key = answer_key(job.plan.function_uid, item.job_item.invocation, item.job_item.attempt)
        await store.publish(Path(path), SYSTEM_BUCKET, key, consume=True)
    else:
        os.unlink(path)
