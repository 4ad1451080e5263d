"""How the platform's records look to clients. Pure; the types are those that clients decode."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.access import Caller, invocation_token, may_change
from penstock import answers
from penstock.model import BucketEvent, Function, Phase, Record, StorageIO

_RUNNING = (Phase.PLANNED, Phase.SUBMITTED, Phase.RUNNING)


def invocation(record: Record, *, timeline: bool = False) -> answers.Invocation:
    trigger = record.trigger
    return answers.Invocation(
        id=record.id,
        function=record.function,
        phase=record.phase.value,
        attempt=record.attempt,
        bucket=trigger.bucket if isinstance(trigger, BucketEvent) else None,
        key=trigger.key if isinstance(trigger, BucketEvent) else None,
        size=trigger.size,
        submission=None if isinstance(trigger, BucketEvent) else trigger.id,
        queued_ms=record.queued_ms,
        started_ms=record.started_ms,
        finished_ms=record.finished_ms,
        exit_code=record.exit_code,
        error=record.error.value if record.error is not None else None,
        reason=record.reason,
        job=record.job,
        outputs=tuple(
            answers.Output(bucket=output.bucket, key=output.key, size=output.size, sha256=output.sha256)
            for output in record.outputs
        ),
        log_bytes=record.log_bytes,
        log_truncated=record.log_truncated,
        not_before_ms=record.not_before_ms,
        force=record.force,
        timeline=tuple(
            answers.Step(phase=mark.phase.value, time_ms=mark.time_ms, attempt=mark.attempt, note=mark.note)
            for mark in (record.timeline if timeline else ())
        ),
    )


def counts(function: Function, phases: Mapping[Phase, int]) -> answers.FunctionCounts:
    """The ledger's counts of one function; why it waits is the dispatcher's to say."""
    return answers.FunctionCounts(
        name=function.name,
        paused=function.paused,
        queued=phases.get(Phase.QUEUED, 0),
        running=sum(phases.get(phase, 0) for phase in _RUNNING),
        succeeded=phases.get(Phase.SUCCEEDED, 0),
        failed=phases.get(Phase.FAILED, 0),
        dead=phases.get(Phase.DEAD, 0),
        cancelled=phases.get(Phase.CANCELLED, 0),
        superseded=phases.get(Phase.SUPERSEDED, 0),
        skipped=phases.get(Phase.SKIPPED, 0),
        concurrency=function.limits.concurrency,
    )


def function(defined: Function, caller: Caller, phases: Mapping[Phase, int]) -> dict[str, object]:
    """A function as the caller sees it: secrets blank; its own token for its owner, one of his own for others."""
    return {
        "name": defined.name,
        "uid": defined.uid,
        "generation": defined.generation,
        "created_ms": defined.created_ms,
        "updated_ms": defined.updated_ms,
        "start_ms": defined.start_ms,
        "owner": defined.owner,
        "token": defined.token if may_change(caller, defined) else invocation_token(defined, caller.uid),
        "image": defined.image,
        "script": defined.script,
        "inputs": [_storage(entry) for entry in defined.inputs],
        "outputs": [_storage(entry) for entry in defined.outputs],
        "environment": dict(defined.environment),
        "secrets": dict.fromkeys(defined.secrets, ""),
        "limits": defined.limits,
        "retries": defined.retries,
        "deadline_s": defined.deadline_s,
        "definition": defined.definition,
        **msgspec.to_builtins(counts(defined, phases)),
    }


def _storage(entry: StorageIO) -> dict[str, object]:
    return {
        "provider": entry.reference,
        "path": entry.path,
        "prefix": list(entry.prefix),
        "suffix": list(entry.suffix),
    }
