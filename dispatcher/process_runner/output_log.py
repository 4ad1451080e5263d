"""The output of a script: a plain file that the script writes itself, so that ten megabytes of lines cost us nothing.

Here it is bounded (the oldest part is given back to the disk by punching a hole), read live, asked whether a process
still holds it open (OSCAR's notion of "not finished"), and archived to the platform's own bucket at the item's end.
"""
# Plain os calls, no Path objects: looked at for every item; a Path object costs more than the system call
# ruff: noqa: PTH123

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from dispatcher.process_runner.processes import Family, holds_open, members
from dispatcher.sidecar.logs import LOG_LIMIT, dropped_note, trim
from dispatcher.sidecar.outputs import has_writer
from penstock.errors import NotFound, PenstockError
from penstock.model import SYSTEM_BUCKET
from penstock.ports import ObjectStore

__all__ = ["LOG_LIMIT", "archive", "follow", "held", "trim"]

_CHUNK = 256 * 1024
_POLL_S = 0.1


def held(path: str, family: Family | None) -> tuple[bool, int]:
    """Tell whether a process still has the output open for writing, and its size; -1 = there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False, -1
    try:
        try:
            writing = has_writer(descriptor)
        except OSError:  # no leases on this file system
            writing = family is not None and holds_open(members(family), path)
        return writing, os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


async def archive(
    store: ObjectStore, path: str, key: str, *, size: int, truncated: bool, limit: int
) -> tuple[int, bool]:
    """Keep the output beyond the Job, as `key`. Returns (bytes kept, whether some were dropped). A script that printed
    nothing leaves no object. A log that cannot be kept does not fail the item: it counts as dropped.
    """
    if size < 0:  # an earlier life archived it, or nothing was ever started
        try:
            return (await store.head(SYSTEM_BUCKET, key)).size, truncated
        except NotFound:
            return 0, truncated
    if size == 0:
        return 0, truncated
    try:
        if size > limit or truncated:
            info = await store.write(SYSTEM_BUCKET, key, _tail(path, size, limit))
            return info.size, True
        info = await store.publish(Path(path), SYSTEM_BUCKET, key, consume=True)
    except PenstockError:
        return 0, True
    return info.size, truncated


async def _tail(path: str, size: int, limit: int) -> AsyncIterator[bytes]:
    dropped = max(0, size - limit)
    yield dropped_note(dropped)
    with open(path, "rb", buffering=0) as stream:  # noqa: ASYNC230  (our own local file)
        stream.seek(dropped)
        while chunk := stream.read(_CHUNK):
            yield chunk


async def follow(path: str, offset: int, ended: Callable[[], bool], *, wait: bool) -> AsyncIterator[bytes]:
    """Yield what is in the file from `offset` on; with `wait`, go on until `ended`. The file may not exist yet, and
    may be archived (moved away) while it is being read.
    """
    descriptor = -1
    try:
        while True:
            last = ended()  # asked before reading: what was written before the end is read after it
            if descriptor < 0:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            while descriptor >= 0 and (chunk := _read_at(descriptor, offset)) is not None:
                start, data = chunk
                offset = start + len(data)
                yield data
            if last or not wait:
                return
            await asyncio.sleep(_POLL_S)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _read_at(descriptor: int, offset: int) -> tuple[int, bytes] | None:
    """The next piece and where it starts, past what was dropped; None = nothing more now."""
    size = os.fstat(descriptor).st_size
    if offset >= size:
        return None
    start = offset
    with contextlib.suppress(OSError):  # a file system that knows no holes
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
    data = os.pread(descriptor, _CHUNK, start)
    return (start, data) if data else None
