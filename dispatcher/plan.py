"""From records to a Job: one pure function, so that recovery makes the identical plan again."""

from __future__ import annotations

from collections.abc import Sequence

from dispatcher.elsewhere import other_stores
from penstock.identity import job_id, job_name
from penstock.model import Function, JobItem, JobPlan, Record, UploadOnFailure


def make_plan(function: Function, records: Sequence[Record]) -> JobPlan:
    """Return the Job that runs these records' next attempts, in this order."""
    job = job_id((record.id, record.attempt) for record in records)
    return JobPlan(
        name=job_name(function.name, job),
        id=job,
        function=function.name,
        function_uid=function.uid,
        generation=function.generation,
        image=function.image,
        script=function.script,
        items=tuple(_item(function, record) for record in records),
        outputs=function.outputs,
        environment=function.environment,
        secrets=function.secrets,
        token=function.token,
        stores=other_stores(function),
        resources=function.resources,
        volume=function.volume,
        deadline_s=function.deadline_s,
        file_stage_in=function.file_stage_in,
        log_level=function.log_level,
        max_hops=function.max_hops,
        labels={"oscar_service": function.name},
    )


def _item(function: Function, record: Record) -> JobItem:
    last_attempt = record.script_failures >= function.retries
    return JobItem(
        invocation=record.id,
        attempt=record.attempt,
        trigger=record.trigger,
        publish_on_failure=last_attempt and function.upload_on_failure is UploadOnFailure.ALWAYS,
        force=record.force,
    )
