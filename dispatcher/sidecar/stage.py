"""Brings an item's input into its folder and says, by error class, why it could not.

The object is fetched as exactly the version of the event, so what was replaced or deleted before its turn is found
here, before any user code runs. Folders and files are open to every user id, since scripts may run as anybody.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH101, PTH105, PTH108, PTH116

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from pathlib import Path

import msgspec

from dispatcher.sidecar import events
from dispatcher.sidecar.events import ItemInput, ObjectRef
from penstock.errors import InvalidInput, NotFound, PenstockError, Superseded
from penstock.model import SYSTEM_BUCKET, BucketEvent, ErrorClass, JobItem, JobPlan, ObjectInfo
from penstock.model.job import EXIT_INVALID, EXIT_STAGE_IN
from penstock.model.objects import META_HOPS, Submission
from penstock.ports import ObjectStore

#: Larger bodies are decoded on disk.
MEMORY_BYTES = 8 * 1024 * 1024
_CHUNK = 3 * 1024 * 1024  # a multiple of 3 and 4: base64 groups never straddle chunks


class StageError(PenstockError):
    """The item cannot run. `error` decides who retries, `exit_code` is what OSCAR's users see (None = nothing ran)."""

    code = "stage_in"

    def __init__(self, error: ErrorClass, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.error = error
        self.exit_code = exit_code


class Staged(msgspec.Struct, frozen=True, kw_only=True):
    given: ItemInput
    #: Absolute path of the input file, "" when it was not to be downloaded.
    input_path: str
    #: How many functions the input has passed through.
    hops: int
    staged_ms: int


async def stage(store: ObjectStore, plan: JobPlan, item: JobItem, folder: str) -> Staged:
    """Stage into the existing, empty `folder`. Raises StageError."""
    try:
        given, target = await _classify(store, item, folder)
        hops = await _hops(store, item)
        _check_hops(hops, plan)
        if plan.file_stage_in:  # OSCAR's spelling: the script reads the object itself
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            return Staged(given=given, input_path="", hops=hops, staged_ms=_now_ms())
        await _bring(store, given, target)
    except StageError:
        raise
    except InvalidInput as error:
        raise StageError(ErrorClass.INVALID, error.message, EXIT_INVALID) from error
    except Superseded as error:
        raise StageError(ErrorClass.SUPERSEDED, error.message) from error
    except NotFound as error:
        raise StageError(ErrorClass.GONE, error.message) from error
    except PenstockError as error:
        raise StageError(
            ErrorClass.STAGE_IN, f"the input could not be staged: {error.message}", EXIT_STAGE_IN
        ) from error
    except OSError as error:
        message = f"the input could not be staged: {error.strerror or error}"
        raise StageError(ErrorClass.STAGE_IN, message, EXIT_STAGE_IN) from error
    return Staged(given=given, input_path=target, hops=hops, staged_ms=_now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_hops(hops: int, plan: JobPlan) -> None:
    if hops >= plan.max_hops:
        raise StageError(
            ErrorClass.HOP_LIMIT,
            f"the input has passed through {hops} functions and {plan.function} allows {plan.max_hops} (max_hops): "
            "functions that feed each other in a circle look like this",
        )


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
        await asyncio.to_thread(_decode_file, target)
    # Too large for a variable, and the file is the event: EVENT is left out.
    return ItemInput(shape=events.Shape.RAW, payload=None, object=None, file_name=name), target


def _decode_file(path: str) -> None:
    """Replace a file of base64 text by what it stands for, in constant memory. Raises InvalidInput, OSError."""
    decoded = f"{path}.decoded"
    with Path(path).open("rb") as source, Path(decoded).open("wb") as sink:
        rest = b""
        while chunk := source.read(_CHUNK):
            text = rest + chunk.translate(None, b" \t\r\n")
            whole = len(text) - len(text) % 4
            ready, rest = text[:whole], text[whole:]
            if ready.rstrip(b"=") != ready:  # padding ends the text; only the very last group may have it
                rest = ready + rest + source.read().translate(None, b" \t\r\n")
                ready = b""
            sink.write(_strict(ready))
        sink.write(events.decode_base64(rest))
    os.replace(decoded, path)


def _strict(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return events.decode_base64(text)  # raises the sentence for the user


async def _hops(store: ObjectStore, item: JobItem) -> int:
    """Hops of the input. Events found by a listing do not know them; the object's metadata does."""
    trigger = item.trigger
    if not isinstance(trigger, BucketEvent):
        return 0
    if trigger.hops is not None:
        return trigger.hops
    info = await store.head(trigger.bucket, trigger.key, version_id=trigger.version_id)
    return hops_of(info)


def hops_of(info: ObjectInfo) -> int:
    """0 for objects that no function wrote, and for a value that is no number (anybody can write metadata)."""
    text = info.metadata.get(META_HOPS, "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


async def _bring(store: ObjectStore, given: ItemInput, target: str) -> None:
    if given.object is not None:
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
