"""What happens between the end of a script and its result: walk, publish, archive the log, write the result.

The order is what makes a kill at any step harmless: outputs are durable before the result is written, and files are
moved only after a plan of where they go has been written, so a later life can tell "published and moved" from "never
made".
"""
# Plain os calls, no Path objects: once per item; a Path object costs more than the system call
# ruff: noqa: PTH108, PTH123

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec

from dispatcher.process_runner import output_log
from dispatcher.process_runner.job import Item, Job, verdict
from dispatcher.sidecar import answer, outputs
from dispatcher.sidecar.events import Shape, of_item
from dispatcher.sidecar.outputs import Lineage, Prepared, Published
from dispatcher.sidecar.stage import hops_of
from penstock.clock import now_ms
from penstock.errors import InvalidInput, PenstockError
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, ItemResult, Submission
from penstock.model.job import EXIT_PUBLISH
from penstock.ports import ObjectStore

_NAMED = 3


async def finish(store: ObjectStore, job: Job, item: Item, *, log_limit: int) -> ItemResult:
    """Publish and describe an item that has ended. Writes its result file."""
    error, exit_code, message = verdict(item, job.plan.deadline_s)
    wanted = error is None or (item.job_item.publish_on_failure and error is not ErrorClass.CANCELLED)
    lineage = await _lineage(store, item)
    asked = wants_answer(item)
    prepared = await outputs.prepare(item.folder.outputs, job.plan.outputs, keep=asked) if wanted else Prepared()
    if asked and wanted:
        await _keep_answer(store, item, prepared)
    draft = _result(item, error, exit_code, message, prepared)
    moves = any(target.consume for target in prepared.targets)
    if moves:
        item.folder.intend(draft)
    if item.log_size > 0 and prepared.targets:  # side by side their disk syncs cost one wait instead of two
        published, (log_bytes, truncated) = await asyncio.gather(
            _publish(store, item, prepared, lineage), _archive(store, item, log_limit)
        )
    else:
        published = await _publish(store, item, prepared, lineage)
        log_bytes, truncated = await _archive(store, item, log_limit)
    result = msgspec.structs.replace(
        _judge(draft, published),
        published_ms=now_ms() if published.outputs else 0,
        log_bytes=log_bytes,
        log_truncated=truncated,
    )
    if moves and result.error is draft.error:
        item.folder.carry_out()
    else:
        item.folder.settle(result)
    return result


async def _archive(store: ObjectStore, item: Item, limit: int) -> tuple[int, bool]:
    return await output_log.archive(
        store,
        item.folder.log,
        item.job_item.invocation,
        item.job_item.attempt,
        size=item.log_size,
        truncated=item.log_truncated,
        limit=limit,
    )


def _result(
    item: Item, error: ErrorClass | None, exit_code: int | None, message: str, prepared: Prepared
) -> ItemResult:
    notes = "; ".join(prepared.notes[:_NAMED])
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


def _judge(draft: ItemResult, published: Published) -> ItemResult:
    """What was really published decides: a script that succeeded and whose outputs are not all there has failed."""
    result = msgspec.structs.replace(draft, outputs=published.outputs)
    missing = published.missing
    if not missing:
        return result
    more = f" (and {len(missing) - _NAMED} more)" if len(missing) > _NAMED else ""
    text = "; ".join(filter(None, (draft.message, *missing[:_NAMED]))) + more
    if draft.error is not None:  # the script's own code is what the user looks for
        return msgspec.structs.replace(result, message=text)
    return msgspec.structs.replace(result, error=ErrorClass.PUBLISH, exit_code=EXIT_PUBLISH, message=text)


async def _publish(store: ObjectStore, item: Item, prepared: Prepared, lineage: Lineage) -> Published:
    # A forced run writes again, but not what this very attempt wrote before a crash.
    force = item.job_item.force and not item.recovered
    published = await outputs.publish(store, prepared, lineage, force=force)
    intent = item.folder.intent() if item.recovered else None
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
    return Lineage(invocation=item.job_item.invocation, input=trigger.identity, hops=hops)


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


async def _keep_answer(store: ObjectStore, item: Item, prepared: Prepared) -> None:
    path = f"{item.folder.root}/answer"

    def make() -> bool:
        with open(path, "wb") as sink:
            return answer.write_answer(prepared.files, sink)

    if await asyncio.to_thread(make):
        key = answer.answer_key(item.job_item.invocation, item.job_item.attempt)
        await store.publish(Path(path), SYSTEM_BUCKET, key, consume=True)
    else:
        os.unlink(path)
