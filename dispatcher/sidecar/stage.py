"""Brings an item's input into its folder and says, by error class, why it could not.

The object is fetched as exactly the version of the event, so what was replaced or deleted before its turn is found
here, before any user code runs. Folders and files are open to every user id, since scripts may run as anybody.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH101, PTH104, PTH108, PTH116

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

from dispatcher.sidecar import events
from dispatcher.sidecar.events import ItemInput, ObjectRef
from dispatcher.sidecar.staging import MEMORY_BYTES, Staged, StageError, check_hops, decode_file, hops_of, stage_error
from penstock.errors import NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET, BucketEvent, JobItem, JobPlan
from penstock.model.objects import Submission
from penstock.ports import ObjectStore

__all__ = ["MEMORY_BYTES", "StageError", "Staged", "hops_of", "stage"]


async def stage(store: ObjectStore, plan: JobPlan, item: JobItem, folder: str, blank: str = "") -> Staged:
    """Stage into the existing, empty `folder`. `blank` names an empty file that may become the input: making a new one
    costs more. Raises StageError.
    """
    try:
        given, target = await _classify(store, item, folder)
        hops = await _hops(store, item)
        check_hops(hops, plan)
        if plan.file_stage_in:  # OSCAR's spelling: the script reads the object itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            return Staged(given=given, input_path="", hops=hops, staged_ms=_now_ms())
        await _bring(store, given, target, blank)
    except (PenstockError, OSError) as error:
        raise stage_error(error) from error
    return Staged(given=given, input_path=target, hops=hops, staged_ms=_now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _classify(store: ObjectStore, item: JobItem, folder: str) -> tuple[ItemInput, str]:
    trigger = item.trigger
    if isinstance(trigger, Submission) and trigger.body_key is not None:
        return await _classify_large(store, item, trigger, folder)
    given = events.of_item(item)
    return given, f"{folder}/{given.file_name}"


async def _classify_large(store: ObjectStore, item: JobItem, trigger: Submission, folder: str) -> tuple[ItemInput, str]:
    """A body that lies in the store: classified in memory when small, else turned into the file directly."""
    info = await store.head(SYSTEM_BUCKET, trigger.body_key or "")
    if info.size <= MEMORY_BYTES:
        body = b"".join([chunk async for chunk in store.read(SYSTEM_BUCKET, info.key)])
        given = events.of_item(item, body)
        return given, f"{folder}/{given.file_name}"
    name = f"event-file-{item.invocation}"
    target = f"{folder}/{name}"
    await store.fetch(info, Path(target))
    with Path(target).open("rb") as stream:  # noqa: ASYNC230  (our own local file)
        head = stream.read(4096)
    if events.is_plain_file(head, trigger.content_type) is False:
        await asyncio.to_thread(decode_file, target)
    # Too large for a variable, and the file is the event: EVENT is left out.
    return ItemInput(shape=events.Shape.RAW, payload=None, object=None, file_name=name), target


async def _hops(store: ObjectStore, item: JobItem) -> int:
    """Hops of the input. Events found by a listing do not know them; the object's metadata does."""
    trigger = item.trigger
    if not isinstance(trigger, BucketEvent):
        return 0
    if trigger.hops is not None:
        return trigger.hops
    info = await store.head(trigger.bucket, trigger.key, version_id=trigger.version_id)
    return hops_of(info)


async def _bring(store: ObjectStore, given: ItemInput, target: str, blank: str) -> None:
    if given.object is not None:
        if blank:
            with contextlib.suppress(OSError):
                os.rename(blank, target)
        await _fetch(store, given.object, target)
    elif given.payload is not None:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb", buffering=0) as sink:
            sink.write(given.payload)
    if os.stat(target).st_mode & 0o777 != 0o666:
        os.chmod(target, 0o666)  # noqa: S103  (scripts run as any user; the work folder is private)


async def _fetch(store: ObjectStore, wanted: ObjectRef, target: str) -> None:
    info = wanted.info
    if info is None:
        try:
            info = await store.head(wanted.bucket, wanted.key)
        except NotFound:
            if not wanted.raw_key:
                raise
            info = await store.head(wanted.bucket, wanted.raw_key)
    await store.fetch(info, Path(target))
