"""Functions that were written by hand and given to the cluster with kubectl: are they valid, and what do they lack?

The API server has checked types and ranges. What it cannot check is what the FDL parser checks, so the definition is
put into FDL's words and read by that parser: one set of rules and of sentences, however a function comes. Pure.
"""

from __future__ import annotations

from typing import Any

from penstock.errors import InvalidInput
from penstock.fdl import parse_service
from penstock.model import SYSTEM_BUCKET, BatchMode, Function, StorageIO
from penstock.model.buckets import check_bucket
from penstock.quantity import format_bytes, format_cpu

Json = dict[str, Any]


def service_of(function: Function) -> Json:
    """The function as an FDL service. Secrets are left out: their values do not matter here."""
    resources, limits, scale = function.resources, function.limits, function.synchronous
    optional: Json = {
        "cpu": format_cpu(resources.cpu_millis) if resources.cpu_millis else "",
        "memory": format_bytes(resources.memory_bytes) if resources.memory_bytes else "",
        "enable_gpu": resources.gpu,
        "concurrency": limits.concurrency,
        "rate": limits.rate,
        "priority": limits.priority,
        "weight": limits.weight if limits.weight != 1.0 else None,
        "retries": function.retries,
        "batch": _batch(function),
        "file_stage_in": function.file_stage_in,
        "volume": _volume(function),
        "synchronous": {
            name: count for name, count in (("min_scale", scale.min_scale), ("max_scale", scale.max_scale)) if count
        },
    }
    return {
        "name": function.name,
        "image": function.image,
        "script": function.script,
        "log_level": function.log_level,
        "deadline": function.deadline_s,
        "max_hops": function.max_hops,
        "upload_on_failure": function.upload_on_failure.value,
        "environment": {"variables": dict(function.environment)},
        "input": [_entry(entry) for entry in function.inputs],
        "output": [_entry(entry) for entry in function.outputs],
        **{key: value for key, value in optional.items() if value},
    }


def _entry(entry: StorageIO) -> Json:
    told: Json = {"storage_provider": entry.reference, "path": entry.path}
    return told | {name: list(words) for name, words in (("prefix", entry.prefix), ("suffix", entry.suffix)) if words}


def _batch(function: Function) -> Any:
    batch = function.batch
    if batch.mode is BatchMode.LIST:
        told = {"max_items": batch.max_items, "max_bytes": batch.max_bytes, "linger": batch.linger_s}
        return {key: value for key, value in told.items() if value}
    return batch.mode.value if batch.mode is BatchMode.AUTO else None


def _volume(function: Function) -> Json | None:
    volume = function.volume
    if volume is None:
        return None
    told = {"name": volume.name, "mount_path": volume.mount_path, "size": volume.size}
    if volume.size:
        told["lifecycle_policy"] = volume.lifecycle_policy
    return told


def definition_of(function: Function, *, default_image: str = "") -> Json:
    """The FDL definition that clients get back. Raises InvalidInput with the sentence for what is wrong."""
    for entry in (*function.inputs, *function.outputs):
        if entry.own_store:
            check_bucket(entry.bucket)
        if entry.own_store and entry.bucket == SYSTEM_BUCKET:
            raise InvalidInput(
                f"the bucket {SYSTEM_BUCKET} is the platform's own; use another", where="inputs, outputs"
            )
        if entry.folder != entry.folder.strip("/"):
            raise InvalidInput(f"the folder {entry.folder!r} must have no slash at its ends", where="inputs, outputs")
    draft = parse_service(service_of(function), require_image=not default_image)
    return draft.function.definition


def what_is_wrong(function: Function, *, default_image: str = "") -> str:
    """One sentence, "" = nothing."""
    try:
        definition_of(function, default_image=default_image)
    except InvalidInput as error:
        return error.message
    return ""
