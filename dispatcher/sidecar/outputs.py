"""From the files a script left in TMP_OUTPUT_DIR to objects: walk, filter, check, publish.

Three steps, so that a crash between any two of them is harmless: `prepare` decides everything (which files, where to,
with which checksum) and changes nothing; the caller may keep the plan; `publish` carries it out, looking first
whether the same output of the same invocation is there already. One failed upload stops nothing else, and the result
says what is missing.
"""

# Plain os calls, no Path objects: on the path of every item, where an object costs more than the system call.
# ruff: noqa: PTH116

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dispatcher.sidecar.files import (
    Lineage,
    OutputFile,
    Prepared,
    Published,
    Target,
    Walk,
    is_same,
    metadata,
    output_of,
    printable,
    route,
    sort_out,
    targets_of,
    walk,
)
from penstock.errors import AlreadyExists, NotFound, PenstockError
from penstock.model import ObjectInfo, OutputObject, StorageIO
from penstock.ports import ObjectStore

__all__ = [
    "Lineage",
    "OutputFile",
    "Prepared",
    "Published",
    "Target",
    "Walk",
    "confirm",
    "has_writer",
    "metadata",
    "output_of",
    "prepare",
    "printable",
    "publish",
    "route",
    "walk",
]

#: Up to this size reading and hashing in the event loop costs less than a thread's round trip.
SMALL_BYTES = 64 * 1024
#: Uploads of one item at a time: enough to share disk syncs, few enough to leave other items their turn.
_UPLOADS = 8
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


async def prepare(root: str, outputs: Sequence[StorageIO], *, keep: bool = False) -> Prepared:
    """Decide what goes where. `keep` = files are needed afterwards, so none is moved away."""
    found = walk(root) if _is_small(root) else await asyncio.to_thread(walk, root)
    routed, missing = sort_out(found, outputs, keep=keep)
    targets: list[Target] = []
    for one in routed:
        try:
            targets += targets_of(one, await _examine(one.file))
        except OSError as error:
            missing.append(f"{one.file.name} cannot be read: {error.strerror}")
    return Prepared(targets=tuple(targets), missing=tuple(missing), notes=tuple(found.notes), files=tuple(found.files))


def _is_small(root: str) -> bool:
    """Tell by one look whether a walk can be done in the event loop: no sub-folders and not many entries."""
    try:
        status = os.stat(root)
    except OSError:
        return True
    return status.st_nlink <= 2 and status.st_size <= 4096


async def _examine(file: OutputFile) -> str:
    if file.size <= SMALL_BYTES:
        return _digest(file.path)
    return await asyncio.to_thread(_digest, file.path)


def _digest(path: str) -> str:
    """SHA-256 of a file. Raises OSError."""
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        data = os.read(descriptor, SMALL_BYTES + 1)
        if len(data) <= SMALL_BYTES:
            return hashlib.sha256(data).hexdigest()
        os.lseek(descriptor, 0, os.SEEK_SET)
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    finally:
        os.close(descriptor)


def has_writer(descriptor: int) -> bool:
    """Tell whether any process has the file open for writing: a read lease is refused then. `descriptor` is open for
    reading only. Raises OSError where leases do not work (other owner, network file system).
    """
    # Somebody who opens the file in the instant of the lease makes the kernel signal us; SIGURG is ignored by default.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


async def publish(store: ObjectStore, prepared: Prepared, lineage: Lineage, *, force: bool = False) -> Published:
    """Upload everything; what fails is named in `missing` and stops nothing else."""
    targets = prepared.targets
    if len(targets) == 1:
        answers = [await _put(store, targets[0], lineage, force)]
    else:
        gate = asyncio.Semaphore(_UPLOADS)

        async def bounded(target: Target) -> OutputObject | str:
            async with gate:
                return await _put(store, target, lineage, force)

        answers = list(await asyncio.gather(*map(bounded, targets)))
    outputs = tuple(answer for answer in answers if isinstance(answer, OutputObject))
    missing = tuple(answer for answer in answers if isinstance(answer, str))
    return Published(outputs, prepared.missing + missing)


async def _put(store: ObjectStore, target: Target, lineage: Lineage, force: bool) -> OutputObject | str:
    try:
        if not force:
            there = await _already(store, target, lineage)
            if there is not None:
                return output_of(target, there, written=False)
        info = await _upload(store, target, lineage)
    except (PenstockError, OSError) as error:
        return f"{target.name} was not uploaded to {target.where}: {error}"
    return output_of(target, info, written=True)


async def _upload(store: ObjectStore, target: Target, lineage: Lineage) -> ObjectInfo:
    about = metadata(lineage, target.sha256)
    source = Path(target.path)
    try:
        return await store.publish(source, target.bucket, target.key, metadata=about, consume=target.consume)
    except NotFound:
        if not os.path.lexists(target.path):  # noqa: ASYNC240  (our own local file)
            raise
        # The bucket was deleted since the function was applied; an output bucket is made as it was then.
        with contextlib.suppress(AlreadyExists):
            await store.create_bucket(target.bucket)
        return await store.publish(source, target.bucket, target.key, metadata=about, consume=target.consume)


async def _already(store: ObjectStore, target: Target, lineage: Lineage) -> ObjectInfo | None:
    """The object, when it is this very output of this invocation: written again it would fire the next function
    again.
    """
    try:
        info = await store.head(target.bucket, target.key)
    except NotFound:
        return None
    return info if is_same(info.metadata, lineage, target.sha256) else None


async def confirm(store: ObjectStore, intended: Sequence[OutputObject], lineage: Lineage) -> list[OutputObject]:
    """Which of the outputs that an earlier life intended to write are there: those were written by it."""
    confirmed: list[OutputObject] = []
    for output in intended:
        with contextlib.suppress(NotFound):
            info = await store.head(output.bucket, output.key)
            if is_same(info.metadata, lineage, output.sha256):
                confirmed.append(msgspec.structs.replace(output, etag=info.etag))
    return confirmed
